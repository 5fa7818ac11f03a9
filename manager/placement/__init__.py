"""The choice of a host for an account, as pure functions."""
