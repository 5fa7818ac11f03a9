"""Streams of changes of the fleet, for WebSocket and SSE clients.

A client that reconnects continues without loss or repetition.
"""
