"""A small disk (a tmpfs) that a test can fill and make read-only."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


@cache
def rejection() -> str | None:
    """Return why this machine cannot mount such a disk; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting a small disk needs Linux and root"
    with TemporaryDirectory(prefix="wm-") as directory:
        mounted = _mount(Path(directory), "size=64k")
        if mounted.returncode != 0:
            return f"no small disk can be mounted here: {mounted.stderr.strip()}"
        subprocess.run(["umount", directory], check=True)
    return None


class SmallDisk:
    """A mounted disk of a few megabytes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._filler = root / "filler"

    def fill(self) -> None:
        """Use up all free space, as another program's log would."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                return

    def free(self) -> None:
        self._filler.unlink()

    def read_only(self) -> None:
        """Make it read-only, as after a disk error.

        No file may be open for writing.
        """
        subprocess.run(["mount", "-o", "remount,ro", self.root], check=True)

    def writable(self) -> None:
        subprocess.run(["mount", "-o", "remount,rw", self.root], check=True)


@contextmanager
def small_disk(root: Path, megabytes: int = 16) -> Iterator[SmallDisk]:
    """Mount a disk at `root`, and unmount it at the end."""
    root.mkdir(exist_ok=True)
    mounted = _mount(root, f"size={megabytes}m")
    assert mounted.returncode == 0, mounted.stderr
    try:
        yield SmallDisk(root)
    finally:
        # A lazy unmount, because a failed test may have left files open.
        subprocess.run(["umount", "--lazy", root], check=True)


def _mount(root: Path, options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", root], capture_output=True, text=True, check=False
    )
