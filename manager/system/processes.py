"""Operating-system processes: identity, liveness and signals. A leaf.

A process is identified by pid and start time. A pid alone is not sufficient: the system reuses it soon after
the process died, and a signal would then reach an unrelated process.
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

#: Interval in seconds for polling a process without a pidfd.
_POLL_SECONDS: Final = 0.02
#: Environment variable in which agent, fork server and worker pass on the original limit of core files.
CORE_LIMIT: Final = "MANAGER_CORE_LIMIT"
_KILL: Final = int(getattr(signal, "SIGKILL", signal.SIGTERM))


@cache
def _boot_id() -> str:
    # Linux counts start times from the boot: without the boot id, a pid of an earlier boot could match by
    # chance.
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> str | None:
    """Return a text unique to the process with this pid; None if none."""
    if sys.platform == "linux":
        try:
            stat = with_spare(lambda: Path(f"/proc/{pid}/stat").read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name, in parentheses, may itself contain spaces and parentheses.
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
    """A process, live or ended, identified by pid and start time."""

    pid: int
    start_time: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the process that has `pid` now.

        None if there is none or it is a zombie.
        """
        start_time = _start_time(pid)
        return None if start_time is None else cls(pid, start_time)

    @classmethod
    def me(cls) -> Self:
        ref = cls.of(os.getpid())
        if ref is None:
            raise RuntimeError("this process is not in the process table")
        return ref

    @classmethod
    def from_dict(cls, data: object) -> Self | None:
        """Read the output of `to_dict`.

        None if `data` is anything else, such as a damaged file.
        """
        if not isinstance(data, dict):
            return None
        pid, start_time = data.get("pid"), data.get("start_time")
        if isinstance(pid, int) and not isinstance(pid, bool) and pid > 1 and isinstance(start_time, str):
            return cls(pid, start_time)
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"pid": self.pid, "start_time": self.start_time}

    def alive(self) -> bool:
        """Return whether this process runs. A zombie does not."""
        return _start_time(self.pid) == self.start_time

    def signal(self, number: int) -> bool:
        """Send a signal to this process; return False if it has ended.

        On Windows every signal ends the process.
        """
        if hasattr(signal, "pidfd_send_signal"):
            try:
                fd = self.open_pidfd()
            except OSError as error:
                # Checking the start time needs one file only briefly; it precedes the kill by microseconds.
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
        """Kill this process; return False if it has already ended."""
        return self.signal(_KILL)

    def open_pidfd(self) -> int | None:
        """Return a pidfd of this process (Linux), which the caller closes.

        None if it has ended.
        """
        if sys.platform != "linux":
            raise NotImplementedError("pidfds exist on Linux only")
        try:
            fd = with_spare(lambda: os.pidfd_open(self.pid))
        except ProcessLookupError:
            return None
        # Another process may have got the pid before the pidfd was opened.
        try:
            alive = self.alive()
        except BaseException:
            close_file(fd)  # the error may be a shortage of files, which a leak would make permanent
            raise
        if not alive:
            close_file(fd)
            return None
        return fd

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until the process has ended.

        Return whether it has. It need not be a child of this process.
        """
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
    """Raise the limit of open files, and reserve a few for ending processes.

    The usual limit of 1,024 is reached with a thousand workers.
    """
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        target = hard if hard != resource.RLIM_INFINITY else 1_048_576
        if soft < target:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        reserve_files()


def prevent_core_dumps() -> None:
    """Prevent core files, which would contain every secret in memory.

    It lowers the soft limit only, so that an account's program can get `ordinary_core_limit` back.
    """
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        os.environ.setdefault(CORE_LIMIT, str(soft))
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def ordinary_core_limit() -> int | None:
    """Return the soft limit of core files before `prevent_core_dumps`.

    None if unknown. It is passed on in the environment, because a worker's parent has already lowered the
    limit.
    """
    try:
        return int(os.environ[CORE_LIMIT])
    except (KeyError, ValueError):
        return None
