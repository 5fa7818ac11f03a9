"""Which versions of software and configuration the workers and hosts of a fleet run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from manager.fleet.hosts import HostState
from manager.models import WorkerInfo
from manager.states import LIVE, WorkerLifecycleStatus

#: What a worker or a host counts as that does not say its version.
UNKNOWN = "unknown"


@dataclass(slots=True)
class VersionCounts:
    """The accounts and hosts of each version."""

    #: Version of the software → accounts with a worker of it.
    workers: dict[str, list[str]] = field(default_factory=dict)
    #: Version of the software → live hosts with an agent of it.
    hosts: dict[str, list[str]] = field(default_factory=dict)
    #: `current`, or a state of `metadata.config` → accounts with a worker whose configuration is so.
    config: dict[str, list[str]] = field(default_factory=dict)
    #: Version of the pushed configuration → live hosts that use it; `files` for hosts that read their own.
    pushed: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "workers": self.workers,
            "hosts": self.hosts,
            "config": self.config,
            "pushed": self.pushed,
        }


def version_counts(hosts: Iterable[HostState], workers: Iterable[WorkerInfo]) -> VersionCounts:
    """Return what runs, by version. Workers without a process and hosts that are not live do not count."""
    found = VersionCounts()
    for info in sorted(workers, key=lambda one: one.account_id):
        if info.status not in LIVE and info.status is not WorkerLifecycleStatus.UNKNOWN:
            continue
        placement = info.placement
        state = "current" if placement.config is None else str(placement.config.get("state"))
        found.workers.setdefault(placement.version or UNKNOWN, []).append(info.account_id)
        found.config.setdefault(state if state in _STATES else UNKNOWN, []).append(info.account_id)
    for host in sorted(hosts, key=lambda one: one.name):
        if not host.live:
            continue
        report = host.report
        found.hosts.setdefault(report.version or UNKNOWN, []).append(host.name)
        pushed = str(report.config_version) if report.config_version else "files"
        found.pushed.setdefault(pushed, []).append(host.name)
    return found


_STATES = ("current", "pending", "held", "invalid", "rolled_back", "vanished")

__all__ = ["UNKNOWN", "VersionCounts", "version_counts"]
