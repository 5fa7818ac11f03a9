"""Versions of software and configuration across a fleet."""

from typing import Any

from manager.fleet.hosts import HostState
from manager.fleet.version_counts import version_counts
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus


def worker(account_id: str, status: str = "running", **metadata: Any) -> WorkerInfo:
    return WorkerInfo(
        worker_id=f"w-{account_id}",
        account_id=account_id,
        status=WorkerLifecycleStatus(status),
        metadata=metadata,
    )


def test_workers_and_hosts_are_counted_by_what_they_run() -> None:
    hosts = [
        HostState("two", True, 0.1, {"version": "0.3.0", "config_version": 4}),
        HostState("one", True, 0.1, {"version": "0.3.0"}),
        HostState("gone", False, 99.0, {"version": "0.1.0"}),
    ]
    pending = {"state": "pending", "text": "login", "changes": []}
    found = version_counts(
        hosts,
        [
            worker("b", version="0.3.0"),
            worker("a", version="0.2.0", config=pending),
            worker("c", "unknown", version="0.3.0", config={"state": "invalid"}),
            worker("d", "stopped", version="0.1.0"),
            worker("e", config={"state": ["nonsense"]}),
        ],
    )
    assert found.to_dict() == {
        "hosts": {"0.3.0": ["one", "two"]},
        "workers": {"0.2.0": ["a"], "0.3.0": ["b", "c"], "unknown": ["e"]},
        "config": {"pending": ["a"], "current": ["b"], "invalid": ["c"], "unknown": ["e"]},
        "pushed": {"4": ["two"], "files": ["one"]},
    }


def test_an_empty_fleet_has_no_versions() -> None:
    assert version_counts([], []).to_dict() == {"workers": {}, "hosts": {}, "config": {}, "pushed": {}}
