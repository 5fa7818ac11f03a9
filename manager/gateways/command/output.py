"""What a program prints: read as it comes, masked as one stream, and told line by line."""

import codecs
from collections.abc import Callable
from typing import BinaryIO, Final, cast

from manager.system.masking import Masker

#: Bytes of one line that are kept; a program that prints without an end must not fill the memory.
MAX_LINE: Final = 8_192
#: Bytes that are read at once.
_PART: Final = 65_536


class OutputReader:
    """Reads a program's output to its end.

    `on_line` gets each line without its end, secrets masked; a line longer than `MAX_LINE` comes in parts. A secret is
    masked in the stream, before it is cut into lines: no part of one gets through because the rest stands elsewhere.
    `on_part` gets every part as the program printed it, secrets in clear, after its lines; it must not keep it.
    """

    def __init__(
        self, secrets: Masker, on_line: Callable[[str], None], on_part: Callable[[bytes], None]
    ) -> None:
        self._stream = secrets.stream()
        self._on_line = on_line
        self._on_part = on_part
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._line = ""

    def read(self, output: BinaryIO) -> None:
        """Read until the output is closed. Raises OSError, or ValueError if this process closed it."""
        try:
            # As much as there is, so that a line which never ends is seen as well.
            while part := cast(bytes, output.read1(_PART)):  # type: ignore[attr-defined]
                self._take(self._decoder.decode(self._stream.feed(part)))
                self._on_part(part)
        finally:
            self._take(self._decoder.decode(self._stream.flush(), final=True))
            self._end_line()

    def _take(self, text: str) -> None:
        self._line += text
        *lines, rest = self._line.split("\n")
        for line in lines:
            self._line = line
            self._end_line()
        self._line = rest
        while len(self._line) > MAX_LINE:
            self._tell(self._line[:MAX_LINE])
            self._line = self._line[MAX_LINE:]

    def _end_line(self) -> None:
        line, self._line = self._line, ""
        while len(line) > MAX_LINE:
            self._tell(line[:MAX_LINE])
            line = line[MAX_LINE:]
        self._tell(line)

    def _tell(self, line: str) -> None:
        line = line.rstrip()
        if line:
            self._on_line(line)
