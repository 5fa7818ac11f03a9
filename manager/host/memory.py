"""What a host remembers of desired state, on disk: a Redis that lost it is told again, and where an account ran is known."""

import contextlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from manager import logs
from manager.fleet.desired import Desired

logger = logging.getLogger(__name__)


class Memory:
    """One small file, written whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: str | None = None
        self._lines: dict[str, tuple[Desired, str]] = {}
        self._failing = False

    def load(self) -> dict[str, Desired]:
        """Return what was remembered; what cannot be read is left out, and named in the log."""
        found: dict[str, Desired] = {}
        try:
            data = json.loads(self._path.read_text())
            for account_id, text in data.items():
                desired = Desired.from_json(account_id, json.dumps(text))
                if desired is None:
                    raise ValueError(f"account {account_id}")
                found[account_id] = desired
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            logs.event(
                logger, logging.WARNING, "memory_ignored", f"{self._path} cannot be read in full: {error}"
            )
        return found

    def save(self, desired: Iterable[Desired]) -> str | None:
        """Write if anything changed; returns what is wrong if it cannot be written. Raises nothing."""
        # Most are the same objects as the last time; a fleet of thousands is written five times a second while it starts.
        kept: dict[str, tuple[Desired, str]] = {}
        for one in desired:
            before = self._lines.get(one.account_id)
            if before is None or before[0] is not one:
                before = (one, f"{json.dumps(one.account_id)}: {one.to_json()}")
            kept[one.account_id] = before
        self._lines = kept
        text = "{\n" + ",\n".join(line for _, line in kept.values()) + "\n}\n"
        if text == self._written:
            return None
        draft = self._path.with_suffix(".tmp")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            trouble = f"{self._path} cannot be written ({error.strerror}): a restart of this host may forget commands"
            if not self._failing:
                logs.event(logger, logging.ERROR, "memory_failed", trouble)
            self._failing = True
            return trouble
        self._failing = False
        self._written = text
        return None
