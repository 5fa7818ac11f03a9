"""Sets the title that `ps` shows instead of the command line (Linux)."""

import ctypes
import sys
from pathlib import Path
from typing import Final

#: Extra argument of a process whose title will be set: the title overwrites the arguments.
ROOM: Final = "-" * 96


def set_title(title: str) -> bool:
    """Show `title` as this process's command line.

    Return False if that is not possible. The kernel shows text up to its first zero byte if the last byte of
    the arguments' memory is not zero. Nothing beyond that memory is written.
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
