"""The identity of this process in desired state and the audit trail."""

import getpass
import socket


def caller() -> str:
    """Return `user@machine` of this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "?"
    return f"{user}@{socket.gethostname()}"
