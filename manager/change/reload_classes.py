"""When a changed key of an account file takes effect, without and with a restart.

Pure: compares two configurations. The table is documented in docs/reference/reload.md.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from manager.config.hidden_values import dump_with_password
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
    "password": _R,
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
    "reload": _A,
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
#: Sections whose texts are shown. Texts elsewhere may hold a secret: URLs, arguments, parameters.
_SHOWN: Final = frozenset(
    {
        *("gateway", "login", "server", "enabled", "host", "failover", "requires", "avoid_sharing"),
        *("groups", "labels", "execution", "schedule"),
    }
)
_SHOWN_KEYS: Final = frozenset({"strategy_type", "timeframe", "market_hours"})
#: Classes that take effect without a restart.
WITHOUT_RESTART: Final = frozenset({_L, _A})

#: A key as its parts: a symbol may contain dots.
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One changed key. `old` is None for a new one, `new` for a removed one."""

    path: Path
    old: Any
    new: Any
    reload_class: ReloadClass

    @property
    def key(self) -> str:
        """The dotted key; a currency is named by its symbol: `currencies.EURUSD.risk.risk_percent`."""
        return ".".join(self.path)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without values that may hold a secret."""
        data: dict[str, Any] = {"key": self.key, "class": str(self.reload_class)}
        named = self.path[0] in _SHOWN or self.path[-1] in _SHOWN_KEYS
        if named or all(
            value is None or isinstance(value, bool | int | float) for value in (self.old, self.new)
        ):
            data |= {"old": self.old, "new": self.new}
        return data


def changes(old: AccountConfig, new: AccountConfig) -> tuple[FieldChange, ...]:
    """Return the keys that differ between two configurations of an account, in sequence.

    A new or removed currency is one key. Of the password the reference is compared, not the content.
    """
    before, after = _flat(old), _flat(new)
    symbols = {one.symbol for one in old.currencies} ^ {one.symbol for one in new.currencies}
    program = runs_programs(old.gateway)
    found: dict[Path, FieldChange] = {}
    for path in dict.fromkeys((*before, *after)):
        if before.get(path) == after.get(path):
            continue
        if path[0] == "currencies" and path[1] in symbols:
            there = path[1] in {one.symbol for one in new.currencies}
            found[path[:2]] = FieldChange(path[:2], None if there else True, True if there else None, _L)
        else:
            reload_class = class_of(path, program=program)
            found[path] = FieldChange(path, before.get(path), after.get(path), reload_class)
    return tuple(found.values())


def class_of(path: Path, *, program: bool = False) -> ReloadClass:
    """Return the class of a key. `program`: the account's gateway runs a program.

    Raises KeyError if the table does not have the key.
    """
    if program and any(_fits(path, name) for name in _PROGRAM_RESTARTS):
        return _R
    fitting = [pattern for pattern in CLASSES if _fits(path, pattern)]
    if not fitting:
        raise KeyError(".".join(path))
    return CLASSES[max(fitting, key=lambda pattern: pattern.count("."))]


def live_config(old: AccountConfig, new: AccountConfig, later: Iterable[FieldChange]) -> AccountConfig:
    """Return the running configuration with all changes of a new one but those in `later`.

    `later` are the changes that need a restart or an approval. A currency of which one change needs a restart
    keeps its old strategy type and time frame.
    """
    keep = {one.path for one in later}
    if not keep:
        return new
    merged = _merged(dump_with_password(old), dump_with_password(new), (), keep)
    return AccountConfig.model_validate(merged)


#: A key that a mapping does not have.
_ABSENT: Final = object()


def _merged(old: Any, new: Any, path: Path, keep: set[Path]) -> Any:
    """Return `new`, with the values of `old` at the keys in `keep`."""
    if path in keep:
        return old
    if not any(one[: len(path)] == path for one in keep):
        return new
    if path == ("currencies",):
        before = {one["symbol"]: one for one in old}
        after = {one["symbol"]: one for one in new}
        merged = [
            _merged(before.get(symbol, one), one, (*path, symbol), keep)
            for symbol, one in after.items()
            if symbol in before or (*path, symbol) not in keep
        ]
        gone = [symbol for symbol in before if symbol not in after and (*path, symbol) in keep]
        return [*merged, *(before[symbol] for symbol in gone)]
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = {
            name: _merged(old.get(name, _ABSENT), new.get(name, _ABSENT), (*path, name), keep)
            for name in {**old, **new}
        }
        return {name: value for name, value in found.items() if value is not _ABSENT}
    return old


def _flat(config: AccountConfig) -> dict[Path, Any]:
    """Return the configuration by key. A list is one value, apart from that of the currencies."""
    data = dump_with_password(config)
    del data["account_id"]
    data["currencies"] = {one.pop("symbol"): one for one in data["currencies"]}
    # Schedules are compared whole: their parts have no meaning alone.
    schedule = data.pop("schedule")
    found = dict(_leaves(data, ()))
    if schedule is not None:
        found["schedule",] = schedule
    return {path: value for path, value in found.items() if value is not None}


def _leaves(data: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _fits(path: Path, pattern: str) -> bool:
    parts = pattern.split(".")
    return len(path) >= len(parts) and all(two in ("*", one) for one, two in zip(path, parts, strict=False))


__all__ = ["CLASSES", "WITHOUT_RESTART", "FieldChange", "ReloadClass", "changes", "class_of", "live_config"]
