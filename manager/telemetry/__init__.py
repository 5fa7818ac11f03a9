"""The live view of a fleet, attention items, and metrics."""
