"""What a program prints, as a person sees it: without colours and cursor movements, wherever the output is cut into parts."""

import codecs
import re
import time
import unicodedata
from typing import Final

#: Characters of the present line that are kept to look for a text in.
_MAX_LINE: Final = 8_192
#: Characters that an unfinished control sequence may have; more is text.
_MAX_SEQUENCE: Final = 256
#: Seconds after which a line that does not go on is taken as it is.
_UNFINISHED_SECONDS: Final = 0.2

#: ECMA-48 control sequences (colours, cursor), operating system commands (window titles), and other escapes.
_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[PX^_][^\x1b\n]*\x1b\\|\x1b[ -/]*[0-Z\\^-~]"
)
#: The cursor moves right: terminal libraries and Windows' consoles write blanks like this.
_FORWARD: Final = re.compile(r"\x1b\[(\d{0,3})C")
#: What may become one of these when more has come.
_UNFINISHED: Final = re.compile(r"\x1b[^\n]*\Z")
#: Printed for the terminal, not for the eye.
_INVISIBLE: Final = dict.fromkeys([*range(0x08), 0x0B, 0x0C, *range(0x0E, 0x1B), 0x7F])


class VisibleText:
    """Finds lines in a stream of output that hold a text."""

    def __init__(self, text: str) -> None:
        self._text = _normal(text)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._raw = ""
        self._line = ""
        self._in_line = False
        self._seen_at: float | None = None
        self._finished_at: float | None = None

    def feed(self, part: bytes) -> bool:
        """Take the next part; True if the text appeared in it, where it had not appeared in the same line before."""
        raw = self._raw + self._decoder.decode(part)
        raw = _SEQUENCE.sub("", _FORWARD.sub(lambda found: " " * int(found[1] or 1), raw))
        unfinished = _UNFINISHED.search(raw)
        if unfinished is not None and len(unfinished[0]) <= _MAX_SEQUENCE:
            raw, self._raw = raw[: unfinished.start()], unfinished[0]
        else:
            self._raw = ""
        found = False
        # A carriage return alone goes back to the start of the line: what follows is another line to the eye.
        pieces = re.split(r"[\r\n]", raw)
        for number, piece in enumerate(pieces):
            if number:
                self._end_line()
            if piece:
                found = self._grow(piece) or found
        return found

    @property
    def seen(self) -> bool:
        """Whether the text has appeared, and its line has ended or does not go on: a program may print no line end."""
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
    """Return a line as it is after its backspaces, by which spinners and progress bars write over themselves."""
    if "\b" not in line:
        return line
    seen: list[str] = []
    for letter in line:
        if letter != "\b":
            seen.append(letter)
        elif seen:
            seen.pop()
    return "".join(seen)


def visible(text: str) -> str:
    """Return one line as a person sees it: without control sequences, and what a carriage return has not covered."""
    text = _SEQUENCE.sub("", _FORWARD.sub(lambda found: " " * int(found[1] or 1), text))
    text = _UNFINISHED.sub("", text).translate(_INVISIBLE)
    shown = [part for part in text.split("\r") if part.strip()]
    return _typed_over(shown[-1]) if shown else ""


def _normal(text: str) -> str:
    """Return a text in which what looks the same is the same: composed characters, one kind of blank, no joiners."""
    if text.isascii():
        return text
    shown = (
        " " if unicodedata.category(letter) == "Zs" else letter
        for letter in unicodedata.normalize("NFC", text)
    )
    return "".join(letter for letter in shown if unicodedata.category(letter) != "Cf")
