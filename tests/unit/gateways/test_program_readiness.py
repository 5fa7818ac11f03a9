"""Readiness by visible text and by ports of the program itself; detection of stopped programs."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.waiting import eventually

from manager.config.models import HealthConfig, LineEveryConfig, ProbeConfig, ReadyConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.base import ConnectionLost, ConnectTimeout, ForcedEnd
from manager.gateways.command.gateway import CommandGateway
from manager.gateways.command.ports import local_port, served_by
from manager.gateways.command.visible_text import VisibleText

if sys.platform == "win32":
    pytest.skip("Unix sockets and signals of POSIX", allow_module_level=True)
assert sys.platform != "win32", "what follows is not type-checked for other platforms"

Make = Callable[..., CommandGateway]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[CommandGateway] = []

    def maker(script: str, **changes: Any) -> CommandGateway:
        data: dict[str, Any] = {
            "account_id": "a",
            "worker_id": f"w-ready-{os.getpid()}-{len(made)}",
            "private_dir": tmp_path / "p",
            "directory": tmp_path,
            "command": (sys.executable, "-c", script),
            "ready": ReadyConfig(line="Bot started"),
            "stop": StopConfig(deadline_seconds=0.3),
        }
        made.append(CommandGateway(GatewayOptions(**{**data, **changes})))
        return made[-1]

    yield maker
    for gateway in made:
        with contextlib.suppress(ForcedEnd):
            gateway.disconnect()


def soon(seconds: float = 20) -> float:
    return time.monotonic() + seconds


def test_found_05_a_program_that_does_not_flush_is_ready(make: Make) -> None:
    make("import time; print('Bot started'); time.sleep(60)").connect(soon())


@pytest.mark.parametrize(
    "parts",
    [
        [b"Bot started\n"],
        [b"Bot started"],
        [b"\x1b[32mBot\x1b[0m star", b"ted\r\n"],
        [b"\x1b[1;3", b"2mBot started\x1b[0m"],
        [b"10%\rBot started\r"],
        [b"\x1b]0;title\x07Bot\xc2\xa0started\n"],
        [b"\xef\xbb\xbfBot started\r\n"],
        [b"x" * 20_000 + b"Bot started" + b"y" * 20_000],
        [bytes([byte]) for byte in b"2026 INFO Bot started"],
        [b"Bot started |\b/", b"\b-"],
        [b"Bxx\b", b"\bot started\n"],
        [b"Bot\x1b[1Cstar\x1b[", b"Kted\n"],
        [b"Bot\xe2\x80\xafstar\xe2\x80\x8dted\n"],
        ["Bot started\n".encode("utf-16")],
    ],
)
def test_a_text_is_found_as_a_person_sees_it(parts: list[bytes]) -> None:
    text = VisibleText("Bot started")
    assert [text.feed(part) for part in parts].count(True) == 1
    eventually(lambda: text.seen)


@pytest.mark.parametrize(
    "parts", [[b"Bot\n", b"started\n"], [b"Bot \rstarted\n"], [b"\x1b[31mBot stopped\n"]]
)
def test_another_text_is_not_found(parts: list[bytes]) -> None:
    text = VisibleText("Bot started")
    assert not any(text.feed(part) for part in parts)
    assert not text.seen


def test_composed_and_decomposed_letters_are_one() -> None:
    assert VisibleText("Depot ge\u00f6ffnet").feed("Depot geo\u0308ffnet\n".encode())


@pytest.fixture
def stranger() -> Iterator[int]:
    """A port that is served by a process other than the program."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_found_04_a_port_that_answers_before_the_program_starts_is_refused(
    make: Make, stranger: int, kind: str
) -> None:
    ready = ReadyConfig(tcp=stranger) if kind == "tcp" else ReadyConfig(http=f"http://localhost:{stranger}/")
    with pytest.raises(
        ConnectionLost, match=rf"port {stranger} \(ready\) is served by \S+ \(pid {os.getpid()}\)"
    ):
        make("import time; time.sleep(60)", ready=ready).connect(soon())


@pytest.mark.skipif(sys.platform != "linux", reason="whose a socket is, /proc tells")
def test_a_port_that_a_stranger_takes_while_the_program_starts_is_not_readiness(
    make: Make, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gateway = make("import time; open('up', 'w').close(); time.sleep(60)", ready=ReadyConfig(tcp=port))

    def take() -> None:
        eventually((tmp_path / "up").exists)
        with socket.create_server(("127.0.0.1", port)):
            taken.wait(20)

    taken = threading.Event()
    thread = threading.Thread(target=take)
    thread.start()
    try:
        with pytest.raises(
            ConnectTimeout, match=f"port {port} is served by .*which the program did not start"
        ):
            gateway.connect(soon(2))
    finally:
        taken.set()
        thread.join()


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
def test_a_program_that_listens_at_ipv6_alone_is_ready(make: Make) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
        port = probe.getsockname()[1]
    script = (
        f"import socket, time\nserver = socket.create_server(('::1', {port}), family=socket.AF_INET6)\n"
        "time.sleep(60)\n"
    )
    make(script, ready=ReadyConfig(tcp=port)).connect(soon())


@needs_ipv6
def test_a_port_that_a_stranger_serves_at_ipv6_is_refused(make: Make) -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
        pytest.raises(ConnectionLost, match="is served by"),
    ):
        make("import time; time.sleep(60)", ready=ReadyConfig(tcp=server.getsockname()[1])).connect(soon())


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(
            (host, True)
            for host in ("localhost", "LOCALHOST.", "127.0.0.1", "127.1.2.3", "0.0.0.0", "[::1]", "[::]")
        ),
        *((host, True) for host in ("[::ffff:127.0.0.1]", socket.gethostname())),
        *((host, False) for host in ("192.0.2.1", "example.com", "[2001:db8::1]")),
    ],
)
def test_which_urls_are_of_this_machine(host: str, local: bool) -> None:
    assert local_port(f"http://{host}:8080/ping") == (8080 if local else None)
    assert local_port(f"https://{host}/") == (443 if local else None)


