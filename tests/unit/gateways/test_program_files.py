"""Files that the system cannot execute: validation and start explain why."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.configs import Directory

from manager.config.models import ReadyConfig
from manager.gateways import GatewayOptions
from manager.gateways.base import VenueNotFound
from manager.gateways.command.executables import program_trouble, start_failure
from manager.gateways.command.gateway import CommandGateway

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows starts programs by their ending")

#: (content, mode, error text)
CASES = [
    (b"#!/bin/sh\nsleep 60\n", 0o644, "may not be executed: chmod +x it, or name its interpreter first"),
    (b"echo hello\nsleep 60\n", 0o755, "has no #! line"),
    ("# \u00fc\u00e4\nimport time\n".encode() * 50, 0o755, "has no #! line"),
    (b"", 0o755, "is empty"),
    (b"#!/bin/sh\r\nsleep 60\r\n", 0o755, "ends with a carriage return"),
    (b"\xef\xbb\xbf#!/bin/sh\nsleep 60\n", 0o755, "begins with a byte-order mark before #!"),
    (b"#!/no/such/interpreter -u\n", 0o755, "names the interpreter /no/such/interpreter, which is missing"),
    (b"#! /usr/bin/env no-such-interpreter\n", 0o755, "needs 'no-such-interpreter', which is not on PATH"),
    (b"#!python3\n", 0o755, "names 'python3' without a path: write #!/usr/bin/env python3"),
    (b"#!/etc/passwd\n", 0o755, "names /etc/passwd, which may not be executed"),
    (b"#!/\n", 0o755, "names /, which may not be executed"),
    (b"#!\n", 0o755, "names no interpreter after #!"),
]


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[list[CommandGateway]]:
    made: list[CommandGateway] = []
    yield made
    for gateway in made:
        gateway.disconnect()


def start(tmp_path: Path, gateways: list[CommandGateway], command: tuple[str, ...]) -> CommandGateway:
    gateways.append(
        CommandGateway(
            GatewayOptions(
                account_id="a",
                worker_id=f"w-files-{os.getpid()}-{len(gateways)}",
                private_dir=tmp_path / "private",
                directory=tmp_path,
                command=command,
                ready=ReadyConfig(after_seconds=0),
            )
        )
    )
    gateways[-1].connect(time.monotonic() + 10)
    return gateways[-1]


@pytest.mark.parametrize(("content", "mode", "says"), CASES)
def test_validate_and_start_say_why_and_what_to_do(
    tmp_path: Path, gateways: list[CommandGateway], content: bytes, mode: int, says: str
) -> None:
    program = tmp_path / "bot"
    program.write_bytes(content)
    program.chmod(mode)
    directory = Directory(tmp_path)
    (error,) = directory.errors_of("gateway: command\ncommand: [./bot]\nready: {after_seconds: 0}\n")
    assert error.startswith("accounts/a.yaml:2:11: command[0]: ")
    assert says in error
    with pytest.raises(VenueNotFound) as raised:
        start(tmp_path, gateways, ("./bot",))
    assert says in str(raised.value)
    assert "Errno" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        b"#!/bin/sh\nsleep 60\n",
        b"#!/usr/bin/env -S sh -e\nsleep 60\n",
        b"#!/usr/bin/env A=b sh\nsleep 60\n",
        b"#! /bin/sh",
        b"\x7fELF\0\0",
        b"MZ\x90\0",
    ],
)
def test_nothing_is_said_of_what_the_system_may_start(tmp_path: Path, content: bytes) -> None:
    program = tmp_path / "bot"
    program.write_bytes(content)
    program.chmod(0o755)
    assert program_trouble(str(program)) is None


def test_a_binary_for_another_machine_is_named_at_the_start(
    tmp_path: Path, gateways: list[CommandGateway]
) -> None:
    program = tmp_path / "bot"
    program.write_bytes(b"\x7fELF" + b"\0" * 60)
    program.chmod(0o755)
    with pytest.raises(VenueNotFound, match=r"bot is not a program for this machine \(Exec format error\)"):
        start(tmp_path, gateways, ("./bot",))


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    error = FileNotFoundError(2, "No such file or directory", str(tmp_path / "gone"))
    assert start_failure("/bin/sh", error) == f"{tmp_path}/gone: No such file or directory"


def test_the_path_of_the_account_is_searched(tmp_path: Path, gateways: list[CommandGateway]) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "own-bot-of-this-test"
    program.write_text("#!/bin/sh\nsleep 60\n")
    program.chmod(0o755)
    directory = Directory(tmp_path)
    text = "gateway: command\ncommand: [own-bot-of-this-test]\nready: {after_seconds: 0}\n"
    assert "is not an executable on this host" in directory.errors_of(text)[0]
    assert directory.errors_of(f"{text}environment: {{PATH: '{tmp_path}/bin:/bin'}}\n") == ()
