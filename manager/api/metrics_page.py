"""The `/metrics` page: metrics of the fleet and of the API."""

import threading
from collections import Counter, defaultdict
from typing import Final

from manager.errors import FleetUnavailableError
from manager.fleet.events import EventStream
from manager.telemetry.attention import Attention
from manager.telemetry.fleet_reader import FleetListing, ViewReader
from manager.telemetry.metrics import FleetFigures, render
from manager.telemetry.metrics_accounts import AccountsShown
from manager.telemetry.metrics_text import labels

#: Upper bounds of the buckets of request times, in seconds.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
#: Methods that are counted by name, so that a client cannot create series.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMeter:
    """Counts requests by route template, not by path. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._buckets: dict[str, Counter[float]] = defaultdict(Counter)
        self._seconds: dict[str, float] = defaultdict(float)

    def count(self, route: str, method: str, code: int, seconds: float) -> None:
        method = method if method in _METHODS else "other"
        bound = next((bound for bound in _BUCKETS if seconds <= bound), float("inf"))
        with self._lock:
            self._requests[route, method, str(code)] += 1
            self._buckets[route][bound] += 1
            self._seconds[route] += seconds

    def render(self, stream_clients: int, stream_lag_seconds: float) -> str:
        """Return the metrics of the API in Prometheus's text format."""
        with self._lock:
            requests = [
                f"manager_api_requests_total{labels(route=route, method=method, code=code)} {count}"
                for (route, method, code), count in sorted(self._requests.items())
            ]
            times = [line for route in sorted(self._buckets) for line in self._histogram(route)]
        lines = _head("manager_stream_clients", "gauge", "Open stream connections.")
        lines.append(f"manager_stream_clients {stream_clients}")
        lines += _head("manager_stream_lag_seconds", "gauge", "Time from the view to the stream clients.")
        lines.append(f"manager_stream_lag_seconds {stream_lag_seconds:.6f}")
        if requests:
            lines += _head("manager_api_requests_total", "counter", "Requests to the API.")
            lines += requests
            lines += _head("manager_api_request_seconds", "histogram", "Time to answer.")
            lines += times
        return "\n".join(lines) + "\n"

    def _histogram(self, route: str) -> list[str]:
        total, lines = 0, []
        for bound in (*_BUCKETS, float("inf")):
            total += self._buckets[route][bound]
            text = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f"manager_api_request_seconds_bucket{labels(route=route, le=text)} {total}")
        lines.append(f"manager_api_request_seconds_sum{labels(route=route)} {self._seconds[route]:.6f}")
        lines.append(f"manager_api_request_seconds_count{labels(route=route)} {total}")
        return lines


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


class MetricsPage:
    """Renders the `/metrics` page from the live view at each scrape."""

    def __init__(self, reader: ViewReader, events: EventStream, shown: AccountsShown) -> None:
        self._reader = reader
        self._events = events
        self._shown = shown
        self.requests = RequestMeter()

    def text(self, stream_clients: int, stream_lag_seconds: float = 0.0) -> str:
        """Return the page. Blocks while it reads counters.

        Never raises FleetUnavailableError: without Redis, the page omits the accounts and hosts.
        """
        api = self.requests.render(stream_clients, stream_lag_seconds)
        return render(self._figures(), shown=self._shown) + api

    def _figures(self) -> FleetFigures:
        view = self._reader.view
        try:
            listing = self._reader.read()
            if listing.stale_seconds is not None:
                raise FleetUnavailableError("Redis is unreachable")
            counters = self._events.counters(listing.hosts)
        except FleetUnavailableError:
            return FleetFigures(redis_up=False, view_age_seconds=view.age_seconds, view_drift=view.drift)
        with view.reading() as state:
            ages = state.heartbeat_ages()
        return FleetFigures(
            redis_up=True,
            view_age_seconds=view.age_seconds,
            view_drift=view.drift,
            accounts=tuple(listing.accounts.values()),
            hosts=tuple(listing.hosts.values()),
            attention=_attention(listing),
            heartbeat_ages=ages,
            counters=counters,
        )


def _attention(listing: FleetListing) -> list[Attention]:
    found = [one for account in listing.accounts.values() for one in listing.attention(account)]
    return [*found, *listing.host_attention()]
