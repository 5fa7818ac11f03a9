"""When a changed key of an account file takes effect, without and with a restart.

Pure: compares two configurations. The table is documented in docs/reference/reload.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from manager.config.models import AccountConfig
from manager.config.program_gateways import runs_programs


class ReloadClass(StrEnum):
    """When a change takes effect. The values are wire contract."""

    #: In the running session, between two cycles.
    LIVE = "live"
    #: In the host agent, at once.
    AGENT = "agent"
    #: At the next start; the running session does not use it.
    NEXT_START = "next_start"
    #: At a restart.
    RESTART = "restart"
    #: It decides whether the account runs at all.
    START_STOP = "start_stop"
    #: It decides on which host the account runs.
    PLACEMENT = "placement"


_L, _A, _N = ReloadClass.LIVE, ReloadClass.AGENT, ReloadClass.NEXT_START
_R, _S, _P = ReloadClass.RESTART, ReloadClass.START_STOP, ReloadClass.PLACEMENT

#: Key → class. `*` stands for any one name; a key includes those below it, and the longest key counts.
CLASSES: Final[Mapping[str, ReloadClass]] = {
    "enabled": _S,
    "gateway": _R,
    "login": _R,
    "server": _R,
    "timeout": _N,
    "portable": _R,
    "path": _R,
    "venue": _R,
    "default_risk": _L,
    "strategy.strategy_type": _R,
    "strategy.timeframe": _R,
    "strategy.params": _L,
    "position_management": _L,
    "currencies.*": _L,
    "currencies.*.strategy.strategy_type": _R,
    "currencies.*.strategy.timeframe": _R,
    "execution": _L,
    "recovery": _L,
    "health": _L,
    "limits": _A,
    "schedule": _A,
    "host": _P,
    "failover": _R,
    "requires": _P,
    "memory_mb": _N,
    "avoid_sharing": _P,
    "groups": _A,
    "labels": _A,
    "command": _R,
    "directory": _R,
    "ready": _N,
    "stop": _N,
    "environment": _R,
    "environment_file": _R,
    "user": _R,
    "group": _R,
    "umask": _R,
    "options": _R,
}

#: Keys that the guard of a program reads at its start, and a session without a program at any time.
_PROGRAM_RESTARTS: Final = ("health.watchdog_seconds", "health.line_every", "health.probe")
#: Keys whose values are not shown: they may hold a secret.
_UNSHOWN: Final = ("command", "environment", "environment_file", "options", "venue", "path", "directory")
#: Classes that take effect without a restart.
WITHOUT_RESTART: Final = frozenset({_L, _A})


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One changed key. `old` is None for a new one, `new` for a removed one."""

    #: Dotted; a currency is named by its symbol: `currencies.EURUSD.risk.risk_percent`.
    key: str
    old: Any
    new: Any
    reload_class: ReloadClass

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without values that may hold a secret."""
        data: dict[str, Any] = {"key": self.key, "class": str(self.reload_class)}
        if not any(_within(self.key, name) for name in _UNSHOWN):
            data |= {"old": self.old, "new": self.new}
        return data


def changes(old: AccountConfig, new: AccountConfig) -> tuple[FieldChange, ...]:
    """Return the keys that differ between two configurations of an account, in sequence.

    The password is left out: its reference takes effect at the next start.
    """
    before, after = _flat(old), _flat(new)
    program = runs_programs(old.gateway)
    keys = dict.fromkeys((*before, *after))
    return tuple(
        FieldChange(key, before.get(key), after.get(key), class_of(key, program=program))
        for key in keys
        if before.get(key) != after.get(key)
    )


def class_of(key: str, *, program: bool = False) -> ReloadClass:
    """Return the class of a dotted key. `program`: the account's gateway runs a program.

    Raises KeyError if the table does not have the key.
    """
    if program and any(_within(key, name) for name in _PROGRAM_RESTARTS):
        return _R
    path = key.split(".")
    fitting = [pattern for pattern in CLASSES if _fits(path, pattern.split("."))]
    if not fitting:
        raise KeyError(key)
    return CLASSES[max(fitting, key=lambda pattern: pattern.count("."))]


def live_config(old: AccountConfig, new: AccountConfig) -> AccountConfig:
    """Return the running configuration with all changes that need no restart.

    A currency of which one change needs a restart keeps its old strategy type and time frame.
    """
    keep = {one.key for one in changes(old, new) if one.reload_class not in WITHOUT_RESTART}
    if not keep:
        return new
    running, wanted = _dump(old), _dump(new)
    merged = _merged(running, wanted, (), keep)
    return AccountConfig.model_validate(merged).model_copy(update={"password": old.password})


def _merged(old: Any, new: Any, path: tuple[str, ...], keep: set[str]) -> Any:
    """Return `new`, with the values of `old` at the keys in `keep`."""
    key = ".".join(path)
    if key in keep:
        return old
    if not any(_within(one, key) for one in keep) and path:
        return new
    if path == ("currencies",):
        before = {one["symbol"]: one for one in old}
        return [_merged(before.get(one["symbol"], one), one, (*path, one["symbol"]), keep) for one in new]
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {name: _merged(old.get(name), new.get(name), (*path, name), keep) for name in {**old, **new}}
    return old


def _dump(config: AccountConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"password"}, by_alias=True)


def _flat(config: AccountConfig) -> dict[str, Any]:
    """Return the configuration as dotted keys. A list is one value, apart from that of the currencies."""
    data = _dump(config)
    del data["account_id"]
    data["currencies"] = {one.pop("symbol"): one for one in data["currencies"]}
    # Schedules are compared whole: their parts have no meaning alone.
    schedule = data.pop("schedule")
    found = dict(_leaves(data, ()))
    if schedule is not None:
        found["schedule"] = schedule
    return {key: value for key, value in found.items() if value is not None}


def _leaves(data: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield ".".join((*path, name)), value


def _fits(path: list[str], pattern: list[str]) -> bool:
    head = path[: len(pattern)]
    return len(head) == len(pattern) and all(
        two in ("*", one) for one, two in zip(head, pattern, strict=True)
    )


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


__all__ = ["CLASSES", "WITHOUT_RESTART", "FieldChange", "ReloadClass", "changes", "class_of", "live_config"]
