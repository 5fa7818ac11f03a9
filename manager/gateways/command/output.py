"""What a program prints: read as it comes, each stream masked as one, and told line by line."""

import codecs
import selectors
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from manager.system.masking import Masker

#: Characters of one line that are kept; a program that prints without an end must not fill the memory.
MAX_LINE: Final = 8_192
#: Bytes that are read at once.
_PART: Final = 65_536
#: Seconds after which the beginning of a line is told although its end has not come: a question, dots.
_UNFINISHED_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class OutputLine:
    """One line that a program printed, secrets masked; or a part of one."""

    #: `stdout` or `stderr`.
    stream: str
    #: Without the line's end. Bytes that are not UTF-8 are surrogates (PEP 383).
    text: str
    #: Whether the line goes on in the stream's next `OutputLine`: it was too long, or its end has not come.
    cut: bool = False


class OutputReader:
    """Reads a program's standard output and error to their ends.

    `on_line` gets each line. A secret is masked in its stream, before that is cut into lines: no part of one
    gets through because the rest stands elsewhere. `on_part` gets the stream's name and every part as the
    program printed it, secrets in clear, after its lines; it must not keep it. Neither is called by two
    threads at once. Lines of the two streams come in the order in which they were read: what a program writes
    to both within a moment has no order in two pipes.
    """

    def __init__(
        self,
        secrets: Masker,
        on_line: Callable[[OutputLine], None],
        on_part: Callable[[str, bytes], None],
    ) -> None:
        self._secrets = secrets
        self._on_line = on_line
        self._on_part = on_part
        self._lock = threading.Lock()
        self._latest: _Stream | None = None

    def unfinished(self) -> OutputLine | None:
        """Return the beginning of a line that was read last of all and has not been told; from any thread."""
        latest = self._latest
        text = latest.text if latest is not None else ""
        return OutputLine(latest.name, text, cut=True) if latest is not None and text else None

    def read(self, outputs: Mapping[str, BinaryIO]) -> None:
        """Read until every output is closed. Raises OSError, or ValueError if this process closed one."""
        streams = {name: _Stream(name, self._secrets, self._on_line) for name in outputs}
        try:
            if sys.platform == "win32":
                self._read_by_threads(outputs, streams)
            else:
                self._read_in_turn(outputs, streams)
        finally:
            for stream in streams.values():
                stream.end()

    def _read_in_turn(self, outputs: Mapping[str, BinaryIO], streams: "Mapping[str, _Stream]") -> None:
        """On one thread: what came first is read first."""
        with selectors.DefaultSelector() as selector:
            for name, output in outputs.items():
                selector.register(output, selectors.EVENT_READ, name)
            while selector.get_map():
                waiting = [stream.told_at for stream in streams.values() if stream.text]
                timeout = max(0.0, min(waiting) - time.monotonic()) if waiting else None
                # Standard error last: where both have come, an error text is what was said last.
                for key, _ in sorted(
                    selector.select(timeout), key=lambda found: str(found[0].data) == "stderr"
                ):
                    output = cast(BinaryIO, key.fileobj)
                    if not self._take(streams[key.data], _read(output)):
                        selector.unregister(output)
                now = time.monotonic()
                for stream in streams.values():
                    if stream.text and now >= stream.told_at:
                        stream.tell_unfinished()

    def _read_by_threads(self, outputs: Mapping[str, BinaryIO], streams: "Mapping[str, _Stream]") -> None:
        """Where pipes cannot be waited for together."""

        def read(name: str, output: BinaryIO) -> None:
            try:
                while self._take(streams[name], _read(output)):
                    pass
            except (OSError, ValueError):
                return

        threads = [threading.Thread(target=read, args=found, daemon=True) for found in outputs.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _take(self, stream: "_Stream", part: bytes) -> bool:
        """Take the next part of a stream; False if that was its end."""
        if not part:
            return False
        with self._lock:
            stream.feed(part)
            self._latest = stream
            self._on_part(stream.name, part)
        return True


class _Stream:
    """One of the two streams, cut into lines."""

    def __init__(self, name: str, secrets: Masker, on_line: Callable[[OutputLine], None]) -> None:
        self.name = name
        self._masked = secrets.stream()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._on_line = on_line
        self._line = ""
        #: When the beginning of a line is told although its end has not come.
        self.told_at = 0.0

    @property
    def text(self) -> str:
        """What has not been told of the present line."""
        return self._line

    def feed(self, part: bytes) -> None:
        text = self._decoder.decode(self._masked.feed(part))
        if not self._line or "\n" in text:
            self.told_at = time.monotonic() + _UNFINISHED_SECONDS
        self._add(text)

    def tell_unfinished(self) -> None:
        while self._line:
            self._tell(self._line[:MAX_LINE], cut=True)
            self._line = self._line[MAX_LINE:]

    def end(self) -> None:
        """Tell what is left: the stream has ended."""
        self._add(self._decoder.decode(self._masked.flush(), final=True))
        self.tell_unfinished()

    def _add(self, text: str) -> None:
        self._line += text
        *lines, rest = self._line.split("\n")
        for line in lines:
            self._tell(self._tell_all_but_the_end(line), cut=False)
        self._line = self._tell_all_but_the_end(rest)

    def _tell_all_but_the_end(self, text: str) -> str:
        """Tell a text that is too long in parts; returns what is left of it."""
        while len(text) > MAX_LINE:
            self._tell(text[:MAX_LINE], cut=True)
            text = text[MAX_LINE:]
        return text

    def _tell(self, text: str, *, cut: bool) -> None:
        self._on_line(OutputLine(self.name, text, cut))


def _read(output: BinaryIO) -> bytes:
    """Return as much as there is, at least one byte; nothing at the end."""
    read1 = getattr(output, "read1", None)
    part = read1(_PART) if read1 is not None else output.read(_PART)
    return cast(bytes, part or b"")
