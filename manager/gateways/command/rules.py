"""Rules on how a program shows that it is ready and well (gateway `command`)."""

from collections.abc import Iterator
from typing import Final

from manager.config import AccountConfig
from manager.config.findings import Finding
from manager.config.models import ProbeConfig
from manager.config.problems import Place

_SIGNS: Final = ("line", "tcp", "http", "after_seconds", "notify")


def readiness(config: AccountConfig) -> Iterator[Finding]:
    """Check `ready`."""
    ready = config.ready
    if ready is None:
        yield Finding(
            ("ready",),
            "is missing; say how the program shows that it is ready: {line: TEXT}, {tcp: PORT}, {http: URL}, "
            "{notify: true} or {after_seconds: N}",
        )
        return
    given = [name for name in _SIGNS if getattr(ready, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "nothing"
        verb = "are" if len(given) > 1 else "is"
        yield Finding(("ready",), f"{found} {verb} given; exactly one of {', '.join(_SIGNS)} is allowed")
    if ready.notify is False:
        yield Finding(("ready", "notify"), "false says nothing; give true, or another sign")
    yield from _target(ready.tcp, ready.http, ("ready",))
    if ready.line == "":
        yield Finding(("ready", "line"), "is empty; give a text that appears in the program's output")
    if ready.after_seconds is not None and not 0 <= ready.after_seconds <= config.timeout / 1000:
        text = f"{ready.after_seconds:g}; 0 to the account's timeout ({config.timeout / 1000:g} s) is allowed"
        yield Finding(("ready", "after_seconds"), text)


def program_health(config: AccountConfig) -> Iterator[Finding]:
    """Check those of `health` and `recovery` that are about a program."""
    health = config.health
    if health.watchdog_seconds is not None:
        place: Place = ("health", "watchdog_seconds")
        if health.watchdog_seconds <= 0:
            yield Finding(place, f"{health.watchdog_seconds:g}; more than 0 is allowed")
        if config.ready is None or not config.ready.notify:
            yield Finding(
                place, "needs `ready: {notify: true}`: only then is the program told where to report"
            )
    if (every := health.line_every) is not None:
        if every.seconds <= 0:
            yield Finding(("health", "line_every", "seconds"), f"{every.seconds:g}; more than 0 is allowed")
        if every.line == "":
            yield Finding(
                ("health", "line_every", "line"), "is empty; give a text, or leave it out for any output"
            )
    if health.probe is not None:
        yield from _probe(health.probe)


def _probe(probe: ProbeConfig) -> Iterator[Finding]:
    place: Place = ("health", "probe")
    if (probe.tcp is None) == (probe.http is None):
        yield Finding(place, "exactly one of tcp and http is allowed")
    yield from _target(probe.tcp, probe.http, place)
    for name in ("interval_seconds", "timeout_seconds"):
        if getattr(probe, name) <= 0:
            yield Finding((*place, name), f"{getattr(probe, name):g}; more than 0 is allowed")
    if probe.failures < 1:
        yield Finding((*place, "failures"), f"{probe.failures} is below 1; 1 or more is allowed")


def _target(port: int | None, url: str | None, place: Place) -> Iterator[Finding]:
    if port is not None and not 1 <= port <= 65_535:
        yield Finding((*place, "tcp"), f"{port} is not a port; 1 to 65535 is allowed")
    if url is not None and not url.startswith(("http://", "https://")):
        yield Finding((*place, "http"), f"{url!r} is not a URL; http:// or https:// is allowed")
