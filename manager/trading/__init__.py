"""Strategies and what they need: cycles over a gateway.

Nothing here knows of sessions, hosts or Redis.
"""
