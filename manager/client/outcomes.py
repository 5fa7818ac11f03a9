"""Outcomes of commands whose results are lost, judged from records.

No I/O.
"""

from collections.abc import Mapping
from typing import Any, Final

from manager.fleet.desired import DesiredState
from manager.models import WorkerInfo
from manager.pool.commands import COMMANDS
from manager.states import SETTLED, TradingMode, WorkerLifecycleStatus

#: Modes that only a schedule sets, beside the mode that a command asked for.
_SCHEDULED: Final = (TradingMode.WAITING, TradingMode.CLOSE_ONLY)


def recorded_outcome(
    what: str, generation: int | None, desired: DesiredState | None, info: WorkerInfo | None
) -> tuple[str, Any] | None:
    """Return a command's outcome as the records show it; None if they do not.

    `generation` is the command's, from when its desired state was written. The result is `done`, `already`,
    `resting` or `failed`, with the worker or the reason.
    """
    spec = COMMANDS.get(what)
    if spec is not None and spec.mode is not None:
        applied = (
            desired is not None
            and info is not None
            and desired.mode is spec.mode
            and info.trading_mode in {spec.mode, *_SCHEDULED}
        )
        return ("done", info) if applied else None
    if generation is None or desired is None or desired.generation < generation:
        return None
    account_id = desired.account_id
    if desired.generation > generation:
        return "failed", f"{account_id}: a later {desired.why} ({desired.by}) overrules this {what}"
    if what == "stop":
        return ("done", info) if info is not None and _has_ended(desired, info) else None
    if not desired.running:
        return "failed", f"{account_id}: its host refused the {what} and the reason is lost: send it again"
    started_by = info.placement.generation if info is not None else None
    own = started_by is not None and started_by >= generation
    if info is None or not (own or what == "start"):
        return None
    if own and info.metadata.get("resting") is not None:
        return "resting", info
    if info.status is WorkerLifecycleStatus.RUNNING:
        return ("done" if own else "already"), info
    if own and info.status is WorkerLifecycleStatus.FAILED:
        return "failed", f"{account_id}: {info.error}"
    return None


def _has_ended(desired: DesiredState, info: WorkerInfo) -> bool:
    """Return whether the record proves a stop.

    It does if it is from the account's host, also under the host's old name. An older record of another host
    proves nothing, because Redis may have lost the newest one.
    """
    hosts = {info.placement.host, info.placement.renamed_from}
    return not desired.running and info.status in SETTLED and bool(desired.host) and desired.host in hosts


def forced_stops(done: Mapping[str, WorkerInfo]) -> dict[str, str]:
    """Return the stopped accounts whose process was killed → reason."""
    return {
        account_id: str(info.error or "its process was killed")
        for account_id, info in sorted(done.items())
        if info.placement.forced
    }
