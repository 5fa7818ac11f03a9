"""Who asks, for the desired state and the audit trail. A leaf."""

import getpass
import socket


def caller() -> str:
    """Return the user and the machine of this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "?"
    return f"{user}@{socket.gethostname()}"
