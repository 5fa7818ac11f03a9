"""Batches that validate accounts.

Their outcomes are in the batch's record, because a host validates many accounts in one task.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from manager.client.caller import caller
from manager.errors import FleetUnavailableError
from manager.fleet.batch_events import BatchAnnouncer
from manager.fleet.batches import BatchStore
from manager.models import ValidationResult

#: The command's name in the record of its batch.
VALIDATE: Final = "validate"


class BatchChecks:
    """Records batches that validate accounts.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, records: BatchStore, announcer: BatchAnnouncer) -> None:
        self._records = records
        self._announcer = announcer

    def begin(self, batch_id: str, account_ids: Sequence[str]) -> None:
        """Record a batch whose accounts are all pending."""
        by = caller()
        tokens = {account_id: f"{batch_id}:{account_id}" for account_id in account_ids}
        self._records.save(batch_id, VALIDATE, by, tokens, {})
        with contextlib.suppress(FleetUnavailableError):
            self._announcer.begun(batch_id, VALIDATE, by, len(account_ids))

    def settle(self, batch_id: str, found: Mapping[str, ValidationResult]) -> None:
        """Record the outcomes: `done` for a valid account, `failed` with its errors for an invalid one."""
        settled = {
            account_id: ("done", "") if result.valid else ("failed", "; ".join(result.errors))
            for account_id, result in found.items()
        }
        self._records.settle(batch_id, settled)
