"""Control groups of limited workers.

The files of a control group are simulated in a directory: the machine of a test may have no delegated group,
nor controllers of cgroup v2.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import eventually

from manager.config.models_limits import LimitsConfig
from manager.host.limits.control_groups import ControlGroups, find_groups

ALL = ("memory", "cpu", "pids")


def limits(**more: object) -> LimitsConfig:
    return LimitsConfig.model_validate(more)


@pytest.fixture
def groups(tmp_path: Path) -> ControlGroups:
    return ControlGroups(tmp_path, ALL)


def contents(group: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in group.iterdir()}


def test_a_worker_gets_the_limits_that_the_kernel_can_enforce(tmp_path: Path, groups: ControlGroups) -> None:
    config = limits(memory_mb=400, memory_hard_mb=600, processes=64, cpu_percent=50, on_exceed="throttle")
    assert groups.place("w-1", 4711, config)
    assert contents(tmp_path / "w-w-1") == {
        "memory.max": "629145600",
        "memory.oom.group": "1",
        "cpu.max": "50000 100000",
        "pids.max": "2048",
        "cgroup.procs": "4711",
    }
    assert groups.has("w-1")


def test_a_worker_without_such_limits_gets_no_group(tmp_path: Path, groups: ControlGroups) -> None:
    # CPU is watched, not slowed down, unless on_exceed is throttle.
    assert not groups.place("w-1", 4711, limits(memory_mb=400, open_files=100, cpu_percent=50))
    assert list(tmp_path.iterdir()) == []


def test_only_delegated_controllers_are_used(tmp_path: Path) -> None:
    groups = ControlGroups(tmp_path, ["pids"])
    assert groups.place("w-1", 4711, limits(memory_hard_mb=600, processes=4))
    assert set(contents(tmp_path / "w-w-1")) == {"pids.max", "cgroup.procs"}
    assert not groups.place("w-2", 4711, limits(memory_hard_mb=600))


def test_a_group_that_cannot_be_made_leaves_the_worker_where_it_is(tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(1, "not permitted")

    assert not ControlGroups(tmp_path, ALL, refuse).place("w-1", 4711, limits(memory_hard_mb=600))


def test_limits_of_a_running_worker_are_raised_and_removed(tmp_path: Path, groups: ControlGroups) -> None:
    groups.update("w-1", limits(memory_hard_mb=600))  # it has no group
    assert list(tmp_path.iterdir()) == []
    groups.place("w-1", 4711, limits(memory_hard_mb=600, processes=64))
    groups.update("w-1", limits(memory_hard_mb=700))
    found = contents(tmp_path / "w-w-1")
    assert (found["memory.max"], found["pids.max"]) == ("734003200", "max")


@pytest.mark.parametrize(
    ("events", "killed"),
    [("low 0\noom 1\noom_kill 1\n", True), ("oom 0\noom_kill 0\n", False), (None, False), ("x\n", False)],
)
def test_a_kill_by_the_kernel_is_told_from_other_kills(
    tmp_path: Path, groups: ControlGroups, events: str | None, killed: bool
) -> None:
    groups.place("w-1", 4711, limits(memory_hard_mb=600))
    if events is not None:
        (tmp_path / "w-w-1" / "memory.events").write_text(events)
    assert groups.killed_for_memory("w-1") is killed


def test_empty_groups_of_ended_workers_are_removed(tmp_path: Path, groups: ControlGroups) -> None:
    (tmp_path / "w-old" / "worker-manager.old").mkdir(parents=True)
    (tmp_path / "w-live").mkdir()
    (tmp_path / "agent").mkdir()
    # A group with processes cannot be removed; here a file stands for them.
    (tmp_path / "w-orphans").mkdir()
    (tmp_path / "w-orphans" / "process").write_text("")
    groups.remove_others({"live"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent", "w-live", "w-orphans"]


def _real_groups() -> Path | None:
    """Return a directory of cgroup v2 in which this process may create groups."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines() if sys.platform == "linux" else ():
        directory = Path(line.split()[4])
        if " - cgroup2 " in line and os.access(directory / "cgroup.procs", os.W_OK):
            return directory
    return None


@pytest.mark.skipif(_real_groups() is None, reason="no control group of version 2 can be written")
def test_the_kernel_keeps_a_group_with_a_process_and_an_empty_one_is_removed() -> None:
    # With real groups, but without controllers, which the machine of a test may lack.
    above = _real_groups()
    assert above is not None
    base = above / f"worker-manager-test-{os.getpid()}"
    group = base / "w-old"
    (group / "worker-manager.old").mkdir(parents=True)
    groups = ControlGroups(base, [])
    process = subprocess.Popen(["/bin/sleep", "60"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        assert groups.has("old")
        groups.remove_others(set())
        assert groups.has("old")
    finally:
        process.kill()
        process.wait()

    def removed() -> bool:
        groups.remove_others(set())
        return not groups.has("old")

    try:
        eventually(removed, what="it is removed")
    finally:
        for path in (group / "worker-manager.old", group, base):
            if path.is_dir():
                path.rmdir()


class System:
    """The files by which an agent finds its control group."""

    def __init__(self, directory: Path, own: str = "/system.slice/w.service/agent") -> None:
        self.unit = directory / "cgroup" / "system.slice" / "w.service"
        (self.unit / "agent").mkdir(parents=True)
        self.mounts, self.membership = directory / "mountinfo", directory / "membership"
        self.mounts.write_text(
            f"30 1 0:1 / /proc rw - proc proc rw\n41 31 0:38 / {directory}/cgroup rw - cgroup2 cgroup2 rw\n"
        )
        self.membership.write_text(f"4:memory:/x\n0::{own}\n")
        (self.unit / "cgroup.procs").write_text("")
        (self.unit / "cgroup.controllers").write_text("cpu io memory pids\n")
        (self.unit / "cgroup.subtree_control").write_text("")

    def find(self) -> tuple[ControlGroups | None, str]:
        return find_groups(self.mounts, self.membership)


def test_a_delegated_unit_with_an_agent_group_is_used(tmp_path: Path) -> None:
    groups, why = System(tmp_path).find()
    assert groups is not None
    assert (groups.controllers, why) == (frozenset(ALL), "")


def test_missing_controllers_are_named(tmp_path: Path) -> None:
    system = System(tmp_path)
    (system.unit / "cgroup.controllers").write_text("pids\n")
    groups, why = system.find()
    assert groups is not None
    assert groups.controllers == {"pids"}
    assert why.endswith("lacks the controllers memory, cpu")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s.membership.write_text("0::/system.slice/w.service\n"), "systemd 254 or later"),
        (lambda s: s.membership.write_text("4:memory:/x\n"), "has no cgroup v2"),
        (lambda s: s.mounts.write_text(""), "has no cgroup v2"),
        (lambda s: (s.unit / "cgroup.procs").write_text("4711\n"), "other processes are in"),
        (lambda s: (s.unit / "cgroup.controllers").unlink(), "is not delegated to the agent's user"),
        (lambda s: (s.unit / "cgroup.controllers").write_text("io\n"), "has none of the controllers"),
    ],
)
def test_the_reason_against_control_groups_is_given(tmp_path: Path, change: object, why: str) -> None:
    assert callable(change)
    system = System(tmp_path)
    change(system)
    groups, reason = system.find()
    assert groups is None
    assert why in reason
    assert (system.unit / "cgroup.subtree_control").read_text() == ""
