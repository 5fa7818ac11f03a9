"""Desired state: what the fleet has been told each account should be. Written before a task is sent, so that no death
of a process loses it: every host agent compares it with the actual state.

    manager:desired             hash: account id → JSON (see `DesiredState`)
    manager:desired:version     counts changes, so that an agent reads the hash only when something changed
    manager:seen:<token>        the generation that a command was given, for a day: one delivered twice acts once
    manager:host:<name>:nudges  list of stops for that host, so that none waits behind slow starts

A command's token is the id of its Celery task. Whoever comes first with it, the manager that sends the task or the
agent that receives one from somebody who knows only Celery, gives it a generation; whoever comes later learns it, and
what is wanted by now. Generations only grow: they start from Redis's clock, so that a Redis which came back empty goes
on above those that agents remember.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, Self

from manager.fleet.audit import writing_host
from manager.fleet.desired_scripts import (
    FORGET,
    FORGET_ACCOUNT,
    REASSIGN,
    RESTORE,
    SET_DESIRED,
    SET_MODE,
    WITHDRAW,
    WITHDRAW_MODE,
)
from manager.fleet.redis_client import open_client, translated
from manager.placement.engine import Needs
from manager.states import TradingMode

DESIRED_KEY: Final = "manager:desired"
VERSION_KEY: Final = "manager:desired:version"
#: When (seconds, by Redis's clock) `tidy` was done last.
TIDIED_KEY: Final = "manager:desired:tidied"
#: Milliseconds for which it is remembered that an account was asked for which no host ever had.
_REFUSED_KEPT_MS: Final = 86_400_000

State = Literal["running", "stopped"]

#: Commands, as desired state and the audit trail name them.
START: Final = "start"
RESTART: Final = "restart"
#: Why an account is stopped by a command, and not since its start was refused.
STOP: Final = "stop"
#: Why an account is wanted on another host than where it was.
MOVE: Final = "move"
FORCED_MOVE: Final = "forced move"
DRAIN: Final = "drain"
REASSIGNED: Final = "handed on"
#: Its record was cleared by a person: hosts drop theirs.
FORGOTTEN: Final = "forget"
#: Whoever gets an account for one of these gets it without a task.
WITHOUT_TASK: Final = frozenset({DRAIN, REASSIGNED})
#: A person has said where, and has been told of what speaks against it.
BY_HAND: Final = frozenset({MOVE, FORCED_MOVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredStateRequest:
    """What a command asks of an account."""

    account_id: str
    state: State
    #: The command's own id; the same token is the same command.
    token: str
    #: Who asked, and by what.
    by: str
    why: str
    #: A worker of an older generation is to be replaced.
    restart: bool = False
    #: The host that does it; empty: where the account is.
    host: str = ""
    apply_defaults: bool = True
    validate: bool = True
    #: Whether another host may take over.
    failover: bool = False
    #: Of a stop, seconds.
    timeout: float | None = None
    #: What the account asks of its host, where that is known here.
    needs: Needs | None = None
    #: The host whose agent writes this; empty: a manager does.
    writer: str = ""
    #: The generation that the command was given when it was sent; 0: its sender knows of none.
    given: int = 0

    def arguments(self) -> list[str]:
        change: dict[str, Any] = {
            "state": self.state,
            "restart": int(self.restart),
            "by": self.by,
            "why": self.why,
            "host": self.host,
            "apply_defaults": self.apply_defaults,
            "validate": self.validate,
            "failover": self.failover,
            "timeout": self.timeout,
        }
        if self.needs is not None:
            change["needs"] = self.needs.to_record()
        urgent_stop = {"account_id": self.account_id, "token": self.token, "by": self.by}
        return [
            self.account_id,
            json.dumps(change),
            json.dumps(urgent_stop) if self.state == "stopped" and not self.host else "",
            self.token,
            self.writer,
            str(self.given),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """What an account should be."""

    account_id: str
    state: State
    generation: int
    #: A worker of an older generation than this is to be replaced; 0: none is.
    restart: int = 0
    #: The host whose it is; empty if no host has taken it yet.
    host: str = ""
    by: str = ""
    why: str = ""
    #: Milliseconds, by Redis's clock.
    at: int = 0
    #: When its host got it, by the same clock: of two that cannot both be where they are, the earlier one may stay.
    claimed: int = 0
    #: Whether its host got it from another host.
    handed: bool = False
    apply_defaults: bool = True
    validate: bool = True
    failover: bool = False
    #: Seconds that a stop may take; None: the account's own.
    timeout: float | None = None
    #: What others must know of it to place theirs; see `Needs.to_record`.
    needs: Mapping[str, Any] = field(default_factory=dict)
    #: How its session trades, since when (milliseconds, by Redis's clock; 0: since ever), and who asked for that.
    mode: TradingMode = TradingMode.NORMAL
    mode_at: int = 0
    mode_by: str = ""
    #: What was wanted before the command that gave it its generation: state, host, restart, claimed, failover.
    before: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tenant(self) -> Needs:
        """The account as placement counts it."""
        return Needs.from_record(self.account_id, self.needs)

    @property
    def running(self) -> bool:
        return self.state == "running"

    def to_record(self) -> dict[str, Any]:
        """Return it as it is kept, under its account's id."""
        record = {key: value for key, value in asdict(self).items() if key != "account_id"}
        if (
            not self.before
        ):  # refused and taken back, or of a version that did not keep it: the scripts tell by that
            del record["before"]
        if not self.mode_at:  # nobody ever asked for one: as versions before 0.3 write it
            del record["mode"], record["mode_at"], record["mode_by"]
        return record

    def with_newest_mode(self, other: "DesiredState | None") -> "DesiredState":
        """Return this state with the mode of whichever of both was given one last."""
        if other is None or other.mode_at <= self.mode_at:
            return self
        return replace(self, mode=other.mode, mode_at=other.mode_at, mode_by=other.mode_by)

    def to_json(self) -> str:
        return json.dumps(self.to_record())

    @classmethod
    def from_json(cls, account_id: str, text: str | bytes) -> Self | None:
        """Read one; None if it is no such record (edited by hand, or of another version)."""
        try:
            data = json.loads(text)
            return cls(
                account_id=account_id,
                state=_one_of(data["state"]),
                generation=_moment(data["generation"]),
                restart=_moment(data.get("restart", 0)),
                host=str(data.get("host", "")),
                by=str(data.get("by", "")),
                why=str(data.get("why", "")),
                at=_moment(data.get("at", 0)),
                claimed=_moment(data.get("claimed", data["generation"])),
                handed=data.get("handed", False) is True,
                apply_defaults=data.get("apply_defaults", True) is True,
                validate=data.get("validate", True) is True,
                failover=data.get("failover", False) is True,
                timeout=_seconds(data.get("timeout")),
                needs=needs if isinstance(needs := data.get("needs"), dict) else {},
                mode=_mode(data.get("mode")),
                mode_at=_moment(data.get("mode_at", 0)),
                mode_by=str(data.get("mode_by", "")),
                before=before if isinstance(before := data.get("before"), dict) else {},
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class UrgentStop:
    """A stop that a host should carry out at once."""

    account_id: str
    token: str
    by: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is wanted, at one moment."""

    version: int
    #: Milliseconds, by Redis's clock.
    now: int
    desired: Mapping[str, DesiredState]
    #: Accounts whose record is nonsense.
    broken: frozenset[str]


class DesiredStore:
    """Reads and writes desired state. Every method raises FleetUnavailableError if Redis cannot be used."""

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)
        #: The host whose list of the audit trail a wish is noted in; empty: the stream.
        self._trail = writing_host(url)
        self._desire = self._client.register_script(SET_DESIRED)
        self._set_mode = self._client.register_script(SET_MODE)
        self._withdraw_mode = self._client.register_script(WITHDRAW_MODE)
        self._withdraw = self._client.register_script(WITHDRAW)
        self._restore = self._client.register_script(RESTORE)
        self._take_over = self._client.register_script(REASSIGN)
        self._forget_account = self._client.register_script(FORGET_ACCOUNT)
        self._forget = self._client.register_script(FORGET)
        self._read_before: dict[bytes, tuple[bytes, DesiredState | None]] = {}

    def close(self) -> None:
        self._client.close()

    def set_desired(self, change: DesiredStateRequest) -> tuple[int, DesiredState]:
        """Write a wish down; returns the command's generation, and what is wanted now, by this or a later command."""
        with translated(self._url):
            return _written(change, self._desire(keys=_keys(change), args=self._arguments(change)))

    def set_desired_many(self, wishes: Iterable[DesiredStateRequest]) -> list[tuple[int, DesiredState]]:
        """Write many down in one round trip."""
        wishes = list(wishes)
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            for change in wishes:
                self._desire(keys=_keys(change), args=self._arguments(change), client=pipe)
            answers = pipe.execute()
        return [_written(change, answer) for change, answer in zip(wishes, answers, strict=True)]

    def _arguments(self, change: DesiredStateRequest) -> list[str]:
        return [*change.arguments(), self._trail]

    def withdraw(self, account_id: str, generation: int) -> None:
        """Take back a wish that was refused, unless a later one has replaced it."""
        with translated(self._url):
            self._withdraw(keys=[DESIRED_KEY, VERSION_KEY], args=[account_id, generation])

    def set_mode(
        self, account_id: str, mode: TradingMode, *, token: str, by: str, what: str
    ) -> DesiredState | None:
        """Write down how the account is to trade; returns what is desired now, by this or a later command.

        The same token changes nothing a second time. None if nothing was ever desired of the account.
        """
        with translated(self._url):
            text = self._set_mode(
                keys=[DESIRED_KEY, VERSION_KEY, _seen_key(token)],
                args=[account_id, mode, by, what, token, self._trail],
            )
        return None if text is None else DesiredState.from_json(account_id, text)

    def withdraw_mode(self, desired: DesiredState, mode: TradingMode) -> None:
        """Go back to `mode` from one that was refused, unless a later command has changed it."""
        with translated(self._url):
            self._withdraw_mode(
                keys=[DESIRED_KEY, VERSION_KEY], args=[desired.account_id, desired.mode_at, mode]
            )

    def restore(self, desired: DesiredState) -> bool:
        """Write again what Redis has lost; False if it knows it, or something later."""
        with translated(self._url):
            return bool(
                self._restore(keys=[DESIRED_KEY, VERSION_KEY], args=[desired.account_id, desired.to_json()])
            )

    def reassign(self, desired: DesiredState, host: str, why: str = "") -> DesiredState | None:
        """Make the account `host`'s; None if another host was faster, or something else is wanted by now."""
        with translated(self._url):
            text = self._take_over(
                keys=[DESIRED_KEY, VERSION_KEY],
                args=[desired.account_id, desired.generation, desired.host, host, why],
            )
        return None if text is None else DesiredState.from_json(desired.account_id, text)

    def tidy(self) -> int:
        """Forget accounts that were asked for days ago and that no host ever had, mistyped ones mostly; returns how many."""
        snapshot = self.snapshot()
        old = [
            desired
            for desired in (snapshot.desired.values() if snapshot is not None else ())
            if not (desired.running or desired.host)
            and snapshot is not None
            and snapshot.now - desired.generation > _REFUSED_KEPT_MS
        ]
        with translated(self._url):
            forgotten = sum(
                self._forget(keys=[DESIRED_KEY, VERSION_KEY], args=[one.account_id, one.generation])
                for one in old
            )
            self._client.set(TIDIED_KEY, self._client.time()[0])
        return int(forgotten)

    def forget_account(self, account_id: str, generation: int, host: str, by: str) -> bool:
        """Leave only that the account is stopped; False if anything was asked of it since `generation`."""
        with translated(self._url):
            return bool(
                self._forget_account(keys=[DESIRED_KEY, VERSION_KEY], args=[account_id, generation, host, by])
            )

    def tidied_seconds_ago(self) -> float | None:
        """Return how long ago `tidy` was done; None if it never was."""
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.time()
            pipe.get(TIDIED_KEY)
            (seconds, _), then = pipe.execute()
        return float(seconds - int(then)) if then is not None and then.isdigit() else None

    def desired_accounts(self) -> list[str]:
        """Return the accounts that should run."""
        snapshot = self.snapshot()
        return [] if snapshot is None else [key for key, one in snapshot.desired.items() if one.running]

    def read(self, account_id: str) -> DesiredState | None:
        """Return what is wanted of the account; None if nothing ever was, or nobody can say."""
        return self.read_many([account_id]).get(account_id)

    def read_many(self, account_ids: Iterable[str]) -> dict[str, DesiredState]:
        """Return what is wanted of these accounts, of those of which anything is."""
        wanted = list(account_ids)
        if not wanted:
            return {}
        with translated(self._url):
            raw = self._client.hmget(DESIRED_KEY, wanted)
        found = (DesiredState.from_json(key, text) for key, text in zip(wanted, raw, strict=True) if text)
        return {desired.account_id: desired for desired in found if desired is not None}

    def generations(self, tokens: Iterable[str]) -> dict[str, int]:
        """Return the generations that these commands were given, of those of which that is remembered."""
        asked = list(tokens)
        if not asked:
            return {}
        with translated(self._url):
            raw = self._client.mget([_seen_key(token) for token in asked])
        return {token: int(text) for token, text in zip(asked, raw, strict=True) if text and text.isdigit()}

    def snapshot(self, known_version: int | None = None) -> Snapshot | None:
        """Return everything that is wanted; None if nothing has changed since `known_version`."""
        with translated(self._url):
            version = int(self._client.get(VERSION_KEY) or 0)
            if version == known_version:
                return None
            pipe = self._client.pipeline(transaction=True)
            pipe.get(VERSION_KEY)
            pipe.time()
            pipe.hgetall(DESIRED_KEY)
            raw_version, (seconds, micros), records = pipe.execute()
        desired: dict[str, DesiredState] = {}
        broken: set[str] = set()
        read: dict[bytes, tuple[bytes, DesiredState | None]] = {}
        for key, text in records.items():
            account_id = key.decode(errors="replace")
            # Of thousands a few have changed since the last time.
            before = self._read_before.get(key)
            found = (
                before[1]
                if before is not None and before[0] == text
                else DesiredState.from_json(account_id, text)
            )
            read[key] = (text, found)
            if found is None:
                broken.add(account_id)
            else:
                desired[account_id] = found
        self._read_before = read
        return Snapshot(int(raw_version or 0), seconds * 1000 + micros // 1000, desired, frozenset(broken))

    def next_urgent_stop(self, host: str, wait_seconds: float) -> UrgentStop | None:
        """Return the host's next nudge, waiting for one at most `wait_seconds` (whole ones, under the reply timeout)."""
        with translated(self._url):
            answer = self._client.blpop([urgent_stops_key(host)], timeout=wait_seconds)
        if answer is None:
            return None
        try:
            data = json.loads(answer[1])
            return UrgentStop(str(data["account_id"]), str(data["token"]), str(data.get("by", "")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # written by hand; what is meant stands in the desired state


def urgent_stops_key(host: str) -> str:
    return f"manager:host:{host}:nudges"


def _keys(change: DesiredStateRequest) -> list[str]:
    return [DESIRED_KEY, VERSION_KEY, _seen_key(change.token)]


def _seen_key(token: str) -> str:
    return f"manager:seen:{token}"


def _written(change: DesiredStateRequest, answer: tuple[bytes, bytes]) -> tuple[int, DesiredState]:
    generation, text = answer
    desired = DesiredState.from_json(change.account_id, text)
    if desired is None:
        raise ValueError(f"{change.account_id}: Redis wrote a desired state that cannot be read: {text!r}")
    return int(generation), desired


def _moment(value: object) -> int:
    """Read milliseconds since the epoch; what is beyond any clock would never be overruled."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**15:
        raise ValueError(f"no moment: {str(value)[:40]}")
    return int(value)


def _seconds(value: object) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        else None
    )


def _mode(value: object) -> TradingMode:
    """Read a trading mode. One that this version does not know is `paused`: it must not trade by a mistake."""
    try:
        return TradingMode.NORMAL if value is None else TradingMode(str(value))
    except ValueError:
        return TradingMode.PAUSED


def _one_of(value: object) -> State:
    if value == "running":
        return "running"
    if value == "stopped":
        return "stopped"
    raise ValueError(f"no state: {value!r}")


__all__ = ["DesiredState", "DesiredStore", "UrgentStop", "Snapshot", "DesiredStateRequest"]
