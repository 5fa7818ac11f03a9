"""Runs batches, and adds the outcomes that are known without sending a command."""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from manager.errors import StopFailedError
from manager.models import BatchResult
from manager.pool.commands import CommandSpec
from manager.pool.protocol import Batch, Progress, StartRequest, WorkerPool
from manager.system import logs

logger: Final = logging.getLogger(__name__)

#: Account id → outcome (`skipped` or `failed`) and text, known before any command is sent.
Settled = Mapping[str, tuple[str, str]]


def run_starts(
    pool: WorkerPool,
    action: str,
    command: CommandSpec,
    requests: Sequence[StartRequest],
    batch: Batch,
    progress: Progress | None = None,
) -> BatchResult:
    """Start or restart these accounts; log the result under `action`."""
    many = pool.restart_many if command.restart else pool.start_many
    return _with_settled(action, many(requests, _reported(batch.settled, progress), batch), batch.settled)


def run_stops(
    pool: WorkerPool,
    action: str,
    account_ids: Sequence[str],
    timeout: float | None,
    batch: Batch,
    progress: Progress | None = None,
) -> BatchResult:
    """Stop these accounts; log the result under `action`. `timeout` is in seconds."""
    result = pool.stop_many(account_ids, timeout, _reported(batch.settled, progress), batch)
    return _with_settled(action, result, batch.settled)


def stopped_count(result: BatchResult) -> int:
    """Return how many workers a batch stopped.

    Raises StopFailedError that names those that did not stop and those whose outcome is unknown.
    """
    total = len(result.failed) + len(result.done) + len(result.pending)
    reasons: list[str] = []
    if result.failed:
        reasons.append(
            f"{len(result.failed)} of {total} workers did not stop: " + "; ".join(result.failed.values())
        )
    if result.trouble:
        reasons.append(
            f"of {len(result.pending)} of {total} workers it is unknown whether they stopped: "
            f"{', '.join(sorted(result.pending))}: {result.trouble}; look with "
            f"`manager batch {result.batch_id}`"
        )
    if reasons:
        raise StopFailedError("; ".join(reasons))
    return len(result.done)


def _with_settled(action: str, result: BatchResult, settled: Settled) -> BatchResult:
    """Add the outcomes that were known before sending, and log the result."""
    parts: dict[str, dict[str, str]] = {"skipped": {}, "failed": {}}
    for account_id, (outcome, text) in settled.items():
        parts[outcome][account_id] = text
    result = result.model_copy(
        update={
            "skipped": {**parts["skipped"], **result.skipped},
            "failed": {**parts["failed"], **result.failed},
        }
    )
    logs.event(
        logger,
        logging.INFO if result.ok else logging.WARNING,
        action,
        "; ".join([*result.failed.values(), *([result.trouble] if result.trouble else [])]),
        batch=result.batch_id,
        done=len(result.done),
        already=len(result.already),
        resting=len(result.resting),
        skipped=len(result.skipped),
        failed=len(result.failed),
        pending=len(result.pending),
    )
    return result


def _reported(settled: Settled, progress: Progress | None) -> Progress | None:
    """Report the outcomes that are known before sending; return `progress`."""
    if progress is not None:
        for account_id, (outcome, _) in settled.items():
            progress(account_id, outcome)
    return progress
