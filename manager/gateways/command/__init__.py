"""The command gateway, which runs any program as a session."""
