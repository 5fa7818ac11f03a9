"""What a host remembers of desired state, on disk: a Redis that lost it is told again, and where an account ran is known."""

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

#: In a record: the host where the account ran when Redis lost that.
_RAN_ON: Final = "ran_on"


class DesiredStateFile:
    """One small file, written whole; and space beside it that was reserved for when the disk is full."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserve = ReserveFile(path.with_suffix(".reserve"))
        #: Whether a restart of this host would know what was saved last.
        self.safe = True
        self._written: str | None = None
        self._lines: dict[str, tuple[DesiredState, str | None, str]] = {}
        self._failing = False
        #: What stands in the reserve; None if that is not known.
        self._reserved: str | None = None

    def load(self) -> tuple[dict[str, DesiredState], dict[str, str]]:
        """Return what was remembered to be wanted, and where accounts ran when Redis lost that.

        What cannot be read is left out, and named in the log.
        """
        found, uncertain = self._parse(self._path, self._path.read_text)
        reserved = self._reserve.read()
        if reserved is not None:
            # Saved when the file could not be. The file may be newer only if the machine stopped between the two writes.
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
            logs.event(logger, logging.WARNING, "memory_ignored", f"{path} cannot be read in full: {error}")
        return found, uncertain

    def save(self, desired: Iterable[DesiredState], uncertain: Mapping[str, str]) -> str | None:
        """Write if anything changed; returns what is wrong if it cannot be written. Raises nothing."""
        # Most are the same objects as the last time; a fleet of thousands is written five times a second while it starts.
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
        # Until there is room for it, `desired.json` alone is saved.
        with contextlib.suppress(OSError):
            self._reserve.clear()
            self._reserve.reserve(len(text.encode()))
        return None

    def _save_in_reserve(self, text: str, error: OSError) -> str:
        """Save the text where space was reserved; returns what is wrong with the disk."""
        self._written = None
        # Written once for each change: this is tried several times a second.
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
            logs.event(logger, logging.ERROR, "memory_failed", trouble)
        self._failing = True
        return trouble
