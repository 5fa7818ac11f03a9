"""What `ps` shows of a process: a title in place of the command line (Linux)."""

import ctypes
import sys
from pathlib import Path
from typing import Final

#: An argument that a process is started with whose title is to be set: the title is written over the arguments.
ROOM: Final = "-" * 96


def set_title(title: str) -> bool:
    """Show `title` as this process's command line; False if this system has no way, or no room for it.

    The kernel shows text up to its first zero byte if the last byte of the arguments' memory is not zero. Nothing beyond
    that memory is written.
    """
    if sys.platform != "linux":
        return False
    try:
        stat = Path("/proc/self/stat").read_bytes()
        # The name, in parentheses, may itself hold spaces and parentheses.
        fields = stat[stat.rindex(b")") + 2 :].split()
        start, end = int(fields[45]), int(fields[46])
    except (OSError, ValueError, IndexError):
        return False
    text = title.encode(errors="replace")
    if start == 0 or end - start < 16:
        return False
    room = end - start
    text = text[: room - 2]
    ctypes.memmove(start, text + b"\0" * (room - 1 - len(text)) + b".", room)
    return True
