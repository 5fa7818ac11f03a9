"""Scripted faults: what fails for an account, when, and how often."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class FaultKind(StrEnum):
    """The kind of a scripted fault."""

    AUTH_FAILURE = "auth_failure"
    #: The venue never answers the login.
    CONNECT_TIMEOUT = "connect_timeout"
    #: The venue closes the connection instead of answering.
    CONNECTION_LOST = "connection_lost"
    #: The gateway hangs inside the call and ignores signals.
    HANG = "hang"
    #: The answer is `seconds` late.
    SLOW = "slow"
    #: The venue answers for another login.
    WRONG_ACCOUNT = "wrong_account"
    TRADING_DISABLED = "trading_disabled"
    REQUOTE = "requote"
    #: The venue executes the order and closes the connection without an answer.
    REPLY_LOST = "reply_lost"
    #: The gateway's process aborts inside the call.
    CRASH = "crash"


_ORDERS: Final = frozenset({"order", "close"})
_EVERY: Final = frozenset(
    {"login", "check", "account", "positions", "tick", "instrument", "order", "close", "logout"}
)
#: The calls that a fault affects by default.
_SHOWS_IN: Final[Mapping[FaultKind, frozenset[str]]] = {
    FaultKind.AUTH_FAILURE: frozenset({"login"}),
    FaultKind.CONNECT_TIMEOUT: frozenset({"login"}),
    FaultKind.WRONG_ACCOUNT: frozenset({"login", "check"}),
    FaultKind.TRADING_DISABLED: frozenset({"login", "check", *_ORDERS}),
    FaultKind.REQUOTE: frozenset({"order"}),
    FaultKind.REPLY_LOST: _ORDERS,
}


@dataclass(slots=True)
class Fault:
    """A scripted fault of an account."""

    kind: FaultKind
    #: Number of successful calls before the fault.
    after: int = 0
    #: Number of calls that fail; None: until it is cleared.
    count: int | None = None
    #: Delay of a slow answer in seconds.
    seconds: float = 0.0
    on: frozenset[str] = _EVERY

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> "Fault":
        """Parse an administrator's request. Raises ValueError."""
        try:
            kind = FaultKind(str(request.get("kind")))
        except ValueError:
            raise ValueError(
                f"{request.get('kind')!r} is not a fault; there are {', '.join(FaultKind)}"
            ) from None
        calls = frozenset(request.get("on") or _SHOWS_IN.get(kind, _EVERY))
        if not calls <= _EVERY:
            raise ValueError(
                f"{', '.join(sorted(calls - _EVERY))}: no call; there are {', '.join(sorted(_EVERY))}"
            )
        count = request.get("count")
        return cls(
            kind,
            after=int(request.get("after") or 0),
            count=None if count is None else int(count),
            seconds=float(request.get("seconds") or 0.0),
            on=calls,
        )


class FaultScript:
    """The pending faults of each account."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str], list[Fault]] = {}

    def add(self, account: tuple[str, str], fault: Fault) -> None:
        self._faults.setdefault(account, []).append(fault)

    def clear(self, account: tuple[str, str]) -> None:
        self._faults.pop(account, None)

    def take(self, account: tuple[str, str], call: str) -> Fault | None:
        """Return and count the fault of this call; None if it succeeds."""
        faults = self._faults.get(account)
        if not faults:
            return None
        for fault in faults:
            if call not in fault.on:
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            if fault.count is not None:
                fault.count -= 1
                if fault.count <= 0:
                    faults.remove(fault)
            return fault
        return None
