"""The guard process, which starts and owns a worker's program.

A worker runs it as a script in an isolated interpreter: `python -I -S program_guard.py FD ACCOUNT`. It
imports only the standard library, so that it is small and contains no secrets.

The guard is a child subreaper (Linux, PR_SET_CHILD_SUBREAPER): a process whose parent ends becomes a child
of the guard. Double forks, new sessions, an empty environment or another process title change nothing:
every descendant stays below the guard. If the guard has no child, no process of the program is left. When the
worker ends in any way, the guard reads the end of its channel and kills all descendants.

The channel carries one JSON object per line. Requests: `start`, `signal`, `kill`. Events: `started`,
`failed`, `exited` (the program itself), `empty` (the program and its descendants have ended; the guard
exits).
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Collection, Iterator
from typing import Any, Final, NoReturn

assert sys.platform != "win32", (
    "Windows has job objects for this: see manager/gateways/command/windows_job.py"
)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
#: Seconds between two passes over processes that do not end.
_PASS_SECONDS: Final = 0.05
#: Soft limit of open files for a program: the default of most systems. The agent raises its own limit, but
#: programs that use select() fail with a higher one.
_PROGRAM_FILES: Final = 1024

#: Signals for the worker or the program, or for a whole terminal. The guard ends only after the program.
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
_KILL: Final = int(signal.SIGKILL)


def become_subreaper() -> None:
    """Make this process the new parent of descendants whose parent ends.

    Linux only; raises OSError.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int, without: Collection[int] = ()) -> list[int]:
    """Return the pids of all live processes below `root`.

    Skips the processes in `without` and their descendants.
    """
    return list(states_below(root, without))


def states_below(root: int, without: Collection[int] = ()) -> dict[int, str]:
    """Return pid → state of all live processes below `root`.

    States as in proc(5): `R`, `S`, `D`, `T`, …
    """
    children: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        # A process that has ended. Other errors, such as a lack of file descriptors, must not hide a process.
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError, ValueError),
            open(f"/proc/{entry.name}/stat", "rb") as file,  # noqa: PTH123
        ):
            stat = file.read()
            # The name is in parentheses and may itself contain spaces and parentheses.
            state, parent = stat[stat.rindex(b")") + 2 :].split(maxsplit=2)[:2]
            # A zombie has no children: the subreaper is already their parent.
            if state not in (b"Z", b"X"):
                children.setdefault(int(parent), []).append(int(entry.name))
                states[int(entry.name)] = state.decode()
    found: dict[int, str] = {}
    waiting = [root]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            if pid not in without:
                found[pid] = states[pid]
                waiting.append(pid)
    return found


def kill_descendants(root: int) -> int:
    """Send SIGKILL to all processes below `root`; returns their number."""
    found = descendants(root)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, _KILL)
    return len(found)


def kill_cgroup(directory: str) -> None:
    """Kill all processes of a control group at once (Linux 5.14).

    Does nothing on older kernels.
    """
    with contextlib.suppress(OSError), open(f"{directory}/cgroup.kill", "w") as file:  # noqa: PTH123
        file.write("1")


def remove_cgroup(directory: str) -> None:
    """Remove an empty control group and the groups below it. Raises nothing."""
    for path, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)  # noqa: PTH106


