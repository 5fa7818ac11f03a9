"""Closes open positions at a stop and reports those that stay open."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from manager.gateways.base import Gateway, GatewayError, NotSupported, OutcomeUnknown
from manager.system import logs

logger = logging.getLogger(__name__)

#: First and longest pause before a refused request is repeated, in seconds.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
#: Maximum number of positions that the report names.
_NAMED: Final = 5
_NOT_TRIED: Final = "not tried"


@dataclass(slots=True)
class ClosingReport:
    """Which positions were closed and which stay open."""

    #: Every position that was read: id → symbol.
    seen: dict[str, str] = field(default_factory=dict)
    #: Positions that are or may be open: id → reason.
    open: dict[str, str] = field(default_factory=dict)
    #: Why the positions could never be read; None if they were.
    unread: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every position is closed."""
        return not self.open and self.unread is None

    def __str__(self) -> str:
        if self.unread is not None:
            return f"open positions could not be read, so none was closed: {self.unread}"
        if not self.open:
            return f"{len(self.seen)} of {len(self.seen)} open positions were closed"
        named = [f"{key} {self.seen[key]} ({why})" for key, why in list(self.open.items())[:_NAMED]]
        more = f", and {len(self.open) - _NAMED} more" if len(self.open) > _NAMED else ""
        unknown = any(why.startswith(OutcomeUnknown.code) for why in self.open.values())
        state = "may be open" if unknown else "stay open"
        return f"{len(self.open)} of {len(self.seen)} positions {state}: {', '.join(named)}{more}"


def close_positions(gateway: Gateway, deadline: float) -> ClosingReport:
    """Close every open position until `deadline` (`time.monotonic()` seconds).

    A request that was refused with a retryable error is repeated after a pause. After an unknown outcome the
    positions are read again first, and only those still open are closed. Another refusal leaves that position
    open and does not affect the others. If the session is lost, no further request is sent. No GatewayError
    is raised.
    """
    return _Closer(gateway, deadline).run()


class _Closer:
    def __init__(self, gateway: Gateway, deadline: float) -> None:
        self._gateway = gateway
        self._deadline = deadline
        self._report = ClosingReport(unread=_NOT_TRIED)
        #: Positions with a refusal that is not retryable, and positions for which a request was sent.
        self._final: set[str] = set()
        self._sent: set[str] = set()
        self._pause = _FIRST_PAUSE

    def run(self) -> ClosingReport:
        report = self._report
        while True:
            try:
                found = self._gateway.positions()
            except NotSupported:
                report.unread = None
                return report
            except GatewayError as error:
                _log(error)
                if report.unread is not None:
                    report.unread = _text(error)
                if error.ends_session or not error.retryable:
                    return report
                again_at_once = False
            else:
                report.unread = None
                report.seen |= {position.id: position.symbol for position in found}
                report.open = {one.id: report.open.get(one.id, _NOT_TRIED) for one in found}
                todo = [position.id for position in found if position.id not in self._final]
                if not todo:
                    return report
                # A venue may list a closed position for a moment: pause then, and after a refusal.
                fresh = self._sent.isdisjoint(todo)
                again_at_once = self._close(todo) and fresh
            if not self._wait(again_at_once):
                return report

    def _close(self, todo: Sequence[str]) -> bool:
        """Request the close of each position once until the deadline.

        Return whether all were closed.
        """
        closed = 0
        for position_id in todo:
            if time.monotonic() >= self._deadline:
                break
            self._sent.add(position_id)
            try:
                self._gateway.close_position(position_id)
            except GatewayError as error:
                _log(error, position_id)
                self._refused(position_id, error)
                if error.ends_session:
                    break
            else:
                closed += 1
                self._report.open.pop(position_id, None)
                logs.event(logger, logging.INFO, "position_closed", position=position_id)
        return closed == len(todo)

    def _refused(self, position_id: str, error: GatewayError) -> None:
        still_open = self._report.open
        still_open[position_id] = _text(error)
        if error.ends_session:
            self._deadline = 0.0
            for other, why in still_open.items():
                if why == _NOT_TRIED:
                    still_open[other] = f"{_NOT_TRIED}: {_text(error)}"
        elif not (error.retryable or error.outcome_unknown):
            self._final.add(position_id)

    def _wait(self, again_at_once: bool) -> bool:
        """Wait before the next round; return False after the deadline."""
        left = self._deadline - time.monotonic()
        if left > 0 and not again_at_once:
            time.sleep(min(self._pause, left))
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return left > 0


def _text(error: GatewayError) -> str:
    return f"{error.code}: {error}"


def _log(error: GatewayError, position_id: str | None = None) -> None:
    logs.event(logger, logging.WARNING, "close_refused", str(error), code=error.code, position=position_id)
