"""Rollouts: a change brought to many accounts in steps. Pure: time and the fleet's state are parameters.

A rollout restarts its members, first a few canaries, then the others, and never lets more members be
unavailable than allowed. `plan` computes one step from a snapshot. Whoever carries the step out writes it
only if the rollout has not changed since.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Literal

#: What a rollout brings: the account's changed file, the host's software, or both.
Aim = Literal["config", "software", "both"]


class RolloutState(StrEnum):
    """The state of a rollout. The values are wire contract."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"


class MemberState(StrEnum):
    """The state of one account of a rollout. The values are wire contract."""

    WAITING = "waiting"
    #: It waits until it has no open position.
    FLAT_WAIT = "flat_wait"
    RESTARTING = "restarting"
    #: It runs again and must stay healthy for a while.
    SETTLING = "settling"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    #: A later command of another sender came first.
    OVERRULED = "overruled"


#: Within this many seconds a host says that a restarted worker runs its earlier configuration.
_NOTICE_SECONDS: Final = 6.0
#: Members whose restart is under way: they count as unavailable.
UNDER_WAY: Final = frozenset({MemberState.RESTARTING, MemberState.SETTLING})
#: Members that may still be restarted.
OPEN: Final = frozenset({MemberState.WAITING, MemberState.FLAT_WAIT})


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOptions:
    """How a rollout proceeds. Times are in seconds."""

    #: Members that may be unavailable at once.
    max_unavailable: int = 1
    canary: int = 1
    bake: float = 300.0
    #: Whether the canary phase ends by a command alone.
    promote_manually: bool = False
    min_healthy: float = 60.0
    healthy_deadline: float = 300.0
    #: Failures that are tolerated after the canary phase; a canary may not fail.
    max_failures: int = 1
    on_failure: Literal["pause", "cancel"] = "pause"
    when_flat: bool = True
    #: How long a member waits to be flat; None: for ever.
    flat_deadline: float | None = None
    on_deadline: Literal["skip", "force"] = "skip"
    per_host: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One account of a rollout. Times are seconds since 1970, by Redis's clock."""

    state: MemberState = MemberState.WAITING
    since: float = 0.0
    canary: bool = False
    #: Its place in the sequence.
    order: int = 0
    #: Why it is in this state.
    why: str = ""
    #: The generation of its worker when the rollout began or of desired state before its restart, and that of
    #: its restart; 0: none yet.
    base: int = 0
    generation: int = 0
    #: Since when it is healthy after its restart; 0: it is not.
    healthy_since: float = 0.0
    #: Its restarts by recovery when it began to be healthy.
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A rollout without its members. Times are seconds since 1970, by Redis's clock."""

    id: str
    aim: Aim
    options: RolloutOptions = field(default_factory=RolloutOptions)
    state: RolloutState = RolloutState.RUNNING
    #: Why it is in this state.
    why: str = ""
    by: str = ""
    started: float = 0.0
    #: Whether the canaries are done and the others may begin.
    promoted: bool = False
    #: Since when all canaries are done; 0: they are not.
    baking_since: float = 0.0
    #: Failures that a person has seen: `resume` tolerates those that there were.
    seen_failures: int = 0
    #: When it may begin restarts, as the text of a schedule's window; empty: always.
    window: str = ""
    #: Changes with each write.
    version: int = 0

    @property
    def active(self) -> bool:
        """Whether it is neither done nor cancelled."""
        return self.state in (RolloutState.RUNNING, RolloutState.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is known of one account. An account without a record has the defaults."""

    #: Whether it should run, and rests for no schedule.
    wanted: bool = False
    #: Whether it may have a worker process: one without has no session that could be flat.
    running: bool = True
    #: Whether its session is connected and not unhealthy.
    available: bool = False
    #: Whether its worker has failed, or returned to its earlier configuration.
    failed: bool = False
    why_failed: str = ""
    #: Whether it runs what the rollout brings.
    reached: bool = False
    #: Why it must not be restarted, such as an invalid file; empty: it may be.
    blocked: str = ""
    #: The generations of its worker and of desired state.
    generation: int = 0
    desired: int = 0
    #: Open positions; None: unknown.
    positions: int | None = None
    host: str = ""
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What to write. `begun` are the members whose restart begins now."""

    rollout: Rollout
    changed: Mapping[str, Member]
    begun: tuple[str, ...] = ()


def plan(
    rollout: Rollout,
    members: Mapping[str, Member],
    fleet: Mapping[str, Observed],
    now: float,
    *,
    window_open: bool = True,
) -> Step:
    """Return the next step of an active rollout.

    `now` is in seconds since 1970. A paused rollout settles what is under way and begins nothing.
    """
    settled = {
        key: found
        for key, one in members.items()
        if (found := _settled(one, fleet.get(key, Observed()), rollout.options, now)) != one
    }
    after = {**members, **settled}
    head = _judged(rollout, after, fleet, now)
    if head.state is not RolloutState.RUNNING:
        return Step(head, settled)
    if all(one.state not in OPEN | UNDER_WAY for one in after.values()):
        return Step(replace(head, state=RolloutState.DONE, why="every account is settled"), settled)
    if not window_open:
        return Step(head, settled)
    begun, others = _begin(head, after, fleet, now)
    return Step(head, {**settled, **others}, begun)


def unavailable(members: Mapping[str, Member], fleet: Mapping[str, Observed]) -> int:
    """Return how many members are unavailable: under way, or wanted and not available for any reason."""
    return sum(
        one.state in UNDER_WAY
        or (fleet.get(key, Observed()).wanted and not fleet.get(key, Observed()).available)
        for key, one in members.items()
    )


def failures(members: Iterable[Member]) -> int:
    """Return how many members have failed."""
    return sum(one.state is MemberState.FAILED for one in members)


def allowed_unavailable(text: str, accounts: int) -> int:
    """Return how many of `accounts` may be unavailable: a number, or a part such as `5%`, rounded down.

    At least 1. Raises ValueError.
    """
    number = text.removesuffix("%")
    if not number.isascii() or not number.isdecimal() or int(number) == 0:
        raise ValueError(f"{text!r} is not a number such as 3, or a part such as 5%")
    if number == text:
        return int(number)
    if int(number) > 100:
        raise ValueError(f"{text!r} is more than 100%")
    return max(1, accounts * int(number) // 100)


def sequence(accounts: Mapping[str, Observed], real: Iterable[str], sizes: Mapping[str, float]) -> list[str]:
    """Return the accounts in the sequence of a rollout.

    Demo before real ones, flat before others, small before large. `sizes` are equities; unknown ones come
    last.
    """
    are_real = frozenset(real)
    infinite = float("inf")
    return sorted(
        accounts,
        key=lambda key: (key in are_real, accounts[key].positions != 0, sizes.get(key, infinite), key),
    )


def _settled(member: Member, seen: Observed, options: RolloutOptions, now: float) -> Member:
    """Return a member after what happened to it since the last step."""
    if member.state not in UNDER_WAY:
        return member
    if member.generation == 0:
        # Its restart was not requested yet: the next step does that, if there is still a desired state.
        late = now - member.since >= options.healthy_deadline
        return _ended(member, MemberState.FAILED, "its restart cannot be requested", now) if late else member
    if seen.desired > member.generation:
        return _ended(member, MemberState.OVERRULED, "a later command came first", now)
    if seen.failed and seen.generation >= member.generation:
        return _ended(member, MemberState.FAILED, seen.why_failed or "its worker failed", now)
    if seen.available and seen.reached and seen.generation >= member.generation:
        if member.healthy_since == 0.0 or member.restarts != seen.restarts:
            began = member.since if member.state is MemberState.SETTLING else now
            return replace(
                member,
                state=MemberState.SETTLING,
                since=began,
                why="",
                healthy_since=now,
                restarts=seen.restarts,
            )
        if now - member.healthy_since >= max(options.min_healthy, _NOTICE_SECONDS):
            return _ended(member, MemberState.DONE, "", now)
    elif member.healthy_since:
        member = replace(member, healthy_since=0.0)
    if now - member.since >= options.healthy_deadline and member.healthy_since == 0.0:
        text = f"it was not healthy within {options.healthy_deadline:g} s"
        return _ended(member, MemberState.FAILED, seen.why_failed or text, now)
    return member


def _ended(member: Member, state: MemberState, why: str, now: float) -> Member:
    return replace(member, state=state, why=why[:500], since=now, healthy_since=0.0)


def _judged(
    rollout: Rollout, members: Mapping[str, Member], fleet: Mapping[str, Observed], now: float
) -> Rollout:
    """Return the rollout with the phase and state that its members lead to."""
    if rollout.state is not RolloutState.RUNNING:
        return rollout
    failed = [key for key, one in members.items() if one.state is MemberState.FAILED]
    failed.sort(key=lambda key: (members[key].since, key))
    canaries = {key: one for key, one in members.items() if one.canary}
    new = failed[rollout.seen_failures :]
    bad_canaries = [] if rollout.promoted else [key for key in new if key in canaries]
    if bad_canaries or len(new) > rollout.options.max_failures:
        worst = bad_canaries[0] if bad_canaries else new[-1]
        text = f"{worst}: {members[worst].why}"
        if rollout.options.on_failure == "cancel":
            return replace(rollout, state=RolloutState.CANCELLED, why=text)
        return replace(rollout, state=RolloutState.PAUSED, why=text)
    if rollout.promoted:
        return rollout
    if any(one.state in OPEN | UNDER_WAY for one in canaries.values()):
        return replace(rollout, baking_since=0.0)
    ill = [
        key
        for key, one in canaries.items()
        if one.state is MemberState.DONE and not fleet.get(key, Observed()).available
    ]
    if ill:
        return replace(rollout, baking_since=0.0)  # a canary has lost its health: baking begins again
    since = rollout.baking_since or now
    baked = not canaries or now - since >= rollout.options.bake
    return replace(rollout, baking_since=since, promoted=baked and not rollout.options.promote_manually)


def _begin(
    rollout: Rollout, members: Mapping[str, Member], fleet: Mapping[str, Observed], now: float
) -> tuple[tuple[str, ...], dict[str, Member]]:
    """Return the members whose restart begins, and all changed members."""
    options = rollout.options
    budget = options.max_unavailable - unavailable(members, fleet)
    busy = Counter(fleet.get(key, Observed()).host for key, one in members.items() if one.state in UNDER_WAY)
    changed: dict[str, Member] = {}
    begun: list[str] = []
    for key in _candidates(rollout, members):
        member, seen = members[key], fleet.get(key, Observed())
        reason = _skipped(member, seen)
        if reason is not None:
            state, why = reason
            changed[key] = _ended(member, state, why, now)
            continue
        waits = _waits_to_be_flat(member, seen, options, now)
        if waits is not None:
            if waits != member:
                changed[key] = waits
            continue
        if budget <= 0 or busy[seen.host] >= options.per_host:
            continue
        budget -= 1
        busy[seen.host] += 1
        begun.append(key)
        changed[key] = replace(
            member, state=MemberState.RESTARTING, since=now, why="", base=seen.desired, generation=0
        )
    return tuple(begun), changed


def _candidates(rollout: Rollout, members: Mapping[str, Member]) -> Sequence[str]:
    found = [key for key, one in members.items() if one.state in OPEN and (rollout.promoted or one.canary)]
    return sorted(found, key=lambda key: (members[key].order, key))


def _skipped(member: Member, seen: Observed) -> tuple[MemberState, str] | None:
    """Return how a member ends without a restart, and why; None if it may be restarted."""
    if not seen.wanted:
        return MemberState.SKIPPED, "it does not run: its next start brings the change"
    if seen.reached and seen.generation > member.base:
        return MemberState.DONE, "a later start brought the change"
    if seen.blocked:
        return MemberState.SKIPPED, seen.blocked
    return None


def _waits_to_be_flat(member: Member, seen: Observed, options: RolloutOptions, now: float) -> Member | None:
    """Return the member if it waits for closed positions, else None."""
    if not options.when_flat or seen.positions == 0 or not seen.running:
        return None
    if member.state is not MemberState.FLAT_WAIT:
        text = "its open positions are unknown" if seen.positions is None else f"{seen.positions} open"
        return replace(member, state=MemberState.FLAT_WAIT, since=now, why=text)
    if options.flat_deadline is None or now - member.since < options.flat_deadline:
        return member
    if options.on_deadline == "force":
        return None
    return _ended(member, MemberState.SKIPPED, f"not flat within {options.flat_deadline:g} s", now)
