"""`manager top` in a pseudo terminal, with a real host agent: keys, commands, signals."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from support.fleet import SIGSTOP, Fleet
from support.waiting import eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals"),
]

A, B = "account-001", "account-002"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: Rich moves the cursor to the first line before it draws a screen.
_HOME = "\x1b[H"


def _termios() -> Any:
    return import_module("termios")  # it does not exist on Windows


class Terminal:
    """A command in a pseudo terminal of 24 lines."""

    def __init__(self, fleet: Fleet, arguments: tuple[str, ...], columns: int) -> None:
        pty: Any = import_module("pty")
        self._ours, self._theirs = pty.openpty()
        self.resize(columns)
        self._modes_before = self._modes()
        self._text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "manager.cli", *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**fleet.environment, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        import select

        while not self._closed.is_set():
            if select.select([self._ours], [], [], 0.1)[0]:
                self._text += os.read(self._ours, 65_536).decode(errors="replace")

    def resize(self, columns: int) -> None:
        _termios().tcsetwinsize(self._theirs, (24, columns))

    def _modes(self) -> list[Any]:
        modes: list[Any] = _termios().tcgetattr(self._theirs)
        return modes

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def screen(self) -> list[str]:
        """Return the lines of the last complete screen."""
        screens = self._text.split(_HOME)
        last = screens[-2] if len(screens) > 2 else ""
        return [line.rstrip() for line in _ESCAPES.sub("", last).replace("\r", "").split("\n")]

    def shows(self, text: str, within: float = 30) -> None:
        """Wait until the screen contains the text."""
        eventually(
            lambda: any(text in line for line in self.screen()), within=within, what=f"{text!r} is shown"
        )

    def ended(self) -> int:
        """Wait until the command has ended; return its exit code."""
        return self.process.wait(timeout=20)

    @property
    def restored(self) -> bool:
        """Whether modes, screen and cursor of the terminal are as before."""
        eventually(lambda: "\x1b[?1049l" in self._text, what="the screen is restored")
        return self._modes() == self._modes_before and self._text.rfind("\x1b[?25h") > self._text.rfind(
            "\x1b[?25l"
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._closed.set()
        self._reader.join()
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def terminal(fleet: Fleet, *arguments: str, columns: int = 100) -> Iterator[Terminal]:
    found = Terminal(fleet, arguments, columns)
    try:
        yield found
    finally:
        found.close()


def test_keys_stop_and_start_an_account(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    fleet.run_json("start", A, B)
    with terminal(fleet, "top", "--sort", "account") as top:
        top.shows("2 accounts, 2 running")
        for columns in (80, 160, 100):
            top.resize(columns)
            eventually(
                lambda columns=columns: max(map(len, top.screen())) <= columns,  # type: ignore[misc]
                what=f"every line fits {columns} columns",
            )
        top.press("j")
        top.shows(f"{B}: nothing needs attention")
        top.press("x")
        top.shows(f"stop {B}, which has no open positions? y/n")
        top.press("n")
        top.shows(f"stop {B}: cancelled")
        assert fleet.run_json("info", B)["status"] == "running"
        top.press("x")
        top.shows(f"stop {B}, which has no open positions? y/n")
        top.press("y")
        top.shows(f"{B}: stopped")
        top.shows("1 running, 1 stopped")
        assert fleet.run_json("info", B)["status"] == "stopped"
        top.press("s")
        top.shows(f"start {B}, which has no running worker? y/n")
        top.press("y")
        top.shows(f"{B}: started (running")
        top.press("/")
        top.press("001\r")
        top.shows("filter: 001")
        top.shows("1 of 2 accounts")
        top.press("q")
        assert top.ended() == 0
        assert top.restored


def test_the_terminal_is_restored_after_signals_and_redis_may_be_away(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    fleet.run_json("start", A)
    with terminal(fleet, "top") as top:
        top.shows("1 account, 1 running")
        redis = fleet.redis.process
        redis.send_signal(SIGSTOP)
        try:
            top.shows("Redis cannot be reached")
            top.press("?")
            top.shows("any key returns to the list")
        finally:
            redis.send_signal(getattr(signal, "SIGCONT", 0))
        top.press("j")
        top.shows("1 account, 1 running")
        top.process.send_signal(signal.SIGTERM)
        assert top.ended() == 128 + signal.SIGTERM
        assert top.restored
    with terminal(fleet, "ps", "--watch") as watched:
        watched.shows("1 account, 1 running")
        watched.press("x")
        watched.shows("this list sends no commands")
        watched.process.send_signal(signal.SIGINT)
        assert watched.ended() == 0
        assert watched.restored


def test_without_a_terminal_the_list_is_printed_once(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    fleet.run_json("start", A)
    done = fleet.run("top")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert "\x1b" not in done.stdout
    assert [one["account_id"] for one in fleet.run_json("top")] == [A]
