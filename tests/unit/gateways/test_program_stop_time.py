"""A program receives the stop signal and its full stop time, whatever the reason for the stop."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.configs import config
from support.waiting import eventually

from manager.config.models import ExecutionConfig, ReadyConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.base import ConnectionLost, ConnectTimeout, ForcedEnd
from manager.gateways.command.gateway import CommandGateway
from manager.gateways.command.notify import NotifySocket

if sys.platform == "win32":
    pytest.skip("Unix sockets and signals of POSIX", allow_module_level=True)
assert sys.platform != "win32", "what follows is not type-checked for other platforms"

Make = Callable[..., CommandGateway]

#: Cancels its orders on the stop signal; the file `up` appears once it is able to.
BOT = """
import os, signal, sys, time
def bye(*_):
    time.sleep(0.2)
    open("cancelled", "w").close()
    sys.exit(0)
signal.signal(signal.SIGINT, bye)
open("up", "w").write(str(os.getpid()))
print("started")
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[CommandGateway] = []

    def maker(script: str = BOT, **changes: Any) -> CommandGateway:
        data: dict[str, Any] = {
            "account_id": "a",
            "worker_id": f"w-time-{os.getpid()}-{len(made)}",
            "private_dir": tmp_path / "p",
            "directory": tmp_path,
            "command": (sys.executable, "-c", script),
            "ready": ReadyConfig(line="started"),
            "stop": StopConfig(signal="INT", deadline_seconds=20),
        }
        made.append(CommandGateway(GatewayOptions(**{**data, **changes})))
        return made[-1]

    yield maker
    for gateway in made:
        with contextlib.suppress(ForcedEnd):
            gateway.disconnect()


@pytest.mark.parametrize("behind_a_shell", [False, True])
def test_a_frozen_bot_is_continued_and_takes_the_stop_signal_first(
    make: Make, tmp_path: Path, behind_a_shell: bool
) -> None:
    (tmp_path / "bot.py").write_text(BOT)
    bot = f"{sys.executable} bot.py"
    gateway = make(command=("/bin/sh", "-c", f"{bot} & wait")) if behind_a_shell else make()
    gateway.connect(time.monotonic() + 20)
    os.kill(int((tmp_path / "up").read_text()), signal.SIGSTOP)
    gateway.disconnect()  # a kill would raise ForcedEnd
    assert (tmp_path / "cancelled").exists()


def test_a_bot_that_is_not_ready_in_time_is_asked_to_stop(make: Make, tmp_path: Path) -> None:
    gateway = make(ready=ReadyConfig(line="a line that nobody prints"))
    with pytest.raises(ConnectTimeout, match="has not printed"):
        gateway.connect(time.monotonic() + 2)
    assert (tmp_path / "cancelled").exists()


def test_a_bot_whose_wrapper_ends_before_it_is_ready_gets_a_stop_signal(make: Make, tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text(BOT)
    gateway = make(
        command=("/bin/sh", "-c", f"{sys.executable} bot.py & while ! [ -s up ]; do :; done; exit 3"),
        ready=ReadyConfig(line="a line that nobody prints"),
    )
    with pytest.raises(ConnectionLost, match="exited with code 3"):
        gateway.connect(time.monotonic() + 20)
    assert (tmp_path / "cancelled").exists()


def test_a_bot_that_is_not_ready_and_does_not_stop_is_killed_and_reported(make: Make) -> None:
    script = BOT.replace("bye)", "signal.SIG_IGN)")
    gateway = make(
        script, ready=ReadyConfig(line="never"), stop=StopConfig(signal="INT", deadline_seconds=0.2)
    )
    with pytest.raises(
        ConnectTimeout, match=r"has not printed 'never'.*did not stop within 0.2 s of SIGINT; killed"
    ):
        gateway.connect(time.monotonic() + 1)


@pytest.mark.parametrize(
    ("execution", "deadline", "least"), [(30, 10, 30), (30, 60, 60), (5, 10, 10), (30, 3600, 3600)]
)
def test_the_host_gives_a_program_its_whole_deadline(execution: float, deadline: float, least: float) -> None:
    program = config(
        account_id="a",
        gateway="command",
        command=("bot",),
        execution=ExecutionConfig(stop_timeout_seconds=execution),
        stop=StopConfig(deadline_seconds=deadline),
    )
    # Seven tenths of a stop's time are for the polite request (manager.host.workers.stopper); killing takes
    # its own.
    assert program.stop_seconds() * 0.7 > least + 1 or program.stop_seconds() == execution > deadline
    assert program.model_copy(update={"command": None}).stop_seconds() == execution


def test_an_empty_message_does_not_end_the_watchdog(tmp_path: Path) -> None:
    notify = NotifySocket(tmp_path / "p", 60)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.connect(notify.environment()["NOTIFY_SOCKET"])
            for message in (b"", b"\xff\xfe=\n=", b"READY=1\nSTATUS=up"):
                out.send(message)
        eventually(lambda: notify.ready)
        assert notify.status == "up"
    finally:
        notify.close()