class _Guard:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._received = b""
        self._program = 0
        self._reported = False
        self._killing = False
        self._cgroup: str | None = None
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        # Set before the program exists, because its end must wake this process.
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        while True:
            if self._program and self._reap():
                self._send({"event": "empty"})
                if self._cgroup:
                    remove_cgroup(self._cgroup)
                return
            if self._killing:
                self._kill()
            for request in self._requests(_PASS_SECONDS if self._killing else None):
                self._handle(request)
            if not self._program and self._killing:
                return  # no program was started

    def _requests(self, timeout: float | None) -> Iterator[dict[str, Any]]:
        watched: list[Any] = [self._wake_read]
        if self._channel.fileno() >= 0:
            watched.append(self._channel)
        readable, _, _ = select.select(watched, [], [], timeout)
        if self._wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if self._channel not in readable:
            return
        try:
            data = self._channel.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            # The worker has ended: its program must not continue.
            self._channel.close()
            self._killing = True
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            yield json.loads(line)

    def _handle(self, request: dict[str, Any]) -> None:
        if request["op"] == "start":
            self._start(request)
        elif request["op"] == "signal":
            # A stopped process handles a signal only after it is continued.
            for number in (request["number"], int(signal.SIGCONT)):
                try:
                    program = descendants(os.getpid())
                except OSError:  # no file descriptor left: signal at least the program itself
                    program = [self._program] if self._program else []
                for pid in program:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
        else:
            self._killing = True

    def _start(self, request: dict[str, Any]) -> None:
        self._cgroup = request["cgroup"]
        reading, writing = os.pipe()  # closed by a successful exec
        guard = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _become_program(request, guard, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as outcome:
            failure = outcome.read()
        if failure:
            os.waitpid(pid, 0)
            self._send({"event": "failed", **json.loads(failure)})
            self._killing = True
            return
        self._program = pid
        # The guard closes the output, so that it is open only while a process of the program has it.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (1, 2):
            os.dup2(null, standard)
        os.close(null)
        self._send({"event": "started", "pid": pid})

    def _reap(self) -> bool:
        """Collect ended children.

        Returns whether no child, and so no descendant, is left.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._program and not self._reported:
                self._reported = True
                self._send({"event": "exited", "code": os.waitstatus_to_exitcode(status)})

    def _kill(self) -> None:
        if self._cgroup:
            kill_cgroup(self._cgroup)
        with contextlib.suppress(OSError):  # no file descriptor left: the next pass retries
            kill_descendants(os.getpid())

    def _send(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._channel.sendall(json.dumps(event).encode() + b"\n")


def _become_program(request: dict[str, Any], guard: int, outcome: int) -> NoReturn:
    """Reset the manager's process attributes and execute the program."""
    try:
        os.setsid()
        _end_with(guard)
        if request["keep_user"]:
            # The guard could not kill a descendant of another user.
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _reset_limits(request["core_limit"], request["open_files"])
        _reset_privileges()
        os.umask(request["umask"])
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if request["cgroup"]:
            # If this fails, the guard alone owns the program.
            with contextlib.suppress(OSError), open(f"{request['cgroup']}/cgroup.procs", "w") as file:  # noqa: PTH123
                file.write("0")
        if request["user"]:
            _become_user(*request["user"])
            # The kernel clears the parent-death signal when a process changes its user.
            _end_with(guard)
        if request["directory"]:
            # Created and entered as the program's user, without the privileges of the guard.
            if request["make_directory"]:
                os.makedirs(request["directory"], 0o700, exist_ok=True)  # noqa: PTH103
            os.chdir(request["directory"])
        os.execve(request["argv"][0], request["argv"], request["environment"])  # noqa: S606
    except OSError as error:
        failure = {"errno": error.errno, "text": error.strerror, "file": error.filename}
        os.write(outcome, json.dumps(failure).encode())
    except BaseException as error:
        os.write(outcome, json.dumps({"errno": 0, "text": str(error), "file": None}).encode())
    finally:
        os._exit(1)


def _end_with(guard: int) -> None:
    """Make the kernel kill this process when its guard ends."""
    _prctl(_PR_SET_PDEATHSIG, _KILL)
    if os.getppid() != guard:
        os._exit(1)


def _become_user(uid: int, gid: int, groups: list[int]) -> None:
    """Change user and groups permanently."""
    with contextlib.suppress(OSError):
        os.fchown(1, uid, -1)  # opening /dev/stdout opens the pipe again, which checks its owner
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _reset_limits(core: int | None, files: int | None) -> None:
    """Reset the manager's limits of open files and core files; `files` replaces the usual number."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files is not None:
        target = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    elif soft > _PROGRAM_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_PROGRAM_FILES, hard))
    if core is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (core, hard))


def _reset_privileges() -> None:
    """Reset privileges over other processes that the agent may have.

    Limits and a lower priority stay.

    The agent may be protected from the out-of-memory killer; a bot that leaks memory must not be.
    """
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as score:  # noqa: PTH123
        if int(score.read()) < 0:
            score.seek(0)
            score.write("0")
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    become_subreaper()
    _Guard(channel).run()
    os._exit(0)  # no cleanup, because the worker waits for this exit


if __name__ == "__main__":
    main()
