"""Calendars of exchanges: prepared once a day in a separate process, and stored."""

import difflib
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from manager.config.calendar_writer import NOT_INSTALLED, UNKNOWN_EXCHANGE
from manager.market.calendars import Calendars, ExchangeCalendar, MissingCalendarError
from manager.system import atomic_file
from manager.system.child_process import module_argv

#: Seconds after which a calendar is prepared again, and after a failure.
_FRESH_SECONDS: Final = 86_400.0
_RETRY_SECONDS: Final = 600.0
#: Seconds that the process may take; it needs about one.
_PREPARE_SECONDS: Final = 60.0
#: Bytes. A calendar has about 40,000; a larger file is not one.
_MAX_SIZE: Final = 5_000_000
_MIC: Final = re.compile(r"[A-Z0-9]{4}")


class ExchangeCalendars:
    """The calendars of this machine, by the code of their exchange. Thread-safe.

    With a directory they are also kept in files, so that they outlive the process and the package.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        prepare: "Callable[[str], str] | None" = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`prepare` returns the JSON of an exchange's calendar; `clock` seconds since 1970."""
        self._directory = directory
        self._prepare = prepare or prepare_calendar
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, ExchangeCalendar]] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._preparing: set[str] = set()

    def of(self, mics: Iterable[str], *, wait: bool = True) -> Calendars:
        """Return the calendars of these exchanges.

        Blocks for about a second for each that must be prepared. Without `wait` another thread prepares it,
        and the older one is returned until then. Raises MissingCalendarError if there is none.
        """
        return {mic: self._get(mic, wait) for mic in mics}

    def _get(self, mic: str, wait: bool) -> ExchangeCalendar:
        if not _MIC.fullmatch(mic):
            raise MissingCalendarError(
                f"{mic[:20]!r} is not the code of an exchange: it has four letters or digits, such as XNYS"
            )
        found = self._known.get(mic) or self._load(mic)
        if found is not None and self._clock() - found[0] < _FRESH_SECONDS:
            return found[1]
        failed = self._failed.get(mic)
        if failed is None or self._clock() - failed[0] >= _RETRY_SECONDS:
            if wait:
                self._renew(mic)
            else:
                self._renew_later(mic)
        found = self._known.get(mic, found)
        if found is not None:
            return found[1]
        reason = self._failed.get(mic)
        text = "it is being prepared" if reason is None else reason[1]
        raise MissingCalendarError(f"there is no calendar of exchange {mic}: {text}")

    def _renew_later(self, mic: str) -> None:
        with self._lock:
            if mic in self._preparing:
                return
            self._preparing.add(mic)

        def work() -> None:
            try:
                self._renew(mic)
            finally:
                with self._lock:
                    self._preparing.discard(mic)

        threading.Thread(target=work, name=f"calendar-{mic}", daemon=True).start()

    def _renew(self, mic: str) -> None:
        try:
            text = self._prepare(mic)
            calendar = ExchangeCalendar.from_document(json.loads(text))
        except ValueError as error:
            self._failed[mic] = (self._clock(), str(error))
            return
        self._failed.pop(mic, None)
        self._known[mic] = (self._clock(), calendar)
        if self._directory is not None:
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                atomic_file.write(self._path(mic), text)
            except OSError as error:
                # It is in memory, and prepared again by the next process.
                self._failed[mic] = (self._clock(), f"it cannot be saved: {error}")

    def _load(self, mic: str) -> tuple[float, ExchangeCalendar] | None:
        if self._directory is None:
            return None
        path = self._path(mic)
        try:
            status = path.stat()
            if status.st_size > _MAX_SIZE:
                return None
            calendar = ExchangeCalendar.from_document(json.loads(path.read_text()))
        except (OSError, ValueError):
            return None
        self._known[mic] = (status.st_mtime, calendar)
        return self._known[mic]

    def _path(self, mic: str) -> Path:
        assert self._directory is not None
        return self._directory / f"{mic}.json"


def prepare_calendar(mic: str) -> str:
    """Return the JSON of an exchange's calendar, from a separate process.

    Raises ValueError, which says what to do.
    """
    command = module_argv("manager.config.calendar_writer", mic)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PREPARE_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"the process that prepares it failed: {error}") from None
    if done.returncode == NOT_INSTALLED:
        raise ValueError(
            "the package exchange_calendars is not installed: pip install 'worker-manager[calendars]'"
        )
    if done.returncode == UNKNOWN_EXCHANGE:
        close = difflib.get_close_matches(mic, done.stderr.split(), n=1)
        hint = f"did you mean {close[0]}?" if close else "codes are MICs such as XNYS, XLON, XTKS"
        raise ValueError(f"exchange_calendars does not know it; {hint}")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ValueError(f"the process that prepares it failed: {last[:200]}")
    return done.stdout


#: The calendars of a process that keeps none in files, such as the command line.
CALENDARS: Final = ExchangeCalendars()

__all__ = ["CALENDARS", "ExchangeCalendars", "prepare_calendar"]
