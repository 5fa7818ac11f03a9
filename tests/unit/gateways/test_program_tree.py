"""Processes that leave their parent in any way do not outlive the worker, or hold its account."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.programs import last_line
from support.waiting import eventually

from manager.config.models import ReadyConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.base import ForcedEnd
from manager.gateways.command import cgroups
from manager.gateways.command.gateway import CommandGateway
from manager.gateways.command.program import marked
from manager.host.workers.orphans import end_orphans
from manager.host.workers.records import WorkerRecord, private_dir
from manager.models import utc_now
from manager.system.processes import ProcessRef

if sys.platform != "linux":
    pytest.skip("child subreapers and control groups are of Linux", allow_module_level=True)
assert sys.platform == "linux", "what follows is not type-checked for other platforms"

#: Drops its mark (empty environment), its session and its parent (double fork), and ignores stop signals.
ESCAPE = """
import os, signal, sys, time
sys.stdout.flush()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.execve(sys.executable, [sys.executable, "-c",
            "import os, time; open('escaped', 'w').write(str(os.getpid())); time.sleep(600)"], {})
    os._exit(0)
os.wait()
while not os.path.exists("escaped"):
    time.sleep(0.01)
"""
STAYS = ESCAPE + "print('ready', flush=True)\nwhile True: time.sleep(60)\n"
#: The program itself ends once its daemon runs.
LEAVES = ESCAPE + "print('ready', flush=True)\ntime.sleep(0.2)\n"

#: A minimal worker process that reports when its program is ready, and waits.
WORKER = """
import sys, time
from pathlib import Path
from manager.config.models import ReadyConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.command import cgroups
from manager.gateways.base import ForcedEnd
from manager.gateways.command.gateway import CommandGateway
if sys.argv[4] == "no cgroup":
    cgroups._own_cgroup = lambda: None
gateway = CommandGateway(GatewayOptions(account_id="a", worker_id=sys.argv[1], private_dir=Path(sys.argv[2]),
    directory=Path.cwd(), command=(sys.executable, "-u", "-c", sys.argv[3]), ready=ReadyConfig(line="ready"),
    stop=StopConfig(deadline_seconds=0.3)))
gateway.connect(time.monotonic() + 20)
print("connected", flush=True)
time.sleep(600)
"""


@pytest.fixture(params=["cgroup", "no cgroup"])
def ownership(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With a control group, if this machine permits it, and with only the guard."""
    kind = str(request.param)
    if kind == "no cgroup":
        monkeypatch.setattr(cgroups, "_own_cgroup", lambda: None)
    return kind


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., CommandGateway]]:
    made: list[CommandGateway] = []

    def maker(script: str, **changes: Any) -> CommandGateway:
        data: dict[str, Any] = {
            "account_id": "a",
            "worker_id": f"w-tree-{os.getpid()}-{len(made)}",
            "private_dir": tmp_path / "private",
            "directory": tmp_path,
            "command": (sys.executable, "-u", "-c", script),
            "ready": ReadyConfig(line="ready"),
            "stop": StopConfig(deadline_seconds=0.3),
        }
        made.append(CommandGateway(GatewayOptions(**{**data, **changes})))
        return made[-1]

    yield maker
    for gateway in made:
        with contextlib.suppress(ForcedEnd):
            gateway.disconnect()


Make = Callable[..., CommandGateway]


def escaped(directory: Path) -> ProcessRef:
    eventually(lambda: (directory / "escaped").exists() and (directory / "escaped").read_text() != "")
    found = ProcessRef.of(int((directory / "escaped").read_text()))
    assert found is not None
    return found


def soon() -> float:
    return time.monotonic() + 20


@pytest.mark.parametrize("script", [STAYS, LEAVES], ids=["stays", "leaves"])
def test_a_stop_ends_a_daemon_that_lost_mark_session_and_parent(
    make: Make, tmp_path: Path, ownership: str, script: str
) -> None:
    gateway = make(script)
    gateway.connect(soon())
    daemon = escaped(tmp_path)
    assert marked(gateway._options.worker_id)[1] in ([], [gateway._program and gateway._program.pid])
    with pytest.raises(ForcedEnd):
        gateway.disconnect()
    assert not daemon.alive()


@pytest.fixture
def worker(tmp_path: Path, ownership: str) -> Iterator["Worker"]:
    process = Worker(tmp_path, ownership)
    yield process
    process.end()


class Worker:
    """A worker process whose program has an escaped daemon."""

    def __init__(self, directory: Path, ownership: str) -> None:
        self.worker_id = f"w-tree-{os.getpid()}-own"
        self.record = WorkerRecord(
            worker_id=self.worker_id,
            account_id="a",
            claims=(),
            epoch=0,
            lease_seconds=0,
            generation=0,
            process=ProcessRef.me(),
            control_address="",
            control_token="",
            beat_file=directory / f"{self.worker_id}.beat",
            gateway="command",
            config_version="",
            software_version="",
            stop_timeout_seconds=1,
            hang_after_seconds=1,
            created_at=utc_now(),
        )
        private = private_dir(self.record.beat_file)
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, self.worker_id, str(private), STAYS, ownership],
            stdout=subprocess.PIPE,
            cwd=directory,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"connected\n"
        self.daemon = escaped(directory)
        (guard,), _ = marked(self.worker_id)
        found = ProcessRef.of(guard)
        assert found is not None
        self.guard = found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.guard.signal(signal.SIGCONT)
        assert self.guard.wait(10)


