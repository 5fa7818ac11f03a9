"""The command gateway: readiness, output, credentials, and a stop that leaves no process."""

import contextlib
import json
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr
from support.programs import last_line, output_ended
from support.waiting import eventually

from manager.config.models import ReadyConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.base import (
    ConnectionLost,
    ConnectTimeout,
    ForcedEnd,
    InvalidRequest,
    NotSupported,
    VenueNotFound,
)
from manager.gateways.command.gateway import CommandGateway
from manager.gateways.command.program import MARK, PlainProgram
from manager.system.processes import ProcessRef

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups of POSIX")

FOREVER = "import time\nprint('ready', flush=True)\nwhile True: time.sleep(60)\n"


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., CommandGateway]]:
    """Return a function that creates gateways which run a Python script."""
    made: list[CommandGateway] = []

    def maker(script: str, **changes: Any) -> CommandGateway:
        data: dict[str, Any] = {
            "account_id": "bot-7",
            "worker_id": f"w-test-{os.getpid()}-{len(made)}",
            "private_dir": tmp_path / "private",
            "command": (sys.executable, "-u", "-c", script),
            "ready": ReadyConfig(line="ready"),
            "stop": StopConfig(deadline_seconds=5),
        }
        made.append(CommandGateway(GatewayOptions(**{**data, **changes})))
        return made[-1]

    yield maker
    for gateway in made:
        with contextlib.suppress(ForcedEnd):
            gateway.disconnect()


Make = Callable[..., CommandGateway]


def pid_of(gateway: CommandGateway) -> int:
    assert gateway._program is not None
    return gateway._program.pid


def test_ready_by_a_line_and_alive(make: Make) -> None:
    gateway = make(FOREVER)
    gateway.connect(soon())
    health = gateway.check()
    assert (health.ipc_ok, health.venue_connected, health.reason) == (True, True, None)
    for call in (gateway.account, gateway.positions):
        with pytest.raises(NotSupported):
            call()


def test_a_line_on_standard_error_counts_too(make: Make) -> None:
    make("import sys, time\nsys.stderr.write('ready\\n')\ntime.sleep(60)").connect(soon())


def test_ready_by_a_port(make: Make) -> None:
    port = free_port()
    script = (
        f"import socket\ns = socket.create_server(('127.0.0.1', {port}))\nwhile True: s.accept()[0].close()\n"
    )
    gateway = make(script, ready=ReadyConfig(tcp=port))
    gateway.connect(soon())
    assert gateway.check().venue_connected


