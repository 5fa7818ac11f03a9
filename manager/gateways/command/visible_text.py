"""Output as it appears on a screen: without colours and cursor movements.

Works on output in parts that may be split anywhere.
"""

import codecs
import re
import time
import unicodedata
from typing import Final

#: Maximum number of characters of the current line to search.
_MAX_LINE: Final = 8_192
#: Maximum length of an unfinished control sequence; a longer one is text.
_MAX_SEQUENCE: Final = 256
#: Seconds after which an unfinished line counts as finished.
_UNFINISHED_SECONDS: Final = 0.2

#: ECMA-48 control sequences (colours, cursor), operating system commands (window titles), and other escapes.
_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|"
    r"\x1b[PX^_][^\x1b\n]*\x1b\\|\x1b[ -/]*[0-Z\\^-~]"
)
#: Cursor to the right: terminal libraries and Windows consoles write blanks in this way.
_FORWARD: Final = re.compile(r"\x1b\[(\d{0,3})C")
#: The beginning of a control sequence at the end of a part.
_UNFINISHED: Final = re.compile(r"\x1b[^\n]*\Z")
#: Control characters without visible effect.
_INVISIBLE: Final = dict.fromkeys([*range(0x08), 0x0B, 0x0C, *range(0x0E, 0x1B), 0x7F])


class VisibleText:
    """Searches a stream of output for lines that contain a text."""

    def __init__(self, text: str) -> None:
        self._text = _normal(text)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._raw = ""
        self._line = ""
        self._in_line = False
        self._seen_at: float | None = None
        self._finished_at: float | None = None

    def feed(self, part: bytes) -> bool:
        """Process the next part.

        Returns whether a line contains the text for the first time.
        """
        raw = self._raw + self._decoder.decode(part)
        raw = _SEQUENCE.sub("", _FORWARD.sub(lambda found: " " * int(found[1] or 1), raw))
        unfinished = _UNFINISHED.search(raw)
        if unfinished is not None and len(unfinished[0]) <= _MAX_SEQUENCE:
            raw, self._raw = raw[: unfinished.start()], unfinished[0]
        else:
            self._raw = ""
        found = False
        # A lone carriage return moves to the start of the line, so the following text appears as a new line.
        pieces = re.split(r"[\r\n]", raw)
        for number, piece in enumerate(pieces):
            if number:
                self._end_line()
            if piece:
                found = self._grow(piece) or found
        return found

    @property
    def seen(self) -> bool:
        """Whether the text has appeared and its line is finished.

        A line without an end counts as finished after 0.2 seconds.
        """
        if self._seen_at is None:
            return False
        return self._finished_at is not None or time.monotonic() - self._seen_at >= _UNFINISHED_SECONDS

    def _grow(self, piece: str) -> bool:
        line = _typed_over(self._line + piece.translate(_INVISIBLE))
        self._line = line[-_MAX_LINE:]
        if self._in_line or self._text not in _normal(line):
            return False
        self._in_line = True
        if self._seen_at is None:
            self._seen_at = time.monotonic()
        return True

    def _end_line(self) -> None:
        if self._in_line and self._finished_at is None:
            self._finished_at = time.monotonic()
        self._line, self._in_line = "", False


def _typed_over(line: str) -> str:
    """Return a line with its backspaces applied.

    Spinners and progress bars use them.
    """
    if "\b" not in line:
        return line
    shown: list[str] = []
    for letter in line:
        if letter != "\b":
            shown.append(letter)
        elif shown:
            shown.pop()
    return "".join(shown)


def visible(text: str) -> str:
    """Return one line without control sequences and overwritten text."""
    text = _SEQUENCE.sub("", _FORWARD.sub(lambda found: " " * int(found[1] or 1), text))
    text = _UNFINISHED.sub("", text).translate(_INVISIBLE)
    shown = [part for part in text.split("\r") if part.strip()]
    return _typed_over(shown[-1]) if shown else ""


def _normal(text: str) -> str:
    """Return a text normalized for comparison.

    Composes characters, unifies blanks and removes joiners.
    """
    if text.isascii():
        return text
    shown = (
        " " if unicodedata.category(letter) == "Zs" else letter
        for letter in unicodedata.normalize("NFC", text)
    )
    return "".join(letter for letter in shown if unicodedata.category(letter) != "Cf")
