"""The processes below one, cheaply: for figures and looks that are repeated every few seconds (Linux).

What must find every process, as before one is killed, uses `manager.gateways.command.program_guard`, which reads all.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def tree(root: int, without: set[int]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield pid and `stat` (after the name) of `root` and what is below it, but for `without` and below."""
    waiting, listed = [root], _lists_children()
    if not listed:
        waiting += _scan(root, without)
    while waiting:
        pid = waiting.pop()
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                stat = file.read()
        except OSError:
            continue  # it has ended meanwhile
        # The name, in parentheses, may itself hold spaces and parentheses.
        yield pid, stat[stat.rindex(b")") + 2 :].split()
        if listed:
            waiting += [child for child in children_of(pid) if child not in without]


@cache
def _lists_children() -> bool:
    """Say whether this kernel keeps a list of each process's children (CONFIG_PROC_CHILDREN)."""
    return Path("/proc/thread-self/children").exists()


def _scan(root: int, without: set[int]) -> list[int]:
    """Return what is below `root` by a look at all processes."""
    if sys.platform == "linux":
        from manager.gateways.command.program_guard import descendants

        return descendants(root, without)
    return []


def children_of(pid: int) -> list[int]:
    """Return the children of a process, zombies too, by the kernel's own list of them.

    The list may miss a child that is made meanwhile: it is for figures, not for what must find every process.
    """
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - a name is all that is needed
            with (
                contextlib.suppress(OSError, ValueError),
                open(f"/proc/{pid}/task/{task}/children", "rb") as file,  # noqa: PTH123
            ):
                found += map(int, file.read().split())
    return found
