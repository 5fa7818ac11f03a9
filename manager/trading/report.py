"""The report of a replay: its trades, equity curve, drawdown and figures.

The same trades give the same report, text for text. Money is Decimal, and Decimal text in JSON.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from typing import Any

from manager.trading.numbers import exact, rounded_up
from manager.trading.strategy import Direction

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """A position from its opening to its close."""

    symbol: str
    side: Direction
    volume: Decimal
    opened_at: datetime
    open_price: Decimal
    closed_at: datetime
    close_price: Decimal
    #: In the account's currency, with commission and swap.
    profit: Decimal
    #: Why it was closed: the strategy's reason, or the stop or target.
    why: str

    def to_dict(self) -> dict[str, str]:
        """Return the trade as JSON-compatible texts.

        Equal numbers have one text: 0.5 and 0.50 are `0.5`.
        """
        return {
            "symbol": self.symbol,
            "side": self.side,
            "volume": _number(self.volume),
            "opened_at": _time(self.opened_at),
            "open_price": _number(self.open_price),
            "closed_at": _time(self.closed_at),
            "close_price": _number(self.close_price),
            "profit": _number(self.profit),
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class EquityPoint:
    """The account's equity at one time."""

    at: datetime
    equity: Decimal


@dataclass(frozen=True, slots=True)
class Drawdown:
    """The deepest fall of equity below an earlier peak."""

    #: In the account's currency; 0 if equity never fell.
    amount: Decimal = _ZERO
    peak_at: datetime | None = None
    trough_at: datetime | None = None
    #: The deepest fall in percent of its peak, which may be another fall; None if a peak was not above 0.
    percent: Decimal | None = _ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Sums over trades."""

    trades: int
    wins: int
    losses: int
    gross_profit: Decimal
    #: As a positive number.
    gross_loss: Decimal
    longest_losing_run: int

    @property
    def net_profit(self) -> Decimal:
        return self.gross_profit - self.gross_loss

    @property
    def profit_factor(self) -> Decimal | None:
        """Gross profit divided by gross loss; None without a loss.

        Rounded down to 4 decimals.
        """
        return _ratio(self.gross_profit, self.gross_loss)

    @property
    def win_rate(self) -> Decimal | None:
        """The part of trades with a profit; None without trades.

        Rounded down to 4 decimals.
        """
        return _ratio(Decimal(self.wins), Decimal(self.trades))


def figures(trades: Sequence[Trade]) -> Figures:
    """Return the sums over trades.

    A trade without profit and loss is neither a win nor a loss.
    """
    profits = [trade.profit for trade in sorted(trades, key=lambda trade: trade.closed_at)]
    runs = [len(list(run)) for is_loss, run in groupby(profits, key=lambda profit: profit < 0) if is_loss]
    return Figures(
        trades=len(profits),
        wins=sum(profit > 0 for profit in profits),
        losses=sum(profit < 0 for profit in profits),
        gross_profit=sum((profit for profit in profits if profit > 0), _ZERO),
        gross_loss=-sum((profit for profit in profits if profit < 0), _ZERO),
        longest_losing_run=max(runs, default=0),
    )


def max_drawdown(points: Iterable[EquityPoint]) -> Drawdown:
    """Return the deepest fall of equity, in money and in percent.

    Percent is rounded up to 4 decimals.
    """
    peak: EquityPoint | None = None
    deepest = Drawdown()
    percent: Fraction | None = Fraction(0)
    for point in points:
        if peak is None or point.equity > peak.equity:
            peak = point
            if point.equity <= 0:
                percent = None
        fall = peak.equity - point.equity
        if fall > deepest.amount:
            deepest = Drawdown(fall, peak.at, point.at)
        if percent is not None:
            percent = max(percent, exact(fall) * 100 / exact(peak.equity))
    shown = None if percent is None else _up(percent)
    return Drawdown(deepest.amount, deepest.peak_at, deepest.trough_at, shown)


def trades_hash(trades: Sequence[Trade]) -> str:
    """Return a SHA-256 of the trades.

    The same trades have the same hash, in whatever sequence they are given.
    """
    ordered = sorted(trades, key=lambda trade: (trade.opened_at, trade.symbol, trade.closed_at, trade.volume))
    lines = (json.dumps(trade.to_dict(), sort_keys=True, separators=(",", ":")) for trade in ordered)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def report(
    trades: Sequence[Trade], points: Sequence[EquityPoint], stopped_by: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the whole report as JSON-compatible values.

    `stopped_by` are the names of the drawdown rules that would have stopped the account.
    """
    found, fall = figures(trades), max_drawdown(points)
    return {
        "trades": [trade.to_dict() for trade in trades],
        "equity": [[_time(point.at), _number(point.equity)] for point in points],
        "max_drawdown": _number(fall.amount),
        "max_drawdown_percent": None if fall.percent is None else _number(fall.percent),
        "net_profit": _number(found.net_profit),
        "gross_profit": _number(found.gross_profit),
        "gross_loss": _number(found.gross_loss),
        "profit_factor": None if found.profit_factor is None else _number(found.profit_factor),
        "win_rate": None if found.win_rate is None else _number(found.win_rate),
        "wins": found.wins,
        "losses": found.losses,
        "longest_losing_run": found.longest_losing_run,
        "stopped_by": list(stopped_by),
        "hash": trades_hash(trades),
    }


def equity_csv(points: Iterable[EquityPoint]) -> str:
    """Return the equity curve as CSV with the columns `time` and `equity`."""
    lines = (f"{_time(point.at)},{_number(point.equity)}\n" for point in points)
    return "time,equity\n" + "".join(lines)


def _ratio(a: Decimal, b: Decimal) -> Decimal | None:
    return None if b == 0 else Decimal(exact(a) * 10_000 // exact(b)).scaleb(-4)


def _up(value: Fraction) -> Decimal:
    return rounded_up(Fraction((value * 10_000).__ceil__(), 10_000))


def _number(value: Decimal) -> str:
    """Return the shortest text of a number, without an exponent."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
