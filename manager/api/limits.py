"""Rate limits of one process: a token bucket for each sender and kind."""

import contextlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from manager.api.problems import ProblemError


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` requests in the long run, and `burst` at once."""

    per_second: float
    burst: int


RATES: Final[Mapping[str, Rate]] = {
    "read": Rate(50, 100),
    "command": Rate(10, 50),
    "bulk": Rate(1, 3),
    #: Requests without a known token or session, by address.
    "address": Rate(20, 20),
    #: Failed logins, by address: five a minute.
    "login": Rate(5 / 60, 5),
}
#: Maximum number of buckets; the least recently used are dropped first.
_KEPT: Final = 10_000


def scaled(factor: float, rates: Mapping[str, Rate] = RATES) -> Mapping[str, Rate]:
    """Return the rates times `factor`; the limit of failed logins stays.

    A burst allows at least one request.
    """
    return {
        name: rate
        if name == "login"
        else Rate(rate.per_second * factor, max(1, math.ceil(rate.burst * factor)))
        for name, rate in rates.items()
    }


class OpenStreams:
    """Limits the open streams of each token. Used from one event loop."""

    def __init__(self, most: int = 20) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def enter(self, who: str) -> None:
        """Count a stream that opens. Call `leave` when it ends.

        Raises ProblemError `rate_limited` if the token has too many.
        """
        if self._open[who] >= self._most:
            raise ProblemError(
                "rate_limited",
                f"a token has at most {self._most} open streams and waiting requests: close one first",
                retryable=True,
                headers={"Retry-After": "5"},
            )
        self._open[who] += 1

    @contextlib.contextmanager
    def place(self, who: str) -> Iterator[None]:
        """Count a waiting request, such as for an event, as an open stream."""
        self.enter(who)
        try:
            yield
        finally:
            self.leave(who)

    def leave(self, who: str) -> None:
        self._open[who] -= 1
        if self._open[who] <= 0:
            del self._open[who]


class RateLimiter:
    """Limits requests by sender and kind. Used from one event loop.

    Each API process counts on its own: two processes allow twice as many requests.
    """

    def __init__(
        self, rates: Mapping[str, Rate] = RATES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rates = rates
        self._clock = clock
        #: (kind, sender) → tokens left, and the time of that count.
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, kind: str, who: str, count: float = 1.0) -> None:
        """Count one request. Raises ProblemError `rate_limited`."""
        left, rate = self._left(kind, who)
        if left < count:
            raise self._refusal(kind, rate, left)
        self._put(kind, who, left - count)

    def give_back(self, kind: str, who: str, count: float = 1.0) -> None:
        """Undo `take` of a request that turned out not to count."""
        left, rate = self._left(kind, who)
        self._put(kind, who, min(float(rate.burst), left + count))

    def check(self, kind: str, who: str) -> None:
        """Check, without counting, that one more request is allowed.

        Raises ProblemError `rate_limited`.
        """
        left, rate = self._left(kind, who)
        if left < 1:
            raise self._refusal(kind, rate, left)

    def _left(self, kind: str, who: str) -> tuple[float, Rate]:
        rate = self._rates[kind]
        left, then = self._buckets.get((kind, who), (float(rate.burst), self._clock()))
        return min(float(rate.burst), left + (self._clock() - then) * rate.per_second), rate

    def _put(self, kind: str, who: str, left: float) -> None:
        self._buckets[kind, who] = (left, self._clock())
        self._buckets.move_to_end((kind, who))
        while len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)

    @staticmethod
    def _refusal(kind: str, rate: Rate, left: float) -> ProblemError:
        seconds = max(1, math.ceil((1 - left) / rate.per_second))
        window = max(1, math.ceil(rate.burst / rate.per_second))
        return ProblemError(
            "rate_limited",
            f"too many requests of kind {kind}: allowed are {rate.burst} at once and {rate.per_second:.3g} a "
            f"second; try again in {seconds} s",
            retryable=True,
            headers={
                "Retry-After": str(seconds),
                "RateLimit": f'"{kind}";r=0;t={seconds}',
                "RateLimit-Policy": f'"{kind}";q={rate.burst};w={window}',
            },
        )
