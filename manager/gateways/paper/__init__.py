"""The paper gateway, for sessions at the paper venue."""
