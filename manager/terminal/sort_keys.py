"""Sort orders of `manager ps`, apart from the list so that the command line loads nothing else for them."""

from typing import Final

#: Numbers sort largest first; `attention` puts trouble first.
SORTS: Final = (
    "account",
    "attention",
    "state",
    "host",
    "uptime",
    "restarts",
    "cpu",
    "memory",
    "procs",
    "equity",
)
