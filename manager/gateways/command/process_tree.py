"""Cheap listing of a process tree, for frequent checks (Linux).

It may miss processes. Code that must find every process, for example to kill it, uses
`manager.gateways.command.program_guard`, which reads the whole process table.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def tree(root: int, without: set[int]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield pid and `stat` fields of `root` and its descendants.

    Skips the processes in `without` and their descendants.
    """
    waiting, listed = [root], _lists_children()
    if not listed:
        waiting += _scan(root, without)
    while waiting:
        pid = waiting.pop()
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                stat = file.read()
        except OSError:
            continue  # the process has ended
        # The name is in parentheses and may itself contain spaces and parentheses.
        yield pid, stat[stat.rindex(b")") + 2 :].split()
        if listed:
            waiting += [child for child in children_of(pid) if child not in without]


@cache
def _lists_children() -> bool:
    """Return whether the kernel lists the children of processes.

    That is the kernel's option CONFIG_PROC_CHILDREN.
    """
    return Path("/proc/thread-self/children").exists()


def _scan(root: int, without: set[int]) -> list[int]:
    """Return the descendants of `root` by reading the whole process table."""
    if sys.platform == "linux":
        from manager.gateways.command.program_guard import descendants

        return descendants(root, without)
    return []


def children_of(pid: int) -> list[int]:
    """Return the children of a process, including zombies.

    The list may miss a child that is created at the same time.
    """
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - only the names are needed
            with (
                contextlib.suppress(OSError, ValueError),
                open(f"/proc/{pid}/task/{task}/children", "rb") as file,  # noqa: PTH123
            ):
                found += map(int, file.read().split())
    return found