WEB = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(open('status').read()))
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(('127.0.0.1', %d), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_ready_by_a_url_and_degraded_when_it_fails_later(make: Make, tmp_path: Path) -> None:
    port, status = free_port(), tmp_path / "status"
    status.write_text("200")
    url = f"http://127.0.0.1:{port}/ping"
    gateway = make(WEB % port, ready=ReadyConfig(http=url), directory=tmp_path)
    gateway.connect(soon())
    assert gateway.check().reason is None
    status.write_text("500")
    health = gateway.check()
    assert (health.ipc_ok, health.venue_connected) == (True, False)
    assert health.reason == f"{url}: status 500"


def test_ready_after_a_time_if_it_still_runs(make: Make) -> None:
    began = time.monotonic()
    make("import time; time.sleep(60)", ready=ReadyConfig(after_seconds=0.3)).connect(soon())
    assert time.monotonic() - began >= 0.3
    with pytest.raises(ConnectionLost, match="exited with code 0"):
        make("pass", ready=ReadyConfig(after_seconds=5)).connect(soon())


def test_not_ready_in_time_leaves_nothing_behind(make: Make) -> None:
    gateway = make("import time; time.sleep(60)")
    with pytest.raises(ConnectTimeout, match="was not ready in time: it has not printed 'ready'"):
        gateway.connect(soon(0.5))
    assert gateway._program is None


def test_a_program_that_ends_first_reports_its_exit_and_its_last_output(make: Make) -> None:
    gateway = make("import sys\nprint('no licence')\nsys.exit(3)")
    with pytest.raises(
        ConnectionLost, match="the program exited with code 3 before it was ready: no licence"
    ):
        gateway.connect(soon())


def test_one_that_dies_later_is_seen_by_check(make: Make) -> None:
    gateway = make(FOREVER)
    gateway.connect(soon())
    os.kill(pid_of(gateway), 9)
    eventually(lambda: not gateway.check().ipc_ok)
    assert gateway.check().reason == "the program was ended by signal 9: ready"


def test_no_such_program(make: Make, tmp_path: Path) -> None:
    with pytest.raises(VenueNotFound, match="'no-such-program' is not an executable on this host's PATH"):
        make("", command=("no-such-program",)).connect(soon())
    with pytest.raises(InvalidRequest):
        make("", command=None).connect(soon())
    (tmp_path / "bot").write_text("not executable")
    (tmp_path / "bot").chmod(0o600)
    with pytest.raises(VenueNotFound):
        make("", command=("bot",), directory=tmp_path).connect(soon())


def test_a_relative_program_is_found_in_its_directory(make: Make, tmp_path: Path) -> None:
    (tmp_path / "bot").write_text(
        f"#!{sys.executable}\nimport os, time\nprint('ready in', os.getcwd(), flush=True)\ntime.sleep(60)\n"
    )
    (tmp_path / "bot").chmod(0o700)
    gateway = make("", command=("./bot",), directory=tmp_path, ready=ReadyConfig(line=f"ready in {tmp_path}"))
    gateway.connect(soon())


def test_it_finds_its_account_and_credentials_and_no_secret_in_its_environment(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCOUNT_999_PASSWORD", "somebody-elses-secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:proxy-secret@proxy")
    script = (
        "import json, os, time\n"
        "path = os.environ['MANAGER_CREDENTIALS_FILE']\n"
        "mode = oct(os.stat(path).st_mode & 0o777), oct(os.stat(os.path.dirname(path)).st_mode & 0o777)\n"
        "json.dump([dict(os.environ), json.load(open(path)), mode], open('out.json.tmp', 'w'))\n"
        "os.rename('out.json.tmp', 'out.json')\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    gateway = make(
        script,
        login=5001,
        server="Live-1",
        password=SecretStr("hunter2-hunter2"),
        epoch=7,
        directory=tmp_path,
        environment={"LEVEL": "info"},
    )
    gateway.connect(soon())
    environment, credentials, modes = json.loads((tmp_path / "out.json").read_text())
    assert credentials == {
        "account_id": "bot-7",
        "login": 5001,
        "server": "Live-1",
        "password": "hunter2-hunter2",
    }
    assert modes == ["0o600", "0o700"]
    assert environment["MANAGER_ACCOUNT_ID"] == "bot-7"
    assert environment[MARK].startswith("w-test-")
    assert environment["MANAGER_EPOCH"] == "7"
    assert environment["LEVEL"] == "info"
    assert "secret" not in json.dumps(environment)
    assert "hunter2" not in json.dumps(environment)
    assert "hunter2" not in " ".join(psutil.Process(pid_of(gateway)).cmdline())
    gateway.disconnect()
    assert not Path(environment["MANAGER_CREDENTIALS_FILE"]).exists(), "gone when the program is"


def test_its_output_is_logged_and_never_blocks_it(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "manager.program")
    script = (
        "import sys, time\n"
        "sys.stdout.write('x' * 3_000_000 + '\\n')\n"
        "print('ready', flush=True)\n"
        "print('after', flush=True)\ntime.sleep(60)\n"
    )
    gateway = make(script)
    gateway.connect(soon())

    def logged() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "manager.program"]

    eventually(lambda: "after" in logged())
    assert max(map(len, logged())) <= 8_192


def test_a_polite_stop_is_waited_for(make: Make, tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "def end(*_):\n    open('polite', 'w').close()\n    sys.exit(0)\n"
        "signal.signal(signal.SIGINT, end)\nprint('ready', flush=True)\nwhile True: time.sleep(60)\n"
    )
    gateway = make(script, directory=tmp_path, stop=StopConfig(signal="SIGINT", deadline_seconds=5))
    gateway.connect(soon())
    gateway.disconnect()
    assert (tmp_path / "polite").exists()


STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: open('asked', 'w').close())\n"
    "print('ready', flush=True)\nwhile True: time.sleep(60)\n"
)


