"""Health of a running program: output, watchdog, probes, stops.

A live process alone proves nothing, because it may be a wrapper around the bot.
"""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Final

from manager.config.models import HealthConfig, ProbeConfig
from manager.gateways.command.notify import NotifySocket
from manager.gateways.command.ports import port_trouble
from manager.gateways.command.visible_text import VisibleText

#: Seconds between two searches for stopped processes (SIGSTOP). Each reads the process table.
_STOPPED_SECONDS: Final = 5.0


class ProgramHealth:
    """Health of one run of a program, from its start to `close`."""

    def __init__(
        self, config: HealthConfig, notify: NotifySocket | None, stopped: Callable[[], list[str]]
    ) -> None:
        """`stopped` returns the program's stopped processes as `name (pid N)`."""
        self._config = config
        self._notify = notify
        self._stopped = stopped
        self._stopped_next = 0.0
        self._stopped_found: list[str] = []
        self._was_silent = False
        every = config.line_every
        #: One per stream, because their parts are interleaved.
        self._lines: dict[str, VisibleText] = {}
        self._text = every.line if every is not None else None
        self._line_at = time.monotonic()
        self._probe = _Probe(config.probe) if config.probe is not None else None

    def started(self) -> None:
        """Begin to check: the program is ready."""
        self._line_at = time.monotonic()
        if self._probe is not None:
            self._probe.start()

    def feed(self, stream: str, part: bytes) -> None:
        """Process the next part of an output stream. Called by one thread only."""
        if not self._text or self._lines.setdefault(stream, VisibleText(self._text)).feed(part):
            self._line_at = time.monotonic()

    def trouble(self) -> str | None:
        """Return why the program is unhealthy, or None.

        Each reason has exceeded its threshold.
        """
        now = time.monotonic()
        sign = self._missing_sign(now)
        # A program that became silent may be stopped. That is the better reason, so search at once.
        if now >= self._stopped_next or (sign is not None and not self._was_silent):
            self._stopped_next = now + _STOPPED_SECONDS
            self._stopped_found = self._stopped()
        self._was_silent = sign is not None
        if self._stopped_found:
            return f"stopped by a signal (SIGSTOP or a debugger): {', '.join(self._stopped_found)}"
        return sign

    def _missing_sign(self, now: float) -> str | None:
        """Return which expected sign of the program is missing, or None."""
        every = self._config.line_every
        if every is not None and now - self._line_at > every.seconds:
            what = f"it has not printed {every.line!r}" if every.line else "it has printed nothing"
            return f"{what} for {now - self._line_at:.0f} s (health.line_every: {every.seconds:g} s)"
        if self._notify is not None and (trouble := self._notify.trouble()) is not None:
            return trouble
        return self._probe.trouble if self._probe is not None else None

    def close(self) -> None:
        if self._probe is not None:
            self._probe.close()


class _Probe:
    """Probes a port or a URL periodically, on a separate thread.

    An answer may hang.
    """

    def __init__(self, config: ProbeConfig) -> None:
        self._config = config
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        #: Why the last `failures` probes in a row failed, or None.
        self.trouble: str | None = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()

    def _run(self) -> None:
        failures = 0
        while not self._closing.wait(self._config.interval_seconds):
            reason = self._probe_once()
            failures = 0 if reason is None else failures + 1
            if failures >= self._config.failures:
                self.trouble = f"{reason} ({failures} failed probes in a row)"
            elif reason is None:
                self.trouble = None

    def _probe_once(self) -> str | None:
        config = self._config
        if config.http is not None:
            return url_trouble(config.http, config.timeout_seconds)
        return None if config.tcp is None else port_trouble(int(config.tcp), config.timeout_seconds)


def url_trouble(url: str, timeout: float) -> str | None:
    """Return why a URL does not answer with a 2xx status, or None.

    Blocks for `timeout` seconds at most.
    """
    try:
        # Proxies of the environment are ignored, because the URL is usually on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, ValueError) as error:
        return f"{url}: {getattr(error, 'reason', None) or error}"
    return None if 200 <= status < 300 else f"{url}: status {status}"
