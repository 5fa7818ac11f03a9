"""The HTTP API (`manager api`)."""
