"""The guard of one worker's program: it starts the program and owns every process that the program starts.

A worker runs it as a script in an isolated interpreter: `python -I -S program_guard.py FD ACCOUNT`. It imports the standard
library alone, so that it is small and holds no secret.

The guard is a child subreaper (Linux, PR_SET_CHILD_SUBREAPER): a process whose parent ends becomes a child of the guard.
Double forks, new sessions, an emptied environment and another process title therefore change nothing: every
descendant stays below the guard, and "the guard has no child" proves that nothing is left. When the worker ends, however
it ends, the guard reads the end of its channel and kills them all.

The channel carries one JSON object a line. Requests: `start`, `signal`, `kill`. Events: `started`, `failed`, `exited`
(the program itself), `empty` (the program and all that it started have ended; the guard exits).
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
#: Seconds between two passes over the processes while some of them resist.
_PASS_SECONDS: Final = 0.05
#: Soft limit of open files for a program: what systems give by default. The agent raises its own, and programs that use
#: select() fail with more.
_PROGRAM_FILES: Final = 1024

#: Meant for the worker or the program, or sent to a whole terminal; the guard ends when nothing is left to guard.
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
_KILL: Final = int(signal.SIGKILL)


def become_subreaper() -> None:
    """Make this process the parent of every descendant whose parent ends. Linux only; raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int, without: Collection[int] = ()) -> list[int]:
    """Return the pids of every living process below `root`, but for those in `without` and what is below them."""
    return list(states_below(root, without))


def states_below(root: int, without: Collection[int] = ()) -> dict[int, str]:
    """Return the state of every living process below `root`, by pid, as proc(5) names it: `R`, `S`, `D`, `T`, …"""
    children: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        # One that has ended meanwhile. No other error, as a shortage of files, may be taken for "not there".
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError, ValueError),
            open(f"/proc/{entry.name}/stat", "rb") as file,  # noqa: PTH123
        ):
            stat = file.read()
            # The name, in parentheses, may itself hold spaces and parentheses.
            state, parent = stat[stat.rindex(b")") + 2 :].split(maxsplit=2)[:2]
            # A zombie has no children: they have gone to the subreaper already.
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
    """Send SIGKILL to everything below `root`; returns how many processes were found."""
    found = descendants(root)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, _KILL)
    return len(found)


def kill_cgroup(directory: str) -> None:
    """Kill every process of a control group at once (`cgroup.kill`, Linux 5.14); does nothing where that is missing."""
    with contextlib.suppress(OSError), open(f"{directory}/cgroup.kill", "w") as file:  # noqa: PTH123
        file.write("1")


def remove_cgroup(directory: str) -> None:
    """Remove an empty control group with the groups below it. Raises nothing."""
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
        # Before the program exists: its end must wake this process.
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        while True:
            if self._program and self._reap():
                self._tell({"event": "empty"})
                if self._cgroup:
                    remove_cgroup(self._cgroup)
                return
            if self._killing:
                self._kill()
            for request in self._requests(_PASS_SECONDS if self._killing else None):
                self._handle(request)
            if not self._program and self._killing:
                return  # nothing was ever started

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
            # The worker has ended: nothing that it started may go on.
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
            # A stopped process takes a signal only once it is continued.
            for number in (request["number"], int(signal.SIGCONT)):
                try:
                    program = descendants(os.getpid())
                except OSError:  # a shortage of files: at least the process that was started
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
            self._tell({"event": "failed", **json.loads(failure)})
            self._killing = True
            return
        self._program = pid
        # The output is open for as long as a process of the program has it, and not for as long as its guard lives.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (1, 2):
            os.dup2(null, standard)
        os.close(null)
        self._tell({"event": "started", "pid": pid})

    def _reap(self) -> bool:
        """Collect every child that has ended; True if there is none left, which no living descendant survives."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._program and not self._reported:
                self._reported = True
                self._tell({"event": "exited", "code": os.waitstatus_to_exitcode(status)})

    def _kill(self) -> None:
        if self._cgroup:
            kill_cgroup(self._cgroup)
        with contextlib.suppress(OSError):  # a shortage of files: the next pass tries again
            kill_descendants(os.getpid())

    def _tell(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._channel.sendall(json.dumps(event).encode() + b"\n")


def _become_program(request: dict[str, Any], guard: int, outcome: int) -> NoReturn:
    """Become the program: nothing that the manager or its parents changed for themselves may leak into it."""
    try:
        os.setsid()
        _end_with(guard)
        if request["keep_user"]:
            # A descendant of another user could not be killed by us.
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _reset_limits(request["core_limit"])
        _reset_privileges()
        os.umask(request["umask"])
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if request["cgroup"]:
            # Without it the guard alone owns the program.
            with contextlib.suppress(OSError), open(f"{request['cgroup']}/cgroup.procs", "w") as file:  # noqa: PTH123
                file.write("0")
        if request["user"]:
            _become_user(*request["user"])
            # The kernel forgets the parent-death signal when a process changes its user.
            _end_with(guard)
        if request["directory"]:
            # Made and entered as the program's own user: what that user may not do, nothing does for it.
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
    """Have the kernel end this process with its guard."""
    _prctl(_PR_SET_PDEATHSIG, _KILL)
    if os.getppid() != guard:
        os._exit(1)


def _become_user(uid: int, gid: int, groups: list[int]) -> None:
    """Give up this user and its groups for good."""
    with contextlib.suppress(OSError):
        os.fchown(1, uid, -1)  # a program that opens /dev/stdout opens the pipe again
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _reset_limits(core: int | None) -> None:
    """Take back what the manager changed for its own processes: more open files, and no core files."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft > _PROGRAM_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_PROGRAM_FILES, hard))
    if core is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (core, hard))


def _reset_privileges() -> None:
    """Give up what the agent may have been given over other processes; its limits and a lower priority stay.

    A bot that leaks memory must not be protected from the system's out-of-memory killer because its agent is.
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
    os._exit(0)  # the worker waits for this end: nothing needs to be torn down


if __name__ == "__main__":
    main()
