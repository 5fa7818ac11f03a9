"""Desired state of accounts, and the requests that change it.

A manager writes desired state before it sends a task, so that no lost process or message loses the command.
Every host agent compares it with the actual state. `manager.fleet.desired_store` reads and writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, Self

from manager.fleet.event_types import Cause
from manager.models import WorkerInfo
from manager.placement.engine import Needs
from manager.states import TradingMode, WorkerLifecycleStatus

State = Literal["running", "stopped"]

#: Values of `why`: commands, as desired state and the audit trail name them.
START: Final = "start"
RESTART: Final = "restart"
#: An account is stopped by a command, and not because its start was refused.
STOP: Final = "stop"
#: An account belongs on another host than before.
MOVE: Final = "move"
FORCED_MOVE: Final = "forced move"
DRAIN: Final = "drain"
#: The value stays as hosts of earlier versions compare it.
REASSIGNED: Final = "handed on"
#: The account's file says `enabled: false`, or says so no more.
DISABLED: Final = "disabled in its file"
ENABLED: Final = "enabled in its file"
#: The account's file is gone.
REMOVED: Final = "its file was removed"
#: A rollout brings the account a change.
ROLLOUT: Final = "rollout"
#: A change of the account's file needs a restart.
RELOADED: Final = "its file changed"
#: An operator had the account's record deleted: hosts delete theirs.
FORGOTTEN: Final = "forget"
#: Reasons for which a host gets an account without a task.
WITHOUT_TASK: Final = frozenset({DRAIN, REASSIGNED, ENABLED, RELOADED, ROLLOUT})
#: Reasons for which an operator chose the host, and was shown what speaks against it.
OPERATOR_PLACED: Final = frozenset({MOVE, FORCED_MOVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredStateRequest:
    """A change of an account's desired state that a command asks for."""

    account_id: str
    state: State
    #: The command's id; requests with the same token are the same command.
    token: str
    #: Who asked.
    by: str
    #: The command; see the constants above.
    why: str
    #: Whether a worker of an older generation must be replaced.
    restart: bool = False
    #: The host that carries it out; empty: the account's present host.
    host: str = ""
    apply_defaults: bool = True
    validate: bool = True
    #: Whether another host may take the account when its host is lost.
    failover: bool = False
    #: Seconds that a stop may take; None: as the account is configured.
    timeout: float | None = None
    #: What the account needs of its host; None where this writer does not know.
    needs: Needs | None = None
    #: The host whose agent writes this; empty: a manager.
    writer: str = ""
    #: The generation that the command got when it was sent; 0: unknown to this writer.
    given: int = 0

    def arguments(self) -> list[str]:
        """Return the request's arguments of the script `SET_DESIRED`."""
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
    #: A worker of a generation below this must be replaced; 0: none must.
    restart: int = 0
    #: The host that has the account; empty if no host has claimed it yet.
    host: str = ""
    by: str = ""
    why: str = ""
    #: Milliseconds, by Redis's clock.
    at: int = 0
    #: When the host got the account, in milliseconds by Redis's clock. If two accounts cannot both stay on a
    #: host, the earlier one may.
    claimed: int = 0
    #: Whether the host got the account from another host.
    handed: bool = False
    apply_defaults: bool = True
    validate: bool = True
    failover: bool = False
    #: Seconds that a stop may take; None: as the account is configured.
    timeout: float | None = None
    #: What placement must know of the account; see `Needs.to_record`.
    needs: Mapping[str, Any] = field(default_factory=dict)
    #: The trading mode, when it was set (milliseconds, by Redis's clock; 0: never), and who asked for it.
    mode: TradingMode = TradingMode.NORMAL
    mode_at: int = 0
    mode_by: str = ""
    #: The id of the command that gave it its generation; empty for one that a version before 0.3 wrote.
    token: str = ""
    #: The fields before the command that set this generation: state, host, restart, claimed, failover.
    before: Mapping[str, Any] = field(default_factory=dict)

    @property
    def placement_needs(self) -> Needs:
        """The account's needs as placement counts them."""
        return Needs.from_record(self.account_id, self.needs)

    @property
    def running(self) -> bool:
        return self.state == "running"

    def cause_of(self, info: WorkerInfo) -> Cause:
        """Return the command that led to a worker's record; empty if this desired state is not its cause."""
        placed = info.placement
        starts = info.status in (WorkerLifecycleStatus.STARTING, WorkerLifecycleStatus.RUNNING)
        if starts and self.running and placed.generation == self.generation and not placed.restarts:
            return Cause(self.by, self.token)
        stops = info.status in (WorkerLifecycleStatus.STOPPING, WorkerLifecycleStatus.STOPPED)
        return Cause(self.by, self.token) if stops and not self.running else Cause()

    def to_record(self) -> dict[str, Any]:
        """Return the JSON fields that are stored under the account's id."""
        record = {key: value for key, value in asdict(self).items() if key != "account_id"}
        if not self.before:
            # Withdrawn, or of a version that did not store it: the scripts tell both by the missing field.
            del record["before"]
        if not self.mode_at:
            # As versions before 0.3 write it.
            del record["mode"], record["mode_at"], record["mode_by"]
        if not self.token:
            del record["token"]
        return record

    def with_newest_mode(self, other: "DesiredState | None") -> "DesiredState":
        """Return this state with the mode that was set last in either state."""
        if other is None or other.mode_at <= self.mode_at:
            return self
        return replace(self, mode=other.mode, mode_at=other.mode_at, mode_by=other.mode_by)

    def to_json(self) -> str:
        return json.dumps(self.to_record())

    @classmethod
    def from_json(cls, account_id: str, text: str | bytes) -> Self | None:
        """Parse a stored record.

        Returns None if it is malformed or of an incompatible version.
        """
        try:
            data = json.loads(text)
            return cls(
                account_id=account_id,
                state=_state(data["state"]),
                generation=_milliseconds(data["generation"]),
                restart=_milliseconds(data.get("restart", 0)),
                host=str(data.get("host", "")),
                by=str(data.get("by", "")),
                why=str(data.get("why", "")),
                at=_milliseconds(data.get("at", 0)),
                claimed=_milliseconds(data.get("claimed", data["generation"])),
                handed=data.get("handed", False) is True,
                apply_defaults=data.get("apply_defaults", True) is True,
                validate=data.get("validate", True) is True,
                failover=data.get("failover", False) is True,
                timeout=_seconds(data.get("timeout")),
                needs=needs if isinstance(needs := data.get("needs"), dict) else {},
                mode=_mode(data.get("mode")),
                mode_at=_milliseconds(data.get("mode_at", 0)),
                mode_by=str(data.get("mode_by", "")),
                token=str(data.get("token", ""))[:100],
                before=before if isinstance(before := data.get("before"), dict) else {},
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


def _milliseconds(value: object) -> int:
    """Parse milliseconds since the epoch. Raises ValueError.

    A generation beyond every clock is refused: no later command could replace it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**15:
        raise ValueError(f"not a time in milliseconds: {str(value)[:40]}")
    return int(value)


def _seconds(value: object) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        else None
    )


def _mode(value: object) -> TradingMode:
    """Parse a trading mode.

    An unknown one, of a later version, becomes `paused`: it must not trade.
    """
    try:
        return TradingMode.NORMAL if value is None else TradingMode(str(value))
    except ValueError:
        return TradingMode.PAUSED


def _state(value: object) -> State:
    if value == "running":
        return "running"
    if value == "stopped":
        return "stopped"
    raise ValueError(f"not a desired state: {value!r}")
