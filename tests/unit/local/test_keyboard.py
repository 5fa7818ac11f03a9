"""Keys of a terminal are read, and the terminal is restored afterwards."""

import os
import sys
from collections.abc import Iterator

import pytest

from manager.terminal.keyboard import Keyboard, parse_keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("jk", ["j", "k"]),
        ("\x1b[A\x1b[B", ["up", "down"]),
        ("\x1bOA", ["up"]),
        ("\x1b[5~\x1b[6~\x1b[H\x1b[F", ["page up", "page down", "home", "end"]),
        ("\x1b[15~", []),
        ("\x1b[1;5Ax", ["x"]),
        ("\x1b", ["escape"]),
        ("\x1bx", ["escape", "x"]),
        ("\r\n\x7f\x08", ["enter", "enter", "backspace", "backspace"]),
        ("\x00\x01é", ["é"]),
        ("", []),
    ],
)
def test_keys(text: str, keys: list[str]) -> None:
    assert parse_keys(text) == keys


if sys.platform != "win32":
    import pty
    import termios

    @pytest.fixture
    def terminal() -> Iterator[tuple[int, int]]:
        ours, theirs = pty.openpty()
        yield ours, theirs
        for descriptor in (ours, theirs):
            os.close(descriptor)

    def test_keys_are_read_without_enter(terminal: tuple[int, int]) -> None:
        ours, theirs = terminal
        with Keyboard(theirs) as keyboard:
            assert keyboard.read(0.0) == []
            os.write(ours, b"x\x1b[A")
            assert keyboard.read(10.0) == ["x", "up"]

    def test_the_terminal_is_restored_after_an_exception(terminal: tuple[int, int]) -> None:
        _, theirs = terminal
        before = termios.tcgetattr(theirs)
        with pytest.raises(RuntimeError), Keyboard(theirs):
            assert termios.tcgetattr(theirs)[3] != before[3]
            raise RuntimeError
        assert termios.tcgetattr(theirs) == before
