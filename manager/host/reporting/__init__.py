"""What a host agent reports to Redis."""
