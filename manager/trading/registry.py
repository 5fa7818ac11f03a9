"""Registry of the strategies of this package and of other packages.

A strategy is an entry point of the group `manager.strategies`. Its name is the `strategy_type` of account
files, and its object a callable that takes `params` and returns a `Strategy`.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from manager.trading.strategy import MAX_WARMUP, ParameterError, Strategy

#: The entry point group of strategies.
ENTRY_POINTS: Final = "manager.strategies"

#: The built-in strategies. The distribution declares the same entry points; a program that runs from a source
#: tree has them too.
BUILT_IN: Final[Mapping[str, str]] = {
    "simple_ma": "manager.trading.strategies.simple_ma:SimpleMA",
    "rsi": "manager.trading.strategies.rsi:RSI",
    "macd": "manager.trading.strategies.macd:MACD",
    "bollinger": "manager.trading.strategies.bollinger:Bollinger",
}

Builder = Callable[[Mapping[str, Any]], Strategy]


class UnknownStrategyError(LookupError):
    """Raised for a `strategy_type` that no package offers."""


class StrategyLoadError(RuntimeError):
    """Raised if a plugged-in strategy cannot be loaded or built here."""


def known_strategies() -> tuple[str, ...]:
    """Return the names of all strategies, sorted. Loads none."""
    return tuple(sorted(_offers()))


def make_strategy(strategy_type: str, params: Mapping[str, Any]) -> Strategy:
    """Return a strategy with the `params` of an account file.

    Raises UnknownStrategyError, StrategyLoadError, or ValueError for a parameter that is not allowed
    (ParameterError, if the strategy says which).
    """
    build = _loaded(strategy_type)
    try:
        strategy = build(params)
    except ValueError as error:
        if isinstance(error, ParameterError):
            raise
        raise ValueError(_without_texts(str(error), params)) from None
    except Exception as error:
        raise StrategyLoadError(
            f"strategy {strategy_type} failed while it was built ({type(error).__name__}); "
            "see its documentation, and install what it needs"
        ) from error
    return _checked(strategy_type, strategy)


def _checked(strategy_type: str, strategy: Strategy) -> Strategy:
    warmup = getattr(strategy, "warmup", None)
    if isinstance(warmup, bool) or not isinstance(warmup, int) or not 1 <= warmup <= MAX_WARMUP:
        raise StrategyLoadError(
            f"strategy {strategy_type}: its warmup is not an integer from 1 to {MAX_WARMUP}"
        )
    if not callable(getattr(strategy, "decide", None)):
        raise StrategyLoadError(f"strategy {strategy_type} has no method decide(bars, instrument)")
    return strategy


@cache
def _offers() -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return who offers a strategy, by name; a built-in name is ours alone."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        found.setdefault(point.name, {})[point.value] = point
    for name, value in BUILT_IN.items():
        found[name] = {value: EntryPoint(name=name, value=value, group=ENTRY_POINTS)}
    return {name: tuple(points.values()) for name, points in found.items()}


@cache
def _loaded(strategy_type: str) -> Builder:
    offers = _offers().get(strategy_type)
    if offers is None:
        known = ", ".join(known_strategies())
        raise UnknownStrategyError(f"{strategy_type!r} is not a strategy here; available are {known}")
    if len(offers) > 1:
        values = " and ".join(sorted(point.value for point in offers))
        raise StrategyLoadError(f"strategy {strategy_type} is offered twice, by {values}: uninstall one")
    try:
        build: Builder = offers[0].load()
    except Exception as error:
        raise StrategyLoadError(
            f"strategy {strategy_type} cannot be loaded here ({type(error).__name__}: {error}); "
            "install what it needs"
        ) from error
    if not callable(build):
        raise StrategyLoadError(f"strategy {strategy_type}: {offers[0].value} cannot be called with params")
    return build


def _without_texts(message: str, params: Mapping[str, Any]) -> str:
    """Return a strategy's message without the texts of its parameters.

    They may be secrets.
    """
    texts = sorted((value for value in params.values() if isinstance(value, str) and value), key=len)
    for text in reversed(texts):
        message = message.replace(text, "…")
    return message
