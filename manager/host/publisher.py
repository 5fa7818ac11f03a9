"""Writes a host's records to Redis from one thread: many at a time, and again when Redis was away."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from manager import logs
from manager.errors import ManagerError
from manager.models import WorkerInfo

logger = logging.getLogger(__name__)

#: Seconds between two words of the agent, and between two tries while Redis is away.
_INTERVAL: Final = 1.0
#: Records that wait at most while Redis is away. The oldest go first: what an account is now matters more than what
#: it was, and every account's last record is among the newest.
_MAX_WAITING: Final = 20_000


class Store(Protocol):
    def record(
        self,
        host: str,
        infos: Iterable[WorkerInfo],
        beats: Mapping[str, Mapping[str, Any]],
        *,
        events: bool = True,
    ) -> None: ...
    def report_agent(self, host: str, data: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, int]: ...
    def forget_agent(self, host: str) -> None: ...


class Publisher:
    """Brings every record to the store, in order; a start never waits for an outage."""

    def __init__(
        self,
        store: Store,
        host: str,
        describe: Callable[[], Mapping[str, Any]],
        everything: Callable[[], Iterable[WorkerInfo]] = list,
    ) -> None:
        self._store = store
        self._host = host
        self._describe = describe
        self._everything = everything
        self._words = 0
        #: Accounts of which Redis has been told.
        self._recorded: set[str] = set()
        self._announced = False
        self._changed = threading.Condition()
        self._infos: list[WorkerInfo] = []
        self._beats: dict[str, Mapping[str, Any]] = {}
        self._waiting: list[threading.Event] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to write records; that the agent lives is not said before `announce`."""
        self._thread.start()

    def announce(self) -> None:
        """Say from now on that the agent lives: after what was handed over so far."""
        with self._changed:
            self._announced = True
            self._changed.notify()

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool:
        """Hand over a record; with `wait_seconds`, wait that long for it to be in Redis, and say whether it is."""
        written = threading.Event()
        with self._changed:
            self._infos.append(info)
            del self._infos[:-_MAX_WAITING]
            if beat is None:
                self._beats.pop(info.account_id, None)
            else:
                self._beats[info.account_id] = beat
            self._waiting.append(written)
            self._changed.notify()
        return written.wait(wait_seconds) if wait_seconds > 0 else False

    def close(self) -> None:
        """Write what is left if Redis answers, take the agent's word back, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        failing = False
        next_word = 0.0
        while True:
            with self._changed:
                if not self._infos and not self._closed:
                    pause = next_word - time.monotonic() if self._announced else _INTERVAL
                    self._changed.wait(max(0.0, pause))
                elif failing and not self._closed:
                    self._changed.wait(_INTERVAL)
                infos, beats, waiting = self._infos, self._beats, self._waiting
                self._infos, self._beats, self._waiting = [], {}, []
                closed = self._closed
            try:
                if infos:
                    self._store.record(self._host, infos, beats)
                    self._recorded.update(info.account_id for info in infos)
                if closed:
                    self._store.forget_agent(self._host)
                elif self._announced and time.monotonic() >= next_word:
                    self._speak()
                    next_word = time.monotonic() + _INTERVAL
            except ManagerError as error:
                if not failing:
                    logs.event(logger, logging.WARNING, "publish_failed", f"{error}; the workers go on")
                failing = True
                self._put_back(infos, beats, waiting)
                next_word = max(next_word, time.monotonic() + _INTERVAL)
            else:
                if failing:
                    logs.event(logger, logging.INFO, "publish_resumed", records=len(infos))
                failing = False
                for written in waiting:
                    written.set()
            if closed:
                return

    def _speak(self) -> None:
        """Say that the agent lives; if Redis has lost what it was told before, tell it again.

        It may have lost a part: one that reads its file with other rights than it was written with leaves out
        transactions, and those alone.
        """
        before, records = self._store.report_agent(self._host, {**self._describe(), "word": self._words + 1})
        said, self._words = self._words, self._words + 1
        if (said and (before is None or before.get("word") != said)) or records < len(self._recorded):
            infos = list(self._everything())
            self._store.record(self._host, infos, {}, events=False)
            logs.event(logger, logging.WARNING, "told_again", "Redis had lost records", records=len(infos))

    def _put_back(
        self,
        infos: list[WorkerInfo],
        beats: Mapping[str, Mapping[str, Any]],
        waiting: list[threading.Event],
    ) -> None:
        with self._changed:
            newer = {info.account_id for info in self._infos}
            self._infos[:0] = infos
            self._beats |= {key: beat for key, beat in beats.items() if key not in newer}
            self._waiting[:0] = waiting
