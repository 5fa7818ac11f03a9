"""What a rollout must know of an account, from its records."""

from collections.abc import Iterable, Mapping

from manager.change.rollouts import Aim, Observed
from manager.fleet.desired import DesiredState
from manager.fleet.hosts import HostState
from manager.models import WorkerInfo
from manager.states import LIVE, WorkerHealth, WorkerLifecycleStatus

_ILL = (WorkerHealth.DEGRADED, WorkerHealth.UNHEALTHY)
#: Why a worker with this state of its configuration must not be restarted.
_BLOCKED: Mapping[str, str] = {
    "invalid": "its file is invalid",
    "held": "its change waits for approval",
    "vanished": "its file is gone",
}


def observe_accounts(
    aim: Aim,
    desired: Mapping[str, DesiredState],
    workers: Iterable[WorkerInfo],
    hosts: Iterable[HostState],
) -> dict[str, Observed]:
    """Return what is known of each account with a desired state."""
    infos = {info.account_id: info for info in workers}
    live = {host.name: host for host in hosts if host.live}
    return {key: _observed(aim, one, infos.get(key), live.get(one.host)) for key, one in desired.items()}


def _observed(aim: Aim, desired: DesiredState, info: WorkerInfo | None, host: HostState | None) -> Observed:
    if info is None:
        return Observed(wanted=desired.running, running=False, desired=desired.generation, host=desired.host)
    placement = info.placement
    state = str((placement.config or {}).get("state") or "")
    returned = state == "rolled_back"
    failed = info.status is WorkerLifecycleStatus.FAILED
    text = info.error if failed else str((placement.config or {}).get("text") or "")
    config_reached = not state
    software_reached = host is not None and placement.version == host.report.version
    return Observed(
        wanted=desired.running and not info.metadata.get("resting"),
        running=info.status in LIVE or info.status is WorkerLifecycleStatus.UNKNOWN,
        available=info.status is WorkerLifecycleStatus.RUNNING and info.health not in _ILL,
        failed=failed or returned,
        why_failed=(text or "") if failed or returned else "",
        reached=(aim == "software" or config_reached) and (aim == "config" or software_reached),
        blocked="its host is drained" if host is not None and host.draining else _BLOCKED.get(state, ""),
        generation=placement.generation or 0,
        desired=desired.generation,
        positions=info.metrics.open_positions,
        host=desired.host,
        restarts=placement.restarts or 0,
    )
