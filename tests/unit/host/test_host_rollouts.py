"""Steps of rollouts that a host takes, and finishes for one that was killed."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from support.servers import RedisServer

from manager.change.rollout_store import RolloutStore
from manager.change.rollouts import Member, MemberState, Rollout, RolloutOptions
from manager.client.rollouts import FleetRollouts
from manager.errors import InvalidPayloadError, RolloutConflictError
from manager.fleet import FleetStore
from manager.fleet.audit import AuditTrail
from manager.fleet.desired import ROLLOUT, DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.host.reconcile.rollouts import RolloutSteps
from manager.market.daily_text import parse_daily
from manager.system.thread_pool import ThreadPool


class Fleet:
    """A rollout of one account, in a real Redis."""

    def __init__(self, url: str) -> None:
        self.store, self.desired, self.rollouts = FleetStore(url), DesiredStore(url), RolloutStore(url)
        self.commands = FleetRollouts(self.rollouts, self.store, self.desired, AuditTrail(url))
        self.base = self.ask("start-1")
        self.steps = self.host("h1")

    def host(self, name: str) -> RolloutSteps:
        return RolloutSteps(name, self.rollouts, self.store, self.desired, ThreadPool(1, name))

    def ask(self, token: str, *, restart: bool = False) -> int:
        """Send a person's start or restart; return its generation."""
        request = DesiredStateRequest(
            account_id="a", state="running", token=token, by="ops", why="start", restart=restart, host="h1"
        )
        return self.desired.set_desired(request)[0]

    def create(self, member: Member) -> None:
        rollout = Rollout(id="r", aim="both", options=RolloutOptions(when_flat=False), promoted=True)
        self.rollouts.create(rollout, {"a": member})

    @property
    def member(self) -> Member:
        return self.rollouts.read("r")[1]["a"]

    @property
    def state(self) -> DesiredState:
        found = self.desired.read("a")
        assert found is not None
        return found


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    found = Fleet(redis_server.url)
    yield found
    found.steps.close()


def begun(fleet: Fleet) -> Member:
    """Return a member whose host was killed before it asked for the restart."""
    return Member(state=MemberState.RESTARTING, since=fleet.rollouts.now(), base=fleet.base)


def test_a_restart_that_a_killed_host_had_begun_is_asked_for_once(fleet: Fleet) -> None:
    fleet.create(begun(fleet))
    fleet.steps.step("r")
    after = fleet.state
    assert (after.why, after.by, after.restart) == (ROLLOUT, "rollout r", after.generation)
    assert fleet.member.generation == after.generation > fleet.base
    other = fleet.host("h2")
    other.step("r")
    fleet.steps.step("r")
    other.close()
    assert fleet.state.generation == after.generation


def test_a_host_that_dies_after_it_has_asked_asks_with_the_same_token(fleet: Fleet) -> None:
    fleet.create(begun(fleet))
    fleet.steps.step("r")
    generation = fleet.state.generation
    rollout, members = fleet.rollouts.read("r")
    # As if it had died before it recorded the generation.
    assert fleet.rollouts.write(rollout, rollout, {"a": replace(members["a"], generation=0)})
    fleet.steps.step("r")
    assert fleet.state.generation == generation
    assert fleet.member.generation == generation


def test_a_command_that_came_in_between_overrules(fleet: Fleet) -> None:
    fleet.create(begun(fleet))
    later = fleet.ask("human", restart=True)
    fleet.steps.step("r")
    assert fleet.member.state is MemberState.OVERRULED
    assert (fleet.state.generation, fleet.state.by) == (later, "ops")


def test_a_step_that_another_host_takes_is_left_to_it(fleet: Fleet) -> None:
    fleet.create(begun(fleet))
    assert fleet.rollouts.begin_step("r", "h2")
    fleet.steps.step("r")
    assert fleet.member.generation == 0


def test_a_paused_or_cancelled_rollout_begins_nothing(fleet: Fleet) -> None:
    fleet.create(Member(base=fleet.base))
    fleet.commands.pause("r")
    fleet.steps.step("r")
    assert fleet.member.state is MemberState.WAITING
    fleet.commands.resume("r")
    fleet.commands.cancel("r")
    for command in (fleet.commands.pause, fleet.commands.resume, fleet.commands.promote):
        with pytest.raises(RolloutConflictError, match="is cancelled"):
            command("r")
    assert fleet.rollouts.active() == []


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("sat 00:00-12:00 UTC", (28, 11), (28, 12)),
        ("22:00-06:00", (27, 23), (27, 12)),
        ("mon-fri 09:00-17:00 America/New_York", (27, 15), (27, 10)),
    ],
)
def test_a_window_is_open_by_its_clock(text: str, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    timetable = parse_daily(text)
    for (day, hour), is_open in ((inside, True), (outside, False)):
        assert timetable.is_open(datetime(2026, 11, day, hour, tzinfo=UTC)) is is_open


@pytest.mark.parametrize(
    "text", ["never", "sat", "25:00-26:00", "sat 00:00-12:00 Mars/Base", "xyz 00:00-01:00"]
)
def test_a_window_that_is_none_is_refused(fleet: Fleet, text: str) -> None:
    with pytest.raises(InvalidPayloadError):
        fleet.commands.plan({}, "both", window=text)


def test_a_rollout_without_work_is_refused(fleet: Fleet) -> None:
    with pytest.raises(RolloutConflictError, match="no account needs this"):
        fleet.commands.start(fleet.commands.plan({"b": None}, "both"))