def test_all_of_a_program_dies_with_a_killed_worker_and_without_any_host_agent(worker: Worker) -> None:
    worker.process.kill()
    assert worker.daemon.wait(10)
    assert worker.guard.wait(10), "the guard ends once there is nothing left to guard"


def test_the_host_waits_for_a_guard_that_was_stopped_and_has_it_go_on(worker: Worker) -> None:
    worker.guard.signal(signal.SIGSTOP)
    worker.process.kill()
    worker.process.wait()
    assert worker.daemon.alive()
    assert end_orphans(worker.record, seconds=10) == []
    assert not worker.daemon.alive()
    assert not worker.guard.alive()


def test_what_cannot_be_ended_is_named(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kill_descendants", "kill_cgroup"):
        monkeypatch.setattr(f"manager.gateways.command.program_guard.{name}", lambda _: 0)
    monkeypatch.setattr("manager.host.workers.orphans._resume", lambda _: None)
    worker.guard.signal(signal.SIGSTOP)
    worker.process.kill()
    worker.process.wait()
    left = end_orphans(worker.record, seconds=0.1)
    assert any(f"(pid {worker.daemon.pid})" in name for name in left)


def test_a_worker_whose_guard_is_killed_reports_it_and_ends_adopted_processes(
    tmp_path: Path, ownership: str
) -> None:
    script = WORKER.replace(
        "time.sleep(600)",
        "while gateway.check().ipc_ok: time.sleep(0.01)\n"
        "print(gateway.check().reason, flush=True)\n"
        "try: gateway.disconnect()\nexcept ForcedEnd: print('disconnected', flush=True)\n",
    )
    worker_id = f"w-tree-{os.getpid()}-lost"
    process = subprocess.Popen(
        [sys.executable, "-c", script, worker_id, str(tmp_path / "private"), STAYS, ownership],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"connected\n"
        daemon = escaped(tmp_path)
        (guard,), _ = marked(worker_id)
        os.kill(guard, signal.SIGKILL)
        assert b"the guard process of the program was killed" in process.stdout.readline()
        assert process.stdout.readline() == b"disconnected\n"
        assert not daemon.alive()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_found_02_a_program_behind_a_shell_gets_its_polite_stop_and_its_time(
    make: Make, tmp_path: Path
) -> None:
    bot = (
        "import signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.3)\n    open('polite', 'w').close()\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('ready', flush=True)\nwhile True: time.sleep(60)\n"
    )
    (tmp_path / "bot.py").write_text(bot)
    command = ("/bin/sh", "-c", f"{sys.executable} -u bot.py | cat; echo ended")
    gateway = make("", command=command, stop=StopConfig(deadline_seconds=20))
    gateway.connect(soon())
    gateway.disconnect()
    assert (tmp_path / "polite").exists()


def test_found_01_a_program_starts_with_default_signals_umask_and_file_limit(
    make: Make, tmp_path: Path
) -> None:
    import resource

    script = (
        "import os, resource, time\n"
        "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status') if ':\\t' in line)\n"
        "print('ready', int(status['SigBlk'], 16), int(status['SigIgn'], 16) & 0b111, oct(os.umask(0)),\n"
        "    resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)\ntime.sleep(60)\n"
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    umask = os.umask(0o077)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
        gateway = make(script)
        gateway.connect(soon())
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number, handler in before.items():
            signal.signal(number, handler)
    # Python itself ignores SIGPIPE and SIGXFSZ, and takes SIGINT; HUP (1), INT (2) and QUIT (3) are what may
    # leak.
    assert last_line(gateway) == f"ready 0 0 0o22 {min(1024, limits[1])}"


def test_a_program_of_a_failover_account_cannot_become_another_user(make: Make) -> None:
    script = (
        "import time\nstatus = open('/proc/self/status').read()\n"
        "print('ready', 'NoNewPrivs:\\t1' in status, flush=True)\ntime.sleep(60)\n"
    )
    for failover in (True, False):
        gateway = make(script, failover=failover)
        gateway.connect(soon())
        assert last_line(gateway) == f"ready {failover}"


def test_found_10_a_program_that_had_to_be_killed_is_reported(make: Make) -> None:
    gateway = make(
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    gateway.connect(soon())
    with pytest.raises(
        ForcedEnd, match=r"did not stop within 0.3 s of SIGTERM; killed: python\S* \(pid \d+\)"
    ):
        gateway.disconnect()
    gateway.disconnect()
