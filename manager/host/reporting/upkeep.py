"""Restores deleted files in the host agent's state directory.

An operator may delete them, as with `rm -r run`. Otherwise every start would fail until the agent is
restarted, and the next agent would not find the running workers. A second agent could also lock the state
directory, because the lock file would have no name any more.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Final

from manager.errors import SettingsError
from manager.system import logs
from manager.system.file_lock import FileLock
from manager.system.state_dir import StatePaths

logger = logging.getLogger(__name__)

#: Checks in a row after which a lock held by another process counts as another agent's.
_MISSES: Final = 2
_HINT: Final = "running workers are not affected; starts fail until this is fixed"


class StateUpkeep:
    """Checks and restores the state directory of one agent.

    Used by one thread; raises nothing.
    """

    def __init__(
        self,
        paths: StatePaths,
        lock: FileLock,
        restorers: Iterable[Callable[[], None]],
        on_lock_lost: Callable[[str], None],
    ) -> None:
        """Prepare to check `paths`.

        `restorers` write missing files of the agent's parts; they may raise OSError. `on_lock_lost` is called
        with the reason when another process has locked this state directory.
        """
        self._paths = paths
        self._home = paths.home
        self._lock = lock
        self._restorers = list(restorers)
        #: Checks in a row in which another process had the lock.
        self._lock_misses = 0
        self._on_lock_lost = on_lock_lost
        #: Why something cannot be restored, or None if nothing is missing.
        self.trouble: str | None = None

    def add(self, restorer: Callable[[], None]) -> None:
        """Add a restorer. Call it before the first `check`."""
        self._restorers.append(restorer)

    def check(self) -> None:
        """Restore what is missing. Cheap while nothing is."""
        try:
            self._paths.create(self._home)
            self._lock_misses = 0 if self._lock.renew() else self._lock_misses + 1
            # Not at the first miss: a command that checks for a running agent takes the lock for a moment.
            if self._lock_misses >= _MISSES:
                self._on_lock_lost(
                    f"another host agent (pid {self._lock.holder()}) has locked {self._paths.agent_lock}, "
                    "which was deleted while this agent ran"
                )
                return
            for restore in self._restorers:
                restore()
        except (OSError, SettingsError) as error:
            self._set_trouble(f"{error}; {_HINT}")
        else:
            self._set_trouble(None)

    def _set_trouble(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            logs.event(logger, logging.ERROR, "state_dir_damaged", trouble)
        self.trouble = trouble
