"""The output of a running program: logged, and searched for a text."""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final

from manager.gateways.command.output import OutputLine, OutputReader
from manager.gateways.command.visible_text import VisibleText, visible
from manager.system import logs
from manager.system.masking import Masker
from manager.system.output_text import escape_output

logger = logging.getLogger("manager.program")

#: Maximum length of the program's last line in an error text, in characters.
_LAST_LINE: Final = 500
_STREAMS: Final = ("stdout", "stderr")


class ProgramOutput:
    """Reads the output on a thread, from `start` until the program closes it.

    The other methods may be called from any thread.
    """

    def __init__(
        self, secrets: Masker, ready_text: str | None, on_part: Callable[[str, bytes], None]
    ) -> None:
        """Create a reader.

        `on_part` receives the stream's name and each part of the output, unmasked.
        """
        self._on_health_part = on_part
        #: One per stream, because their parts are interleaved.
        self._ready_texts = (
            {name: VisibleText(ready_text) for name in _STREAMS} if ready_text is not None else {}
        )
        self._changed = threading.Condition()
        self._open = True
        #: The last line that is not blank.
        self._last_line = ""
        #: Stream → the beginning of its current line.
        self._line_starts: dict[str, str] = {}
        self._reader = OutputReader(secrets, self._on_line, self._on_part)
        self._thread: threading.Thread | None = None

    def start(self, outputs: Mapping[str, BinaryIO]) -> None:
        """Begin to read."""
        self._thread = threading.Thread(target=self._read, args=(outputs,), name="output", daemon=True)
        self._thread.start()

    @property
    def has_ready_text(self) -> bool:
        """Whether the program has printed the text that shows readiness."""
        return any(text.seen for text in self._ready_texts.values())

    def wait_for_change(self, seconds: float) -> None:
        """Block until the output has changed, for at most `seconds`."""
        with self._changed:
            self._changed.wait(seconds)

    def last_line(self, seconds: float) -> str:
        """Return the last line that is not blank.

        Waits up to `seconds` for the end of the output.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._open, timeout=seconds)
            return self._last_line

    def summary(self) -> str:
        """Return the last output, for an error text.

        Includes a line without an end.
        """
        with self._changed:
            shown = self._last_line
            current = self._reader.unfinished()
            if current is not None:
                start = self._line_starts.get(current.stream, "")
                shown = visible(start + current.text).strip() or shown
        return f"its last output: {shown[:_LAST_LINE]}" if shown else "it has printed nothing"

    def join(self, seconds: float) -> None:
        """Wait up to `seconds` until the output has been read to its end."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _read(self, outputs: Mapping[str, BinaryIO]) -> None:
        # A program may close its output and continue; then only its process shows its state.
        with contextlib.suppress(OSError, ValueError):
            self._reader.read(outputs)
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _on_line(self, line: OutputLine) -> None:
        text, escaped = escape_output(line.text)
        logs.event(
            logger,
            logging.INFO,
            "output",
            text,
            stream=line.stream,
            cut=True if line.cut else None,
            esc=True if escaped else None,
        )
        with self._changed:
            whole = (self._line_starts.get(line.stream, "") + line.text)[:_LAST_LINE]
            self._line_starts[line.stream] = whole if line.cut else ""
            shown = visible(whole).strip()
            if shown:
                self._last_line = shown

    def _on_part(self, stream: str, part: bytes) -> None:
        # The unmasked output is searched, because the configured text may contain a secret.
        self._on_health_part(stream, part)
        text = self._ready_texts.get(stream)
        if text is not None and text.feed(part):
            with self._changed:
                self._changed.notify_all()
