"""Steps of rollouts, in a simulated fleet."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.change.rollouts import (
    OPEN,
    UNDER_WAY,
    Member,
    MemberState,
    Observed,
    Rollout,
    RolloutOptions,
    RolloutState,
    allowed_unavailable,
    plan,
    sequence,
    unavailable,
)

QUICK = RolloutOptions(max_unavailable=2, canary=1, bake=4, min_healthy=4, healthy_deadline=20, per_host=9)


@dataclass
class World:
    """A fleet whose accounts restart in two seconds, and the rollout over it."""

    names: tuple[str, ...]
    options: RolloutOptions = QUICK
    now: float = 1000.0
    bad: frozenset[str] = frozenset()
    fleet: dict[str, Observed] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    due: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rollout = Rollout(id="r", aim="config", options=self.options, started=self.now)
        for order, key in enumerate(self.names):
            self.fleet[key] = Observed(
                wanted=True, available=True, generation=1, desired=1, positions=0, host=f"h{order % 2}"
            )
            self.members[key] = Member(
                order=order, canary=order < self.options.canary, since=self.now, base=1
            )

    def step(self, *, window_open: bool = True) -> None:
        """Plan one step and carry it out, as a host does."""
        found = plan(self.rollout, self.members, self.fleet, self.now, window_open=window_open)
        self.rollout = found.rollout
        self.members |= found.changed
        for key in found.begun:
            self.begun.append(key)
            generation = self.fleet[key].desired + 1
            self.members[key] = replace(self.members[key], generation=generation)
            self.fleet[key] = replace(self.fleet[key], desired=generation, available=False)
            self.due[key] = self.now + 2

    def pass_time(self, seconds: float = 2.0) -> None:
        self.now += seconds
        for key in [key for key, due in self.due.items() if due <= self.now]:
            del self.due[key]
            bad = key in self.bad
            self.fleet[key] = replace(
                self.fleet[key],
                generation=self.fleet[key].desired,
                available=not bad,
                reached=not bad,
                failed=bad,
                why_failed="wrong password" if bad else "",
            )

    def run(self, steps: int = 60) -> None:
        for _ in range(steps):
            if self.rollout.state is not RolloutState.RUNNING:
                return
            self.step()
            self.pass_time()

    def states(self) -> dict[str, str]:
        return {key: str(one.state) for key, one in self.members.items()}


def world(count: int = 6, **update: Any) -> World:
    names = tuple(f"a{number}" for number in range(count))
    given_options = {key: value for key, value in update.items() if key != "bad"}
    return World(names, replace(QUICK, **given_options), bad=frozenset(update.get("bad", ())))


def test_canaries_first_then_the_others_and_each_once() -> None:
    fleet = world()
    fleet.step()
    assert fleet.begun == ["a0"]
    fleet.pass_time()
    for _ in range(4):
        fleet.step()
        assert fleet.begun == ["a0"], "the canary settles"
        fleet.pass_time()
    fleet.run()
    assert fleet.begun == ["a0", "a1", "a2", "a3", "a4", "a5"]
    assert set(fleet.states().values()) == {"done"}
    assert fleet.rollout.state is RolloutState.DONE


def test_a_bad_canary_pauses_and_is_named() -> None:
    fleet = world(bad=["a0"])
    fleet.run()
    assert fleet.rollout.state is RolloutState.PAUSED
    assert fleet.rollout.why == "a0: wrong password"
    assert fleet.begun == ["a0"]
    fleet.step()
    assert fleet.begun == ["a0"], "a paused rollout begins nothing"


def test_failures_that_a_person_has_seen_do_not_pause_again() -> None:
    fleet = world(bad=["a0"])
    fleet.run()
    fleet.rollout = replace(fleet.rollout, state=RolloutState.RUNNING, seen_failures=1, promoted=True)
    fleet.run()
    assert fleet.rollout.state is RolloutState.DONE
    assert fleet.states() == {"a0": "failed"} | {f"a{number}": "done" for number in range(1, 6)}


def test_more_failures_than_allowed_cancel_if_that_is_said() -> None:
    fleet = world(bad=["a2", "a3"], on_failure="cancel", max_failures=1)
    fleet.run()
    assert fleet.rollout.state is RolloutState.CANCELLED
    assert "a4" not in fleet.begun


def test_an_account_that_is_ill_whoever_has_done_it_takes_from_the_budget() -> None:
    fleet = world()
    fleet.rollout = replace(fleet.rollout, promoted=True)
    for key in ("a4", "a5"):
        fleet.fleet[key] = replace(fleet.fleet[key], available=False)
    fleet.step()
    assert fleet.begun == []
    fleet.fleet["a5"] = replace(fleet.fleet["a5"], available=True)
    fleet.step()
    assert fleet.begun == ["a0"]


def test_one_account_of_a_host_at_a_time() -> None:
    fleet = world(per_host=1, max_unavailable=6)
    fleet.rollout = replace(fleet.rollout, promoted=True)
    fleet.step()
    assert fleet.begun == ["a0", "a1"], "one on each host"


def test_a_later_command_overrules_and_is_no_failure() -> None:
    fleet = world()
    fleet.step()
    fleet.fleet["a0"] = replace(fleet.fleet["a0"], desired=9, wanted=False)
    fleet.due.clear()
    fleet.run()
    assert fleet.states()["a0"] == "overruled"
    assert fleet.rollout.state is RolloutState.DONE


def test_who_does_not_run_or_must_not_is_skipped_with_a_reason() -> None:
    fleet = world(3)
    fleet.fleet["a0"] = replace(fleet.fleet["a0"], wanted=False)
    fleet.fleet["a1"] = replace(fleet.fleet["a1"], blocked="its file is invalid")
    fleet.fleet["a2"] = replace(fleet.fleet["a2"], reached=True, generation=2, desired=2)
    fleet.run()
    assert fleet.begun == []
    assert [one.why for one in fleet.members.values()] == [
        "it does not run: its next start brings the change",
        "its file is invalid",
        "a later start brought the change",
    ]


def test_open_positions_are_waited_for_until_the_deadline() -> None:
    fleet = world(2, flat_deadline=10.0)
    fleet.fleet["a0"] = replace(fleet.fleet["a0"], positions=1)
    fleet.step()
    assert fleet.states()["a0"] == "flat_wait"
    fleet.pass_time(9)
    fleet.step()
    assert fleet.states()["a0"] == "flat_wait"
    fleet.pass_time(1)
    fleet.step()
    assert fleet.states()["a0"] == "skipped"
    forced = world(2, flat_deadline=10.0, on_deadline="force")
    forced.fleet["a0"] = replace(forced.fleet["a0"], positions=None)
    forced.step()
    forced.pass_time(10)
    forced.step()
    assert forced.begun == ["a0"]


def test_an_ill_account_with_open_positions_waits_too() -> None:
    for positions in (3, None):
        fleet = world(2, max_unavailable=2)
        fleet.fleet["a0"] = replace(fleet.fleet["a0"], positions=positions, available=False)
        fleet.step()
        assert fleet.begun == []
        assert fleet.states()["a0"] == "flat_wait"


def test_an_account_without_a_worker_has_nothing_to_be_flat_with() -> None:
    fleet = world(2, max_unavailable=2)
    fleet.fleet["a0"] = replace(fleet.fleet["a0"], positions=None, available=False, running=False)
    fleet.step()
    assert fleet.begun == ["a0"]


def test_a_rollout_that_a_bad_canary_has_paused_does_not_promote_itself() -> None:
    fleet = world(bad=["a0"])
    fleet.run()
    for _ in range(10):
        fleet.step()
        fleet.pass_time()
    assert (fleet.rollout.state, fleet.rollout.promoted) == (RolloutState.PAUSED, False)


def test_a_pause_names_the_account_that_failed_since_it_was_resumed() -> None:
    fleet = world(6, canary=0, max_failures=0, bad=["a4"])
    fleet.rollout = replace(fleet.rollout, promoted=True)
    fleet.members["a4"] = replace(fleet.members["a4"], order=-1)
    fleet.run()
    assert fleet.rollout.why.startswith("a4: ")
    fleet.rollout = replace(fleet.rollout, state=RolloutState.RUNNING, why="", seen_failures=1)
    fleet.fleet["a4"] = replace(fleet.fleet["a4"], available=True, failed=False)
    fleet.bad = frozenset({"a3"})
    fleet.run()
    assert fleet.rollout.why.startswith("a3: ")


def test_a_restart_that_cannot_be_requested_fails_in_the_end() -> None:
    fleet = world(1)
    fleet.members["a0"] = replace(
        fleet.members["a0"], state=MemberState.RESTARTING, since=fleet.now, generation=0
    )
    fleet.pass_time(19)
    fleet.step()
    assert fleet.states()["a0"] == "restarting"
    fleet.pass_time(1)
    fleet.step()
    assert fleet.states()["a0"] == "failed"


def test_a_member_that_is_never_healthy_fails_at_its_deadline() -> None:
    fleet = world(2)
    fleet.step()
    fleet.due.clear()
    for _ in range(11):
        fleet.pass_time()
        fleet.step()
    assert fleet.members["a0"].state is MemberState.FAILED
    assert "not healthy within 20 s" in fleet.members["a0"].why


def test_a_member_that_moves_settles_on_its_new_host() -> None:
    fleet = world(1)
    fleet.step()
    fleet.pass_time()
    fleet.step()
    fleet.fleet["a0"] = replace(fleet.fleet["a0"], host="elsewhere", available=False)
    fleet.pass_time()
    fleet.step()
    assert fleet.members["a0"].state is MemberState.SETTLING
    fleet.fleet["a0"] = replace(fleet.fleet["a0"], available=True)
    fleet.run()
    assert fleet.states() == {"a0": "done"}


def test_a_restart_by_recovery_begins_the_healthy_time_again() -> None:
    fleet = world(1)
    fleet.step()
    fleet.pass_time()
    fleet.step()
    fleet.fleet["a0"] = replace(fleet.fleet["a0"], restarts=1)
    fleet.pass_time()
    fleet.step()
    fleet.pass_time()
    fleet.step()
    assert fleet.members["a0"].state is MemberState.SETTLING


def test_outside_its_window_it_settles_and_begins_nothing() -> None:
    fleet = world(2)
    fleet.step(window_open=False)
    assert fleet.begun == []
    fleet.step()
    fleet.pass_time()
    for _ in range(4):
        fleet.step(window_open=False)
        fleet.pass_time()
    assert fleet.members["a0"].state is MemberState.DONE
    assert fleet.begun == ["a0"]


def test_a_canary_that_loses_its_health_while_baking_begins_that_again() -> None:
    fleet = world(2)
    while fleet.rollout.baking_since == 0.0:
        fleet.step()
        fleet.pass_time()
    fleet.fleet["a0"] = replace(fleet.fleet["a0"], available=False)
    fleet.step()
    assert fleet.rollout.baking_since == 0.0
    assert not fleet.rollout.promoted


def test_promotion_by_hand_waits_for_the_command() -> None:
    fleet = world(2, promote_manually=True)
    fleet.run(30)
    assert fleet.begun == ["a0"]
    fleet.rollout = replace(fleet.rollout, promoted=True)
    fleet.run()
    assert fleet.rollout.state is RolloutState.DONE


@pytest.mark.parametrize(
    ("text", "accounts", "allowed"), [("3", 10, 3), ("5%", 200, 10), ("5%", 10, 1), ("19%", 100, 19)]
)
def test_how_many_may_be_unavailable(text: str, accounts: int, allowed: int) -> None:
    assert allowed_unavailable(text, accounts) == allowed


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "five", "1.5", "٣"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="%"):
        allowed_unavailable(text, 10)


def test_demo_before_real_flat_before_not_small_before_large() -> None:
    flat, open_ = Observed(positions=0), Observed(positions=1)
    accounts = {"real": flat, "big": flat, "small": flat, "open": open_, "unknown": flat}
    sizes = {"real": 1.0, "big": 900.0, "small": 5.0, "open": 1.0}
    assert sequence(accounts, ["real"], sizes) == ["small", "big", "unknown", "open", "real"]


_EVENTS = st.sampled_from(["none", "none", "ill", "well", "stop", "human restart", "positions", "crash"])


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 12),
    most=st.integers(1, 4),
    canary=st.integers(0, 3),
    bad=st.sets(st.integers(0, 11), max_size=3),
    events=st.lists(st.tuples(_EVENTS, st.integers(0, 11), st.integers(0, 3)), max_size=60),
)
def test_invariants(
    count: int,
    most: int,
    canary: int,
    bad: set[int],
    events: list[tuple[str, int, int]],
) -> None:
    fleet = world(
        count, max_unavailable=most, canary=canary, max_failures=9, bad=[f"a{number}" for number in bad]
    )
    for what, number, seconds in [*events, *[("none", 0, 2)] * 40]:
        key = f"a{number % count}"
        seen = fleet.fleet[key]
        if what == "ill":
            fleet.fleet[key] = replace(seen, available=False)
        elif what == "well" and key not in fleet.due:
            fleet.fleet[key] = replace(seen, available=True, failed=False)
        elif what == "stop":
            fleet.fleet[key] = replace(seen, wanted=False, available=False, desired=seen.desired + 1)
        elif what == "human restart":
            fleet.fleet[key] = replace(seen, desired=seen.desired + 1, generation=seen.desired + 1)
        elif what == "positions":
            fleet.fleet[key] = replace(seen, positions=seconds)
        elif what == "crash":
            fleet.fleet[key] = replace(seen, restarts=seen.restarts + 1, available=False)
        begun = len(fleet.begun)
        if fleet.rollout.active:
            fleet.step()
        began = fleet.begun[begun:]
        # Never more than allowed by its doing, whoever has made the others unavailable.
        assert not began or unavailable(fleet.members, fleet.fleet) <= most
        assert len(set(fleet.begun)) == len(fleet.begun), "each account once"
        if not fleet.rollout.promoted:
            assert all(fleet.members[key].canary for key in began)
        for key, one in fleet.members.items():
            assert one.state not in OPEN or key not in fleet.begun
        fleet.pass_time(seconds)
    under_way = [one for one in fleet.members.values() if one.state in UNDER_WAY]
    assert len(under_way) <= most
