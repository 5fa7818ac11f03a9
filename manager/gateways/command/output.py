"""Reads a program's output, masked, and reports it line by line."""

import codecs
import selectors
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from manager.system.masking import Masker

#: Maximum length of a line in characters: output without line ends must not fill the memory.
MAX_LINE: Final = 8_192
#: Bytes per read.
_PART: Final = 65_536
#: Seconds after which an unfinished line, such as a question or dots, is reported.
_UNFINISHED_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class OutputLine:
    """One line of output, or a part of one, with secrets masked."""

    #: `stdout` or `stderr`.
    stream: str
    #: The text without the line end. Bytes that are not UTF-8 are surrogates (PEP 383).
    text: str
    #: Whether the line continues in the stream's next `OutputLine`: it is too long or not finished.
    cut: bool = False


class OutputReader:
    """Reads a program's standard output and standard error to their ends.

    `on_line` receives each line. Secrets are masked in the stream before it is split into lines, so that a
    secret across a line end is masked too. `on_part` receives the stream's name and each part unmasked, after
    its lines; it must not store the part. The two callbacks are never called at the same time. Lines of the
    two streams are reported in the order of reading, because simultaneous writes to two pipes have no order.
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
        """Return the unreported beginning of the line that was read last, or None.

        Thread-safe.
        """
        latest = self._latest
        text = latest.text if latest is not None else ""
        return OutputLine(latest.name, text, cut=True) if latest is not None and text else None

    def read(self, outputs: Mapping[str, BinaryIO]) -> None:
        """Read until all outputs are closed.

        Raises OSError, or ValueError if this process closed one.
        """
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
        """Read on one thread, in the order of arrival."""
        with selectors.DefaultSelector() as selector:
            for name, output in outputs.items():
                selector.register(output, selectors.EVENT_READ, name)
            while selector.get_map():
                waiting = [stream.report_at for stream in streams.values() if stream.text]
                timeout = max(0.0, min(waiting) - time.monotonic()) if waiting else None
                # Standard error last, so that an error text is the last line if both streams have data.
                for key, _ in sorted(
                    selector.select(timeout), key=lambda found: str(found[0].data) == "stderr"
                ):
                    output = cast(BinaryIO, key.fileobj)
                    if not self._take(streams[key.data], _read(output)):
                        selector.unregister(output)
                now = time.monotonic()
                for stream in streams.values():
                    if stream.text and now >= stream.report_at:
                        stream.report_unfinished()

    def _read_by_threads(self, outputs: Mapping[str, BinaryIO], streams: "Mapping[str, _Stream]") -> None:
        """Read with one thread per pipe, if the system cannot wait for several."""

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
        """Process the next part of a stream; returns False at its end."""
        if not part:
            return False
        with self._lock:
            stream.feed(part)
            self._latest = stream
            self._on_part(stream.name, part)
        return True


class _Stream:
    """One of the two streams, split into lines."""

    def __init__(self, name: str, secrets: Masker, on_line: Callable[[OutputLine], None]) -> None:
        self.name = name
        self._masked = secrets.stream()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._on_line = on_line
        self._line = ""
        #: When an unfinished line is reported (`time.monotonic()`).
        self.report_at = 0.0

    @property
    def text(self) -> str:
        """The unreported part of the current line."""
        return self._line

    def feed(self, part: bytes) -> None:
        text = self._decoder.decode(self._masked.feed(part))
        if not self._line or "\n" in text:
            self.report_at = time.monotonic() + _UNFINISHED_SECONDS
        self._add(text)

    def report_unfinished(self) -> None:
        while self._line:
            self._report(self._line[:MAX_LINE], cut=True)
            self._line = self._line[MAX_LINE:]

    def end(self) -> None:
        """Report the rest at the end of the stream."""
        self._add(self._decoder.decode(self._masked.flush(), final=True))
        self.report_unfinished()

    def _add(self, text: str) -> None:
        self._line += text
        *lines, rest = self._line.split("\n")
        for line in lines:
            self._report(self._report_excess(line), cut=False)
        self._line = self._report_excess(rest)

    def _report_excess(self, text: str) -> str:
        """Report parts of a text that is too long; returns the rest."""
        while len(text) > MAX_LINE:
            self._report(text[:MAX_LINE], cut=True)
            text = text[MAX_LINE:]
        return text

    def _report(self, text: str, *, cut: bool) -> None:
        self._on_line(OutputLine(self.name, text, cut))


def _read(output: BinaryIO) -> bytes:
    """Return the available bytes, at least one; none at the end."""
    read1 = getattr(output, "read1", None)
    part = read1(_PART) if read1 is not None else output.read(_PART)
    return cast(bytes, part or b"")