def test_a_url_elsewhere_that_answers_before_the_program_starts_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # Simulate that 127.0.0.1 is another machine.
        monkeypatch.setattr("manager.gateways.command.ports._is_local", lambda _host: False)
        url = f"http://127.0.0.1:{server.server_port}/"
        with pytest.raises(ConnectionLost, match="answers before the program starts"):
            make("import time; time.sleep(60)", ready=ReadyConfig(http=url)).connect(soon())
        server.shutdown()


def test_whose_a_port_is(stranger: int) -> None:
    if sys.platform == "linux":
        assert served_by(stranger, [os.getpid()]) is True
        assert served_by(stranger, []) is False
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert served_by(closed.getsockname()[1], [os.getpid()]) is None


def test_a_start_that_is_not_ready_in_time_shows_the_last_output(make: Make) -> None:
    gateway = make("import time; print('waiting for the exchange'); time.sleep(60)")
    with pytest.raises(
        ConnectTimeout, match="has not printed 'Bot started'; its last output: waiting for the exchange"
    ):
        gateway.connect(soon(1))


NOTIFY = """
import os, socket, sys, time
out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say(text): out.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
assert os.environ.get("WATCHDOG_USEC") == "300000"
say("STATUS=loading markets")
say("READY=1\\nSTATUS=trading BTC/USDT")
while not os.path.exists("quiet"):
    say("WATCHDOG=1")
    time.sleep(0.05)
time.sleep(60)
"""


def test_a_program_says_that_it_is_ready_and_lives_by_sd_notify(make: Make, tmp_path: Path) -> None:
    gateway = make(NOTIFY, ready=ReadyConfig(notify=True), health=HealthConfig(watchdog_seconds=0.3))
    gateway.connect(soon())
    eventually(lambda: gateway.check().status == "trading BTC/USDT")
    assert not gateway.check().unhealthy
    (tmp_path / "quiet").touch()
    eventually(lambda: gateway.check().unhealthy)
    assert "no WATCHDOG=1 for" in str(gateway.check().reason)


def test_a_bot_that_is_silent_because_it_is_frozen_is_called_frozen(make: Make) -> None:
    # Without the five seconds between two searches for stopped processes.
    gateway = make(NOTIFY, ready=ReadyConfig(notify=True), health=HealthConfig(watchdog_seconds=0.3))
    gateway.connect(soon())
    assert gateway.check().reason is None
    assert gateway._program is not None
    os.kill(gateway._program.pid, signal.SIGSTOP)
    eventually(lambda: gateway.check().unhealthy)
    assert "stopped by a signal" in str(gateway.check().reason)


def test_a_frozen_bot_behind_a_shell_is_unhealthy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.gateways.command.program_health._STOPPED_SECONDS", 0.0)
    bot = f"{sys.executable} -c \"import time; print('Bot started'); time.sleep(60)\""
    gateway = make("", command=("/bin/sh", "-c", f"{bot} | cat; echo over"))
    gateway.connect(soon())
    assert gateway.check().reason is None
    assert gateway._program is not None
    pids = [pid for pid in gateway._program.processes() if pid != gateway._program.pid]
    os.kill(pids[0], signal.SIGSTOP)
    eventually(lambda: gateway.check().unhealthy)
    assert f"(pid {pids[0]})" in str(gateway.check().reason)
    os.kill(pids[0], signal.SIGCONT)
    eventually(lambda: gateway.check().reason is None)


def test_a_line_that_stops_coming_is_unhealthy(make: Make, tmp_path: Path) -> None:
    script = (
        "import os, time\nprint('Bot started')\n"
        "while True:\n    print('noise' if os.path.exists('quiet') else 'heartbeat')\n    time.sleep(0.05)\n"
    )
    every = HealthConfig(line_every=LineEveryConfig(line="heartbeat", seconds=0.5))
    gateway = make(script, health=every)
    gateway.connect(soon())
    assert gateway.check().reason is None
    (tmp_path / "quiet").touch()
    eventually(lambda: gateway.check().unhealthy)
    assert "has not printed 'heartbeat' for" in str(gateway.check().reason)


def test_a_probe_that_fails_so_often_in_a_row_is_unhealthy(make: Make) -> None:
    probe = ProbeConfig(tcp=1, interval_seconds=0.05, failures=2)
    gateway = make("import time; print('Bot started'); time.sleep(60)", health=HealthConfig(probe=probe))
    gateway.connect(soon())
    eventually(lambda: gateway.check().unhealthy)
    assert "2 failed probes in a row" in str(gateway.check().reason) or "failed probes" in str(
        gateway.check().reason
    )
