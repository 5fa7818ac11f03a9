"""Trading at the venue: market orders, positions, balances.

There are no stop-loss, take-profit or resting orders. Invariant: equity is the balance plus the floating
profit of all open positions.
"""

import json
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Final

from manager.venue.ledger import AccountKey, AccountRow, Ledger, PositionRow
from manager.venue.prices import Clock, Listing, Prices, Quote, UnknownSymbolError, listing

_CENT: Final = Decimal("0.01")
_MAX_TEXT: Final = 128


class RefusedError(Exception):
    """Raised when the venue refuses a request.

    `code` is the code of a GatewayError.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Broker:
    """Executes the requests of accounts. Used by one thread."""

    def __init__(self, ledger: Ledger, prices: Prices, clock: Clock) -> None:
        self._ledger = ledger
        self._prices = prices
        self._clock = clock

    def figures(self, key: AccountKey) -> dict[str, Any]:
        """Return the account's money figures and number of open positions."""
        account = self._ledger.account(key)
        positions = self._ledger.positions(key)
        equity = account.balance + sum((self._profit(p) for p in positions), Decimal(0))
        margin = self._margin(account, positions)
        return {
            "balance": str(account.balance),
            "equity": str(equity),
            "margin": str(margin),
            "free_margin": str(equity - margin),
            "currency": account.currency,
            "open_positions": len(positions),
        }

    def positions(self, key: AccountKey) -> list[dict[str, Any]]:
        return [self._described(position) for position in self._ledger.positions(key)]

    def tick(self, symbol: str) -> dict[str, Any]:
        quote = self._quote(symbol)
        return {"symbol": symbol, "bid": str(quote.bid), "ask": str(quote.ask), "time": quote.time}

    def instrument(self, symbol: str) -> dict[str, Any]:
        found = _listing(symbol)
        return {
            "symbol": symbol,
            "digits": found.digits,
            "tick_size": str(found.tick_size),
            "contract_size": str(found.contract_size),
            "volume_min": str(found.volume_min),
            "volume_max": str(found.volume_max),
            "volume_step": str(found.volume_step),
        }

    def order(self, key: AccountKey, request: dict[str, Any]) -> dict[str, Any]:
        """Fill a market order.

        A repeated `client_order_id` returns the first result again.
        """
        client_order_id = _text(request, "client_order_id")
        before = self._ledger.answered(key, client_order_id)
        if before is not None:
            answer: dict[str, Any] = json.loads(before)
            return answer
        side = request.get("side")
        if side not in ("buy", "sell"):
            raise RefusedError("invalid_request", f"side {side!r}; buy or sell is allowed")
        symbol = _text(request, "symbol")
        instrument = _listing(symbol)
        volume = _volume(request.get("volume"), instrument)
        comment = str(request.get("comment") or "")[:_MAX_TEXT]
        with self._ledger.together():
            account = self._ledger.account(key)
            if account.position_mode == "netting":
                position = self._net(key, account, instrument, side, volume, comment)
            else:
                position = self._open(key, account, instrument, side, volume, comment)
            answer = self._described(position)
            self._ledger.keep_answer(key, client_order_id, json.dumps(answer))
        return answer

    def close(self, key: AccountKey, request: dict[str, Any]) -> dict[str, Any]:
        """Close a position or a part of it.

        Succeeds if the position is already closed.
        """
        requested = str(request.get("position_id"))
        position = next((p for p in self._ledger.positions(key) if str(p.id) == requested), None)
        if position is None:
            return {"closed": "0"}
        volume = position.volume
        if request.get("volume") is not None:
            volume = min(volume, _volume(request["volume"], _listing(position.symbol)))
        with self._ledger.together():
            self._close(key, position, volume)
        return {"closed": str(volume)}

    def _open(
        self,
        key: AccountKey,
        account: AccountRow,
        instrument: Listing,
        side: str,
        volume: Decimal,
        comment: str,
    ) -> PositionRow:
        quote = self._quote(instrument.symbol)
        price = quote.ask if side == "buy" else quote.bid
        now = self._clock()
        requested = PositionRow(0, instrument.symbol, side, volume, price, now)
        free = Decimal(self.figures(key)["free_margin"])
        needed = self._margin(account, [requested])
        if needed > free:
            raise RefusedError(
                "insufficient_funds",
                f"{volume} {instrument.symbol} needs a margin of {needed} {account.currency}; {free} is free",
            )
        number = self._ledger.open_position(key, instrument.symbol, side, volume, price, now, comment)
        self._ledger.add_deal(key, number, instrument.symbol, side, volume, price, Decimal(0), now)
        return PositionRow(number, instrument.symbol, side, volume, price, now)

    def _net(
        self,
        key: AccountKey,
        account: AccountRow,
        instrument: Listing,
        side: str,
        volume: Decimal,
        comment: str,
    ) -> PositionRow:
        held = next((p for p in self._ledger.positions(key) if p.symbol == instrument.symbol), None)
        if held is None:
            return self._open(key, account, instrument, side, volume, comment)
        if held.side == side:
            added = self._open(key, account, instrument, side, volume, comment)
            total = held.volume + volume
            price = (held.open_price * held.volume + added.open_price * volume) / total
            self._ledger.change_position(added.id, Decimal(0), added.open_price)
            self._ledger.change_position(held.id, total, price)
            return PositionRow(held.id, held.symbol, side, total, price, held.opened_at)
        closed = min(held.volume, volume)
        self._close(key, held, closed)
        if volume > closed:
            return self._open(key, account, instrument, side, volume - closed, comment)
        return PositionRow(
            held.id, held.symbol, held.side, held.volume - closed, held.open_price, held.opened_at
        )

    def _close(self, key: AccountKey, position: PositionRow, volume: Decimal) -> None:
        part = PositionRow(
            position.id, position.symbol, position.side, volume, position.open_price, position.opened_at
        )
        profit = self._profit(part)
        side = "sell" if position.side == "buy" else "buy"
        self._ledger.change_position(position.id, position.volume - volume, position.open_price)
        self._ledger.set_balance(key, self._ledger.account(key).balance + profit)
        self._ledger.add_deal(
            key, position.id, position.symbol, side, volume, self._exit_price(part), profit, self._clock()
        )

    def _described(self, position: PositionRow) -> dict[str, Any]:
        return {
            "id": str(position.id),
            "symbol": position.symbol,
            "side": position.side,
            "volume": str(position.volume),
            "open_price": str(position.open_price),
            "opened_at": position.opened_at,
            "profit": str(self._profit(position)),
        }

    def _profit(self, position: PositionRow) -> Decimal:
        """Return the profit of closing now, in dollars rounded to cents."""
        instrument = _listing(position.symbol)
        moved = self._exit_price(position) - position.open_price
        if position.side == "sell":
            moved = -moved
        return self._in_dollars(moved * position.volume * instrument.contract_size, instrument.quote)

    def _exit_price(self, position: PositionRow) -> Decimal:
        quote = self._quote(position.symbol)
        return quote.bid if position.side == "buy" else quote.ask

    def _margin(self, account: AccountRow, positions: list[PositionRow]) -> Decimal:
        total = Decimal(0)
        for position in positions:
            instrument = _listing(position.symbol)
            value = position.volume * instrument.contract_size * position.open_price / account.leverage
            total += self._in_dollars(value, instrument.quote)
        return total

    def _in_dollars(self, amount: Decimal, currency: str) -> Decimal:
        if currency != "USD":
            # For every other quote currency the venue lists its dollar pair (USDXXX).
            amount /= self._quote(f"USD{currency}").bid
        return amount.quantize(_CENT, ROUND_HALF_UP)

    def _quote(self, symbol: str) -> Quote:
        try:
            return self._prices.quote(symbol)
        except UnknownSymbolError as error:
            raise RefusedError("invalid_request", str(error)) from None


def _listing(symbol: str) -> Listing:
    try:
        return listing(symbol)
    except UnknownSymbolError as error:
        raise RefusedError("invalid_request", str(error)) from None


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise RefusedError("invalid_request", f"{name}: it must be a text of 1 to {_MAX_TEXT} characters")
    return value


def _volume(value: object, instrument: Listing) -> Decimal:
    try:
        volume = Decimal(str(value))
    except InvalidOperation:
        volume = Decimal("NaN")
    low, high, step = instrument.volume_min, instrument.volume_max, instrument.volume_step
    if not volume.is_finite() or not low <= volume <= high or volume % step != 0:
        raise RefusedError(
            "invalid_request",
            f"{instrument.symbol}: volume {str(value)[:40]}; {low} to {high} in steps of {step} is allowed",
        )
    return volume