@pytest.mark.parametrize("seconds", [1.0, -5.0])
def test_a_deadline_shortens_the_time_of_a_program_that_does_not_stop(
    make: Make, tmp_path: Path, seconds: float
) -> None:
    """A stop with its own timeout ends the program within it, but always sends the stop signal first."""
    gateway = make(STUBBORN, directory=tmp_path, stop=StopConfig(deadline_seconds=600))
    gateway.connect(soon())
    with pytest.raises(ForcedEnd, match="did not stop within"):
        gateway.disconnect(soon(seconds))
    assert (tmp_path / "asked").exists()


CHILDREN = (
    "import os, signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "sleep = [sys.executable, '-c', 'import signal, time; signal.signal(15, 1); time.sleep(600)']\n"
    "child = subprocess.Popen(sleep)\n"
    "hidden = subprocess.Popen(sleep, start_new_session=True)\n"
    "print('ready', child.pid, hidden.pid, flush=True)\n"
    "while True: time.sleep(60)\n"
)


def family(gateway: CommandGateway) -> list[ProcessRef]:
    pids = [pid_of(gateway), *(int(word) for word in last_line(gateway).split()[1:])]
    found = [ref for ref in map(ProcessRef.of, pids) if ref is not None]
    assert len(found) == 3
    return found


def test_the_whole_family_is_killed_at_the_deadline_hidden_children_too(make: Make) -> None:
    gateway = make(CHILDREN, stop=StopConfig(deadline_seconds=0.3))
    gateway.connect(soon())
    processes = family(gateway)
    with pytest.raises(ForcedEnd):
        gateway.disconnect()
    assert not [ref for ref in processes if ref.alive()]


PRINTS_SECRET_AROUND_THE_LIMIT = """
import json, os, sys, time
secret = json.load(open(os.environ['MANAGER_CREDENTIALS_FILE']))['password']
for before in range(8192 - len(secret) - 2, 8192 + 3):
    print('x' * before + secret)
print('half of it: ' + secret[:9], end='', flush=True)
time.sleep(0.05)
print(secret[9:], end='', flush=True)
print('ready', flush=True)
print('as JSON ' + json.dumps(secret), flush=True)
raise SystemExit(3)
"""


def test_a_secret_that_the_line_limit_or_a_write_cuts_reaches_no_log(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    secret = 'hunter2"and\\more'
    gateway = make(PRINTS_SECRET_AROUND_THE_LIMIT, password=SecretStr(secret))
    with caplog.at_level(logging.INFO, "manager.program"):
        with contextlib.suppress(ConnectionLost):
            gateway.connect(soon())
        eventually(lambda: output_ended(gateway), what="its output has ended")
    shown = "\n".join(record.getMessage() for record in caplog.records)
    assert "as JSON" in shown
    assert not any(secret[at : at + 5] in shown for at in range(len(secret) - 4))
    assert "hunter2" not in last_line(gateway)
    health = gateway.check()
    assert health.reason is not None
    assert "hunter2" not in health.reason


def test_every_secret_of_the_account_is_masked_in_the_output(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    script = "import os\nprint('ready', os.environ['API_SECRET'], flush=True)\nraise SystemExit(4)"
    gateway = make(script, environment={"API_SECRET": "an-api-secret"}, secrets=("an-api-secret",))
    with caplog.at_level(logging.INFO, "manager.program"):
        with contextlib.suppress(ConnectionLost):
            gateway.connect(soon())
        eventually(lambda: output_ended(gateway), what="its output has ended")
    assert "an-api-secret" not in caplog.text
    assert "ready ***" in caplog.text
    assert "an-api-secret" not in str(gateway.check().reason)


def test_readiness_is_seen_in_an_unfinished_line_across_parts_and_if_a_secret_is_in_it(make: Make) -> None:
    make("print('re', end='', flush=True); import time; time.sleep(0.05)\n"
         "print('ady> ', end='', flush=True)\n"
         "time.sleep(60)").connect(soon())  # fmt: skip
    make(FOREVER, password=SecretStr("ready")).connect(soon())


def test_a_program_without_a_guard_wakes_its_worker_when_it_ends() -> None:
    """Run programs without a guard, as on Windows and macOS."""
    program = PlainProgram([sys.executable, "-c", "input()"], None, dict(os.environ), "w-test-plain")
    try:
        source = program.wake_source()
        assert source is not None
        assert select.select([source], [], [], 0)[0] in ([], [source])
        program.kill_all(5)
        assert select.select([source], [], [], 10)[0] == [source]
        assert program.exit_code() is not None
    finally:
        program.kill_all(5)
        program.close()
