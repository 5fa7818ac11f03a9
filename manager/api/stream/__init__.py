"""Streams: what changes in the fleet, pushed to WebSocket and SSE clients, resumable without loss or
repetition.
"""
