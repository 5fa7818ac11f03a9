"""What the host agent needs in its state directory, made again when somebody has removed it.

People tidy: `rm -r logs`, `rm -r run`. What this prevents: every start fails until the agent is restarted,
the next agent does not find the workers that run, and a second agent takes the lock file that has no name
any more.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Final

from manager.errors import SettingsError
from manager.system import logs
from manager.system.file_lock import FileLock
from manager.system.state_dir import StatePaths

logger = logging.getLogger(__name__)

#: Looks after which a lock that somebody else has counts as another agent's.
_MISSES: Final = 2
#: Said to people where a file cannot be made again.
_HINT: Final = "workers go on; starts fail until this is put right"


class StateUpkeep:
    """Looks after the state directory of one agent. Used by one thread; raises nothing."""

    def __init__(
        self,
        paths: StatePaths,
        lock: FileLock,
        menders: Iterable[Callable[[], None]],
        on_lock_lost: Callable[[str], None],
    ) -> None:
        """`menders` write again what the parts of the agent keep there; they may raise OSError.

        `on_lock_lost` is called with the reason when another process has locked this state directory.
        """
        self._paths = paths
        self._home = paths.home
        self._lock = lock
        self._menders = list(menders)
        #: Looks in a row in which somebody else had the lock.
        self._lock_misses = 0
        self._on_lock_lost = on_lock_lost
        #: What cannot be made again, for people; None if nothing.
        self.trouble: str | None = None

    def look(self) -> None:
        """Make again what is missing. Cheap while nothing is."""
        try:
            self._paths.create(self._home)
            self._lock_misses = 0 if self._lock.renew() else self._lock_misses + 1
            # Twice: a command that asks whether an agent runs takes the lock for a moment.
            if self._lock_misses >= _MISSES:
                self._on_lock_lost(
                    f"another host agent (pid {self._lock.holder()}) has locked {self._paths.agent_lock}, which was "
                    "removed under this one"
                )
                return
            for mend in self._menders:
                mend()
        except (OSError, SettingsError) as error:
            self._note(f"{error}; {_HINT}")
        else:
            self._note(None)

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            logs.event(logger, logging.ERROR, "state_directory", trouble)
        self.trouble = trouble
