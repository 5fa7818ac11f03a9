"""The protocol of strategies: closed bars in, a decision out.

A strategy keeps nothing between two calls, so a restart changes no decision, and a replay decides what a live
session decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, Protocol, runtime_checkable

from manager.gateways.base import Bar, Instrument

Direction = Literal["long", "short"]

#: The bars that a strategy asks for if its formulas need no more.
DEFAULT_WARMUP: Final = 250
#: The most bars that a strategy may ask for.
MAX_WARMUP: Final = 10_000


@dataclass(frozen=True, slots=True)
class Decision:
    """What a strategy decides on one bar."""

    #: The direction to enter; None: no entry.
    enter: Direction | None = None
    #: The directions whose positions are to be closed. It depends on the bars alone, not on what is held.
    exit: frozenset[Direction] = frozenset()
    #: Distances from the entry price; None: the account's rules for stops and targets apply.
    stop_distance: Decimal | None = None
    target_distance: Decimal | None = None
    #: The reason, for people: `rsi 71.2 ≥ 70: exit long`.
    why: str = ""


class Strategy(Protocol):
    """Decides on closed bars.

    Built by a callable that takes the `params` of the account file and merges its defaults. It raises
    ValueError with the key's name for a value that is not allowed.
    """

    #: How many closed bars it needs for a decision.
    warmup: int

    def decide(self, bars: Sequence[Bar], instrument: Instrument) -> Decision:
        """Decide on the last of `bars` (oldest first, all closed).

        Pure: the same bars give the same decision. Below the bars that the formulas need, there is no entry.
        """


@runtime_checkable
class HasParams(Protocol):
    """A strategy that can say which parameters it uses (optional)."""

    #: The parameters, defaults included.
    params: Mapping[str, Any]


class ParameterError(ValueError):
    """Raised for a parameter of a strategy that is not allowed.

    The text names the key and says what is allowed; `key` is the key and `problem` the text without it.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


def all_params(strategy: Strategy, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a strategy's parameters for its key.

    These are the ones that it reports, or those of the account file.
    """
    return strategy.params if isinstance(strategy, HasParams) else given


def decision_problem(decision: object) -> str | None:
    """Return why the answer of a strategy cannot be used, or None."""
    if not isinstance(decision, Decision):
        return f"it returned {type(decision).__name__}, not a Decision"
    if decision.enter not in ("long", "short", None):
        return f"enter is {decision.enter!r}; allowed are 'long', 'short' and None"
    if not isinstance(decision.exit, frozenset) or not decision.exit <= {"long", "short"}:
        return f"exit is {decision.exit!r}; a frozenset of 'long' and 'short' is allowed"
    for name in ("stop_distance", "target_distance"):
        value = getattr(decision, name)
        if value is not None and not (isinstance(value, Decimal) and value.is_finite() and value > 0):
            return f"{name} is {value!r}; a Decimal above 0 is allowed"
    return None
