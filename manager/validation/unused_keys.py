"""Warns about keys that an account's gateway ignores.

Without the warning such a key would seem to have an effect.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from manager.config import AccountConfig, Place
from manager.config.findings import Finding

#: Gateway → keys without effect for its accounts. Other rules report keys that a gateway rejects.
#: Gateways of other packages receive every key.
IGNORED: Final[Mapping[str, tuple[Place, ...]]] = {
    "paper": (
        ("portable",),
        ("stop",),
        ("environment",),
        ("options",),
        ("health", "line_every"),
        ("health", "probe"),
        ("health", "watchdog_seconds"),
    ),
    "command": (
        ("portable",),
        ("options",),
        ("default_risk",),
        ("strategy",),
        ("position_management",),
        ("currencies",),
        ("execution", "open_positions"),
        ("health", "tick_age_seconds"),
        ("health", "market_hours"),
        ("health", "cycle_seconds"),
    ),
}


def unused_keys(config: AccountConfig, written: object) -> Iterator[Finding]:
    """Warn about each key of the account's own file that its gateway ignores.

    `written` is the content of the file. Values of `defaults.yaml` apply
    to all accounts and cause no warning.
    """
    for place in IGNORED.get(config.gateway, ()):
        if _gives(written, place):
            text = f"has no effect with gateway {config.gateway}, which ignores it: remove it"
            yield Finding(place, text, warning=True)


def _gives(written: object, place: Place) -> bool:
    found: Any = written
    for part in place:
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True
