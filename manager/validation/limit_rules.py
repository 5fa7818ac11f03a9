"""Checks an account's limits: ranges, and limits with which no worker could run."""

from collections.abc import Iterator
from typing import Final

from manager.config import AccountConfig
from manager.config.findings import Finding
from manager.config.models_limits import LimitsConfig
from manager.gateways import runs_programs
from manager.market.parsing import show_duration

#: MiB that a worker may need to start: a forked worker shares most of it, a spawned one does not.
WORKER_MIB: Final = 64
#: Files that a worker has open while it connects, with some to spare.
_WORKER_FILES: Final = 64
#: Processes of a worker and its failover guardian, and of a program's worker with its guard.
_WORKER_PROCESSES: Final = 2
_PROGRAM_PROCESSES: Final = 4
#: Percent of a core that the start of a worker takes as the mean of a short window.
_WORKER_PERCENT: Final = 5.0


def limit_findings(config: AccountConfig) -> Iterator[Finding]:
    """Yield findings about the account's limits."""
    limits = config.limits
    yield from _too_low(config, limits)
    yield from _ranges(limits)
    yield from _memory(config, limits)
    yield from _actions(config, limits)


def _too_low(config: AccountConfig, limits: LimitsConfig) -> Iterator[Finding]:
    """Refuse limits below what a worker needs to start."""
    program = runs_programs(config.gateway)
    least = {
        "memory_mb": (WORKER_MIB, " MB"),
        "memory_hard_mb": (WORKER_MIB, " MB"),
        "cpu_percent": (_WORKER_PERCENT, " percent of a core"),
        "open_files": (_WORKER_FILES, " files"),
        "processes": (_PROGRAM_PROCESSES if program else _WORKER_PROCESSES, " processes"),
    }
    for name, value in limits.given.items():
        needed, unit = least[name]
        if value < needed:
            whom = "a worker and its program need" if program and name == "processes" else "a worker needs"
            text = (
                f"{value:g} is below the {needed:g}{unit} that {whom} to start; {needed:g} or more is allowed"
            )
            yield Finding(("limits", name), text)


def _ranges(limits: LimitsConfig) -> Iterator[Finding]:
    most = {
        "memory_mb": 1_048_576,
        "memory_hard_mb": 1_048_576,
        "cpu_percent": 100_000,
        "open_files": 1_048_576,
        "processes": 100_000,
    }
    for name, value in limits.given.items():
        if value > most[name]:
            yield Finding(("limits", name), f"{value:g}; up to {most[name]} is allowed")
    if not 10 <= limits.cpu_window.total_seconds() <= 3600:
        text = f"{show_duration(limits.cpu_window)}; 10s to 1h is allowed"
        yield Finding(("limits", "cpu_window"), text)
    if limits.grace.total_seconds() > 86_400:
        yield Finding(("limits", "grace"), f"{show_duration(limits.grace)}; 0s to 1d is allowed")


def _memory(config: AccountConfig, limits: LimitsConfig) -> Iterator[Finding]:
    soft, hard = limits.memory_mb, limits.memory_hard_mb
    if soft is not None and hard is not None and hard <= soft:
        text = (
            f"{hard} is not above limits.memory_mb ({soft}): the worker would be killed before it can stop "
            "cleanly; raise it, or remove limits.memory_mb"
        )
        yield Finding(("limits", "memory_hard_mb"), text)
    for name, value in (("memory_mb", soft), ("memory_hard_mb", hard)):
        if value is not None and value < config.memory_mb:
            text = (
                f"{value} is below the memory_mb ({config.memory_mb}) that the account reserves on its host: "
                f"it cannot use what it reserves; raise limits.{name}, or lower memory_mb"
            )
            yield Finding(("limits", name), text, warning=True)


def _actions(config: AccountConfig, limits: LimitsConfig) -> Iterator[Finding]:
    place = ("limits", "on_exceed")
    if limits.on_exceed == "throttle" and limits.cpu_percent is None:
        text = "throttle is for limits.cpu_percent, which is not set; set it, or choose restart, stop or warn"
        yield Finding(place, text)
    if limits.on_exceed == "pause" and runs_programs(config.gateway):
        text = (
            f"pause is not supported with gateway {config.gateway}: the program decides by itself when to "
            "trade; allowed are restart, stop, warn and throttle"
        )
        yield Finding(place, text)
    waits = limits.on_exceed in ("restart", "stop") and limits.given.keys() - {"memory_hard_mb"}
    if waits and limits.when_flat and runs_programs(config.gateway):
        text = (
            f"true has little effect with gateway {config.gateway}: the positions of a program are unknown, "
            f"so a {limits.on_exceed} always waits for limits.grace ({show_duration(limits.grace)}); set "
            "when_flat: false to stop the program at once"
        )
        yield Finding(("limits", "when_flat"), text, warning=True)
