"""Output of programs: complete lines with their stream, in order as far as pipes allow, without secrets."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from support.programs import last_line
from support.waiting import eventually

from manager.config.models import HealthConfig, LineEveryConfig, ReadyConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.base import ConnectionLost, ConnectTimeout, ForcedEnd
from manager.gateways.command.gateway import CommandGateway
from manager.gateways.command.output import MAX_LINE, OutputLine, OutputReader
from manager.gateways.command.visible_text import visible
from manager.system import logs
from manager.system.masking import Masker
from manager.system.output_text import escape_output, unescape_output

if sys.platform == "win32":
    pytest.skip("pipes that can be waited for", allow_module_level=True)

Make = Callable[..., CommandGateway]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[CommandGateway] = []

    def maker(script: str, **changes: Any) -> CommandGateway:
        data: dict[str, Any] = {
            "account_id": "a",
            "worker_id": f"w-output-{os.getpid()}-{len(made)}",
            "private_dir": tmp_path / "p",
            "directory": tmp_path,
            "command": (sys.executable, "-c", script),
            "ready": ReadyConfig(line="ready"),
            "stop": StopConfig(deadline_seconds=0.3),
        }
        made.append(CommandGateway(GatewayOptions(**{**data, **changes})))
        return made[-1]

    yield maker
    for gateway in made:
        try:
            gateway.disconnect()
        except ForcedEnd:
            continue


def soon(seconds: float = 20) -> float:
    return time.monotonic() + seconds


class Pipes:
    """The two outputs of a program, written by the test."""

    def __init__(self, *secrets: str) -> None:
        self.lines: list[OutputLine] = []
        self.parts: list[tuple[str, bytes]] = []
        self.reading: dict[str, BinaryIO] = {}
        self.writing: dict[str, BinaryIO] = {}
        for name in ("stdout", "stderr"):
            read, write = os.pipe()
            self.reading[name], self.writing[name] = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
        reader = OutputReader(Masker(secrets), self.lines.append, lambda *part: self.parts.append(part))
        self.thread = threading.Thread(target=reader.read, args=(self.reading,), daemon=True)
        self.thread.start()

    def write(self, name: str, data: bytes) -> None:
        """Write, and wait until the data was read."""
        before = len(self.parts)
        self.writing[name].write(data)
        eventually(lambda: len(self.parts) > before)

    def end(self) -> list[tuple[str, str, bool]]:
        for output in self.writing.values():
            output.close()
        self.thread.join(10)
        assert not self.thread.is_alive()
        for output in self.reading.values():
            output.close()
        return [(line.stream, line.text, line.cut) for line in self.lines]


def test_the_two_streams_are_reported_apart_and_come_in_order() -> None:
    pipes = Pipes()
    for name, data in (
        ("stdout", b"one\n"),
        ("stderr", b"two\n"),
        ("stdout", b"thr"),
        ("stderr", b"four\n"),
        ("stdout", b"ee\n\n  five\t\n"),
    ):
        pipes.write(name, data)
    assert pipes.end() == [
        ("stdout", "one", False),
        ("stderr", "two", False),
        ("stderr", "four", False),
        ("stdout", "three", False),
        ("stdout", "", False),
        ("stdout", "  five\t", False),
    ]


def test_a_secret_is_masked_in_each_stream_wherever_it_is_cut() -> None:
    secret = "hunter2-hunter2"
    for cut in range(1, len(secret)):
        pipes = Pipes(secret)
        for name in ("stdout", "stderr"):
            pipes.write(name, f"x {secret[:cut]}".encode())
        for name in ("stderr", "stdout"):
            pipes.write(name, f"{secret[cut:]} y\n".encode())
        reported = pipes.end()
        assert sorted(reported) == [("stderr", "x *** y", False), ("stdout", "x *** y", False)]


def test_a_line_without_an_end_is_reported_after_a_moment_and_continues() -> None:
    pipes = Pipes()
    pipes.write("stdout", b"password? ")
    eventually(lambda: pipes.lines)
    pipes.write("stdout", b"thanks\n")
    assert pipes.end() == [("stdout", "password? ", True), ("stdout", "thanks", False)]


def test_a_very_long_line_comes_in_bounded_parts() -> None:
    pipes = Pipes()
    text = "é" * (2 * MAX_LINE + 7)
    pipes.writing["stderr"].write(text.encode() + b"\nend\n")
    *parts, end = pipes.end()
    assert end == ("stderr", "end", False)
    assert [(len(part), cut) for _, part, cut in parts] == [(MAX_LINE, True), (MAX_LINE, True), (7, False)]
    assert "".join(part for _, part, _ in parts) == text


@given(st.binary())
def test_what_is_kept_in_the_log_gives_back_every_byte(printed: bytes) -> None:
    text, escaped = escape_output(printed.replace(b"\n", b"").decode(errors="surrogateescape"))
    assert "\n" not in text
    assert "\r" not in text
    text.encode()
    assert unescape_output(text, escaped=escaped) == printed.replace(b"\n", b"")


def test_ordinary_text_stands_in_the_log_as_it_was_printed() -> None:
    for text in ("a\tb \x1b[31mred\x1b[0m € \\n C:\\bots", "  spaces  ", ""):
        assert escape_output(text) == (text, False)
    assert escape_output("10%\r20% C:\\ \udcff\x00") == (r"10%\r20% C:\\ \xff\x00", True)


def test_each_line_of_the_log_carries_its_stream(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    logs.configure(file=tmp_path / "log", secrets=["hunter2-hunter2"])
    script = (
        "import os, time\n"
        "os.write(2, b'to err: hunter2-')\nos.write(1, b'out\\xff\\n')\n"
        "time.sleep(0.1)\nos.write(2, b'hunter2\\n')\nos.write(1, b'ready\\n')\ntime.sleep(60)\n"
    )
    gateway = make(script, password=SecretStr("hunter2-hunter2"))
    gateway.connect(soon())

    def text() -> str:
        logs.flush()
        return (tmp_path / "log").read_text()

    eventually(lambda: "to err: ***" in text())
    assert "action=output stream=stderr | to err: ***\n" in text()
    assert "action=output stream=stdout esc=True | out\\xff\n" in text()
    assert "action=output stream=stdout | ready\n" in text()
    assert "hunter2" not in text()
    for handler in root.handlers:
        handler.close()


def test_a_sign_is_found_in_a_stream_although_the_other_speaks_in_between(make: Make) -> None:
    make(
        "import os, time\nos.write(1, b'rea')\ntime.sleep(0.05)\nos.write(2, b'noise\\n')\ntime.sleep(0.05)\n"
        "os.write(1, b'dy\\n')\ntime.sleep(60)\n"
    ).connect(soon())


@pytest.mark.parametrize(
    "ready",
    [
        ReadyConfig(line="never"),
        ReadyConfig(tcp=1),
        ReadyConfig(http="http://127.0.0.1:1/"),
        ReadyConfig(notify=True),
        ReadyConfig(after_seconds=30),
    ],
)
def test_a_start_that_was_not_ready_in_time_shows_the_last_output(make: Make, ready: ReadyConfig) -> None:
    script = (
        "import sys, time\nprint('noise')\nsys.stderr.write('\\x1b[31mwaiting for the exchange: \\x1b[0m')\n"
        + ("sys.stderr.flush()\ntime.sleep(60)\n")
    )
    with pytest.raises(
        ConnectTimeout, match=r"not ready in time: .*; its last output: waiting for the exchange:$"
    ):
        make(script, ready=ready).connect(soon(0.6))


def test_one_that_ended_shows_what_it_said_on_standard_error(make: Make) -> None:
    script = "import sys\nprint('starting')\nsys.exit('Exchange rejected the order')\n"
    with pytest.raises(
        ConnectionLost,
        match=r"^the program exited with code 1 before it was ready: Exchange rejected the order$",
    ):
        make(script).connect(soon())


def test_a_line_to_be_printed_now_and_then_counts_in_either_stream(make: Make) -> None:
    health = HealthConfig(line_every=LineEveryConfig(line="tick", seconds=0.4))
    script = (
        "import os, time\nos.write(1, b'ready\\n')\nuntil = time.monotonic() + 1.5\n"
        "while time.monotonic() < until:\n    os.write(2, b'tick\\n'); time.sleep(0.05)\n"
        "os.write(1, b'quiet\\n')\ntime.sleep(60)\n"
    )
    gateway = make(script, health=health)
    gateway.connect(soon())
    seen: set[str | None] = set()

    def quiet() -> bool:
        seen.add(gateway.check().reason)
        return last_line(gateway) == "quiet"

    eventually(quiet)
    assert seen == {None}
    eventually(lambda: "has not printed 'tick'" in (gateway.check().reason or ""))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("10%\r20%\r", "20%"),
        ("plain", "plain"),
        ("\x1b[3", ""),
        ("\x00\x07text", "text"),
    ],
)
def test_an_error_text_has_what_a_person_sees(line: str, shown: str) -> None:
    assert visible(line) == shown
