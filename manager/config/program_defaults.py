"""Which values of `defaults.yaml` apply to an account.

Keys that configure a program are excluded where they do not fit the account.
"""

from collections.abc import Mapping
from typing import Any, Final

from manager.config.models import BUILT_IN
from manager.config.program_gateways import runs_programs

#: Keys that configure a program. In `defaults.yaml` they apply only to accounts whose gateway runs programs,
#: so that a fleet may also have other accounts.
PROGRAM_KEYS: Final = ("command", "directory", "ready", "environment_file", "user", "group", "umask")
#: Keys of `ready` and `probe` of which exactly one is allowed: the account's replaces the default's.
_SIGNS: Final = ("line", "tcp", "http", "after_seconds", "notify")
_PROBES: Final = ("tcp", "http")


def applicable_defaults(defaults: Mapping[str, Any], account: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default values that apply to an account's file.

    Changes neither mapping.
    """
    found = dict(defaults)
    if not runs_programs(account.get("gateway", defaults.get("gateway"))):
        for key in PROGRAM_KEYS:
            found.pop(key, None)
            if key in BUILT_IN:
                found[key] = BUILT_IN[key]
        return found
    if _names_another(account.get("ready"), found.get("ready"), _SIGNS):
        del found["ready"]
    health, own = found.get("health"), account.get("health")
    if isinstance(health, Mapping) and isinstance(own, Mapping):
        probe = health.get("probe")
        if isinstance(probe, Mapping) and _names_another(own.get("probe"), probe, _PROBES):
            kept = {key: value for key, value in probe.items() if key not in _PROBES}
            found["health"] = {**health, "probe": kept}
    return found


def _names_another(own: object, below: object, keys: tuple[str, ...]) -> bool:
    """Return whether account and defaults set different ones of the keys."""
    if not isinstance(own, Mapping) or not isinstance(below, Mapping):
        return False
    ours = {key for key in keys if own.get(key) is not None}
    return bool(ours) and any(below.get(key) is not None for key in keys if key not in ours)
