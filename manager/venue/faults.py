"""Faults on script: what shall go wrong for one account, from which call on, how often."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class FaultKind(StrEnum):
    AUTH_FAILURE = "auth_failure"
    #: The login is never answered.
    CONNECT_TIMEOUT = "connect_timeout"
    #: The venue closes the connection instead of answering.
    CONNECTION_LOST = "connection_lost"
    #: The gateway hangs inside the call, deaf to signals.
    HANG = "hang"
    #: The answer comes `seconds` late.
    SLOW = "slow"
    #: The venue answers for another login.
    WRONG_ACCOUNT = "wrong_account"
    TRADING_DISABLED = "trading_disabled"
    REQUOTE = "requote"
    #: The order is carried out, and the connection closed instead of an answer.
    REPLY_LOST = "reply_lost"
    #: The gateway's process aborts inside the call.
    CRASH = "crash"


_ORDERS: Final = frozenset({"order", "close"})
_EVERY: Final = frozenset(
    {"login", "check", "account", "positions", "tick", "instrument", "order", "close", "logout"}
)
#: In which calls a fault shows, unless its script says otherwise.
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
    kind: FaultKind
    #: Calls that still go well before it shows.
    after: int = 0
    #: Calls in which it shows; None until it is cleared.
    count: int | None = None
    #: How late a slow answer is.
    seconds: float = 0.0
    on: frozenset[str] = _EVERY

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> "Fault":
        """Read an administrator's request. Raises ValueError."""
        try:
            kind = FaultKind(str(request.get("kind")))
        except ValueError:
            raise ValueError(
                f"{request.get('kind')!r} is no fault; there are {', '.join(FaultKind)}"
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
    """The faults that wait for each account."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str], list[Fault]] = {}

    def add(self, account: tuple[str, str], fault: Fault) -> None:
        self._faults.setdefault(account, []).append(fault)

    def clear(self, account: tuple[str, str]) -> None:
        self._faults.pop(account, None)

    def take(self, account: tuple[str, str], call: str) -> Fault | None:
        """Return the fault that shows in this call, if any, and count it."""
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
