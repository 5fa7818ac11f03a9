"""Looks at the account files again and again, and returns what two looks agree on."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from manager.config.loaded import LoadedAccount
from manager.config.schedule_file import ScheduleFile
from manager.errors import ManagerError
from manager.host.workers.bounded_reads import BoundedConfiguration

#: Seconds between two looks.
SWEEP_SECONDS: Final = 2.0


class ConfigSweep:
    """The account files of this host, by their content and not by their time of change.

    A file that is being written, a share that was unmounted and a replaced directory differ between two
    looks. Used by one thread.
    """

    def __init__(
        self,
        config_service: BoundedConfiguration,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = SWEEP_SECONDS,
    ) -> None:
        """`clock` returns monotonic seconds; `seconds` pass between two looks."""
        self._config_service = config_service
        self._clock = clock
        self._seconds = seconds
        self._next = clock()
        self._last: Mapping[str, LoadedAccount] = {}
        self._schedules: ScheduleFile | None = None
        #: How many looks succeeded.
        self.looks = 0
        #: What the last two looks agree on; of the first look everything.
        self.settled: Mapping[str, LoadedAccount] = {}
        #: The named schedules, in the same way.
        self.schedules = ScheduleFile()
        #: All accounts with a file at the last look.
        self.present: frozenset[str] = frozenset()

    def look(self) -> bool:
        """Look if it is due; return whether it was.

        Raises ManagerError and OSError if the directory cannot be read; then everything stays as it was.
        """
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._seconds
        try:
            snapshot = self._config_service.snapshot()
        except (ManagerError, OSError):
            self.looks = min(self.looks, 1)  # what was seen before the failure does not count as a look
            raise
        before, self._last = self._last, snapshot.accounts
        if not self.looks:
            self.settled = snapshot.accounts
        elif before is not snapshot.accounts or len(self.settled) != len(before):
            self.settled = {key: one for key, one in snapshot.accounts.items() if _same(before.get(key), one)}
        if self._schedules is None or self._schedules == snapshot.schedules:
            self.schedules = snapshot.schedules
        self._schedules = snapshot.schedules
        self.present = frozenset(snapshot.accounts)
        self.looks += 1
        return True


def _same(before: LoadedAccount | None, now: LoadedAccount) -> bool:
    """Return whether two looks read the same. Files whose time of change tells nothing are read each time."""
    return before is now or before == now
