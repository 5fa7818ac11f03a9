"""Operating-system processes: who one is, whether it still is, and how to end it. A leaf.

A process is known by its pid and its start time together. A pid alone is never enough: it is given to somebody else
soon after its owner died, and to end that one would end what is not ours.
"""

import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import psutil

from manager.system.spare_files import close_file, is_shortage, reserve_files, with_spare

#: How often a process without a pidfd is asked whether it has ended, in seconds.
_POLL_SECONDS: Final = 0.02
#: The environment variable in which agent, fork server and worker pass the ordinary limit of core files on.
CORE_LIMIT: Final = "MANAGER_CORE_LIMIT"
_KILL: Final = int(getattr(signal, "SIGKILL", signal.SIGTERM))


@cache
def _boot_id() -> str:
    # Start times on Linux count from the boot: without the boot's id, a pid of the last boot could match by chance.
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> str | None:
    """Return a text that no other process with this pid will ever have, or None if there is no such process."""
    if sys.platform == "linux":
        try:
            stat = with_spare(lambda: Path(f"/proc/{pid}/stat").read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name, in parentheses, may itself hold spaces and parentheses.
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            return None
        return f"{_boot_id()}:{int(fields[19])}"
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.3f}"
    except psutil.NoSuchProcess:
        return None


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process that lives or lived, by pid and start time."""

    pid: int
    start_time: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the process that has `pid` now; None if none has, or if it is a zombie."""
        start_time = _start_time(pid)
        return None if start_time is None else cls(pid, start_time)

    @classmethod
    def me(cls) -> Self:
        ref = cls.of(os.getpid())
        if ref is None:
            raise RuntimeError("this process has no entry of its own in the process table")
        return ref

    @classmethod
    def from_dict(cls, data: object) -> Self | None:
        """Read what `to_dict` wrote; None if it is anything else (a foreign or damaged file)."""
        if not isinstance(data, dict):
            return None
        pid, start_time = data.get("pid"), data.get("start_time")
        if isinstance(pid, int) and not isinstance(pid, bool) and pid > 1 and isinstance(start_time, str):
            return cls(pid, start_time)
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"pid": self.pid, "start_time": self.start_time}

    def alive(self) -> bool:
        """Say whether this very process still runs. A zombie does not."""
        return _start_time(self.pid) == self.start_time

    def signal(self, number: int) -> bool:
        """Send a signal to this very process; False if it has ended. On Windows every signal ends it."""
        if hasattr(signal, "pidfd_send_signal"):
            try:
                fd = self.open_pidfd()
            except OSError as error:
                # Its start time needs one file and only for a moment; between the look and the kill lie microseconds.
                if not is_shortage(error):
                    raise
                return self._kill_by_pid(number)
            if fd is None:
                return False
            try:
                signal.pidfd_send_signal(fd, number)
            except ProcessLookupError:
                return False
            finally:
                close_file(fd)
            return True
        return self._kill_by_pid(number)

    def _kill_by_pid(self, number: int) -> bool:
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def kill(self) -> bool:
        """End it at once; False if it has ended already."""
        return self.signal(_KILL)

    def open_pidfd(self) -> int | None:
        """Return a pidfd of this very process (Linux), or None if it has ended. The caller closes it."""
        if sys.platform != "linux":
            raise NotImplementedError("pidfd is of Linux")
        try:
            fd = with_spare(lambda: os.pidfd_open(self.pid))
        except ProcessLookupError:
            return None
        # Between reading the record and opening the pidfd the pid may have gone to somebody else.
        try:
            alive = self.alive()
        except BaseException:
            close_file(fd)  # as when no further file may be opened: a leak would make that permanent
            raise
        if not alive:
            close_file(fd)
            return None
        return fd

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended, `timeout` seconds at most; True if it has. Needs no parenthood."""
        deadline = time.monotonic() + timeout
        if sys.platform == "linux":
            try:
                fd = self.open_pidfd()
            except OSError as error:
                if not is_shortage(error):
                    raise
            else:
                if fd is None:
                    return True
                try:
                    poll = select.poll()
                    poll.register(fd, select.POLLIN)
                    return bool(poll.poll(max(0.0, timeout) * 1000))
                finally:
                    close_file(fd)
        while self.alive():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(_POLL_SECONDS, left))
        return True


def raise_file_limit() -> None:
    """Allow this process as many open files as the system grants it, and keep a few in reserve for ending processes.

    The usual 1,024 end at a thousand workers.
    """
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = hard if hard != resource.RLIM_INFINITY else 1_048_576
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        reserve_files()


def prevent_core_dumps() -> None:
    """Keep this process and its children from leaving a core file, which would hold every secret in their memory.

    Only the soft limit is lowered, so that a program of an account can be given back what `ordinary_core_limit` says.
    """
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        os.environ.setdefault(CORE_LIMIT, str(soft))
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def ordinary_core_limit() -> int | None:
    """Return the soft limit of core files that this process had before `prevent_core_dumps`; None if that is not known.

    It is passed on in the environment: a worker is the child of a process that lowered it already.
    """
    try:
        return int(os.environ[CORE_LIMIT])
    except (KeyError, ValueError):
        return None
