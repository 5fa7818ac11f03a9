"""A host's copy of desired state on disk.

It serves to restore a Redis that lost its data, and to know on which host an account ran before the loss.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from manager.fleet.desired import DesiredState
from manager.host.reconcile.reserve_file import ReserveFile
from manager.system import atomic_file, logs
from manager.system.storage import explain

logger = logging.getLogger(__name__)

#: Key in a record: the host where the account ran when Redis lost its data.
_RAN_ON: Final = "ran_on"


class DesiredStateFile:
    """One small file, replaced as a whole, and a reserve file for a full disk.

    Used by one thread at a time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserve = ReserveFile(path.with_suffix(".reserve"))
        #: Whether an agent that starts now would find what was last saved.
        self.safe = True
        self._written: str | None = None
        self._lines: dict[str, tuple[DesiredState, str | None, str]] = {}
        self._failing = False
        #: The text in the reserve file, or None if that is unknown.
        self._reserved: str | None = None

    @property
    def missing(self) -> bool:
        """Whether the file does not exist."""
        return not self._path.exists()

    def load(self) -> tuple[dict[str, DesiredState], dict[str, str]]:
        """Return desired states and uncertain hosts, both by account.

        An uncertain host is the one where an account ran when Redis lost its data. An unreadable file is
        logged, and read up to its first bad record.
        """
        found, uncertain = self._parse(self._path, self._path.read_text)
        reserved = self._reserve.read()
        if reserved is not None:
            # Written when the file could not be. The file is newer only if the machine stopped between the
            # two writes.
            later, ran_on = self._parse(self._path.with_suffix(".reserve"), lambda: reserved)
            for account_id, desired in later.items():
                before = found.get(account_id)
                if before is not None and before.generation > desired.generation:
                    continue
                found[account_id] = desired
                uncertain.pop(account_id, None)
                if account_id in ran_on:
                    uncertain[account_id] = ran_on[account_id]
        return found, uncertain

    @staticmethod
    def _parse(path: Path, read: Callable[[], str]) -> tuple[dict[str, DesiredState], dict[str, str]]:
        found: dict[str, DesiredState] = {}
        uncertain: dict[str, str] = {}
        try:
            data = json.loads(read())
            for account_id, record in data.items():
                desired = DesiredState.from_json(account_id, json.dumps(record))
                if desired is None:
                    raise ValueError(f"account {account_id}")
                found[account_id] = desired
                if isinstance(ran_on := record.get(_RAN_ON), str):
                    uncertain[account_id] = ran_on
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            logs.event(
                logger,
                logging.WARNING,
                "desired_state_file_ignored",
                f"{path} cannot be read in full: {error}",
            )
        return found, uncertain

    def save(self, desired: Iterable[DesiredState], uncertain: Mapping[str, str]) -> str | None:
        """Write the file if anything changed.

        Returns why it could not be written, or None. Raises nothing.
        """
        # Lines of unchanged objects are reused: while a fleet of thousands starts, this runs five times a
        # second.
        kept: dict[str, tuple[DesiredState, str | None, str]] = {}
        for one in desired:
            ran_on = uncertain.get(one.account_id)
            before = self._lines.get(one.account_id)
            if before is None or before[0] is not one or before[1] != ran_on:
                record = one.to_record() if ran_on is None else {**one.to_record(), _RAN_ON: ran_on}
                before = (one, ran_on, f"{json.dumps(one.account_id)}: {json.dumps(record)}")
            kept[one.account_id] = before
        self._lines = kept
        text = "{\n" + ",\n".join(line for _, _, line in kept.values()) + "\n}\n"
        if text == self._written and self._path.exists():
            return None
        try:
            atomic_file.write(self._path, text, durable=True)
        except OSError as error:
            return self._save_in_reserve(text, error)
        self.safe = True
        self._failing = False
        self._written, self._reserved = text, None
        # Without room for the reserve file, `desired.json` alone is saved.
        with contextlib.suppress(OSError):
            self._reserve.clear()
            self._reserve.reserve(len(text.encode()))
        return None

    def _save_in_reserve(self, text: str, error: OSError) -> str:
        """Save the text in the reserve file; return what is wrong with the disk."""
        self._written = None
        # Only if it has changed: this is called several times a second.
        if self._reserved != text:
            try:
                self._reserve.write(text)
            except OSError:
                self._reserved = None
            else:
                self._reserved = text
        self.safe = self._reserved is not None
        outcome = (
            "commands are saved in reserved space until then"
            if self.safe
            else "a restart of this host agent may forget commands until then"
        )
        trouble = f"{explain(error, self._path)}; {outcome}. Running workers are not affected."
        if not self._failing:
            logs.event(logger, logging.ERROR, "desired_state_file_failed", trouble)
        self._failing = True
        return trouble
