"""Keys of a terminal, one at a time and without Enter.

Uses termios on POSIX and msvcrt on Windows. `Keyboard` restores the terminal when its `with` block ends, also
after an exception.
"""

import sys
import time
from types import TracebackType
from typing import Any, Final, Self

#: Final character of an escape sequence, or its number before `~` → name of the key.
_NAMES: Final = {
    **{"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"},
    **{"1": "home", "4": "end", "5": "page up", "6": "page down", "7": "home", "8": "end"},
}
_CONTROLS: Final = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x1b": "escape"}
#: Second character of a special key on Windows → name of the key.
_WINDOWS: Final = {
    **{"H": "up", "P": "down", "M": "right", "K": "left", "G": "home", "O": "end"},
    **{"I": "page up", "Q": "page down"},
}
#: Seconds within which the rest of an escape sequence must arrive.
_SEQUENCE_SECONDS: Final = 0.05
#: Seconds between two looks at the keyboard on Windows.
_POLL_SECONDS: Final = 0.02


def parse_keys(text: str) -> list[str]:
    """Return the keys of what a terminal sent.

    A printable key is its character, others have a name such as `up` or `escape`. Unknown escape sequences
    are left out as a whole, so that no part of them counts as a key.
    """
    keys: list[str] = []
    place = 0
    while place < len(text):
        character = text[place]
        place += 1
        if character == "\x1b" and text[place : place + 1] in ("[", "O"):
            start = place + 1
            place = _sequence_end(text, start)
            body = text[start:place]
            name = _NAMES.get(body[:-1] if body.endswith("~") else body)
            if name is not None:
                keys.append(name)
        elif character in _CONTROLS:
            keys.append(_CONTROLS[character])
        elif character.isprintable():
            keys.append(character)
    return keys


def _sequence_end(text: str, start: int) -> int:
    """Return the place after the escape sequence whose body begins at `start`."""
    for place in range(start, len(text)):
        if "@" <= text[place] <= "~":
            return place + 1
    return len(text)


def _complete(text: str) -> bool:
    """Return whether the text does not end inside an escape sequence."""
    begin = text.rfind("\x1b")
    if begin < 0:
        return True
    if text[begin + 1 : begin + 2] not in ("[", "O"):
        return begin + 1 < len(text)
    return any("@" <= character <= "~" for character in text[begin + 2 :])


if sys.platform == "win32":
    import msvcrt

    class Keyboard:
        """The keys of the console. Use it as a context manager, from one thread."""

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            pass

        def read(self, wait_seconds: float) -> list[str]:
            """Return the keys pressed; waits at most `wait_seconds` for the first one."""
            end = time.monotonic() + wait_seconds
            while not msvcrt.kbhit():
                if time.monotonic() >= end:
                    return []
                time.sleep(_POLL_SECONDS)
            keys: list[str] = []
            while msvcrt.kbhit():
                character = msvcrt.getwch()
                if character in ("\x00", "\xe0"):
                    name = _WINDOWS.get(msvcrt.getwch())
                    keys += [] if name is None else [name]
                elif character == "\x03":
                    raise KeyboardInterrupt
                else:
                    keys += parse_keys(character)
            return keys

else:
    import os
    import select
    import termios
    import tty

    class Keyboard:
        """The keys of the terminal on stdin. Use it as a context manager, from one thread.

        Ctrl-C still raises KeyboardInterrupt.
        """

        def __init__(self, descriptor: int | None = None) -> None:
            """`descriptor` is the terminal's file descriptor; None: stdin."""
            self._fd = sys.stdin.fileno() if descriptor is None else descriptor
            self._before: Any = None

        def __enter__(self) -> Self:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            # TCSAFLUSH discards keys that were not read, so that the shell does not take them for a command.
            termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._before)

        def read(self, wait_seconds: float) -> list[str]:
            """Return the keys pressed; waits at most `wait_seconds` for the first one.

            Raises EOFError if the terminal was closed.
            """
            text = self._read(wait_seconds)
            while text and not _complete(text):
                more = self._read(_SEQUENCE_SECONDS)
                if not more:
                    break
                text += more
            return parse_keys(text)

        def _read(self, wait_seconds: float) -> str:
            if not select.select([self._fd], [], [], wait_seconds)[0]:
                return ""
            data = os.read(self._fd, 1024)
            if not data:
                raise EOFError("the terminal was closed")
            return data.decode(errors="ignore")
