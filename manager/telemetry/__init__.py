"""What readers of a fleet share: the live view, attention, and metrics."""
