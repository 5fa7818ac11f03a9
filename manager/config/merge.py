"""Merging of built-in defaults, `defaults.yaml`, account and currencies.

Later ones have precedence: mappings are merged key by key, lists are replaced.
"""

from collections.abc import Mapping
from typing import Any, Final

from manager.config.problems import Place

#: Section of a currency → the account's section that it inherits, and the inherited keys (None: all).
_INHERITED: Final[dict[str, tuple[str, tuple[str, ...] | None]]] = {
    "risk": ("default_risk", ("risk_percent", "max_positions")),
    "strategy": ("strategy", None),
    "position_management": ("position_management", None),
}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `over`. Changes neither."""
    merged = dict(base)
    for key, value in over.items():
        below = _inheritable(key, merged.get(key), value)
        merged[key] = merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _inheritable(key: str, below: Any, over: Any) -> Any:
    """Return what a section takes over from the one below.

    The parameters of a strategy are not those of another one.
    """
    if key != "strategy" or not isinstance(below, dict) or not isinstance(over, dict):
        return below
    if over.get("strategy_type", below.get("strategy_type")) == below.get("strategy_type"):
        return below
    return {name: value for name, value in below.items() if name != "params"}


def with_currency_defaults(account: Mapping[str, Any]) -> dict[str, Any]:
    """Return the account with each currency's sections completed."""
    merged = dict(account)
    currencies = account.get("currencies")
    if not isinstance(currencies, list):
        return merged
    inherited: dict[str, Any] = {}
    for section, (source, keys) in _INHERITED.items():
        value = account.get(source)
        if isinstance(value, dict):
            inherited[section] = value if keys is None else {k: value[k] for k in keys if k in value}
    merged["currencies"] = [merge(inherited, c) if isinstance(c, dict) else c for c in currencies]
    return merged


def own_values(
    account: Mapping[str, Any], written: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values for a file that, over `defaults`, give `account`.

    Keys that the file already has (`written`) stay in it.
    """
    own = _difference(account, written, defaults)
    # The account's sections exist only as defaults of its currencies.
    inherited = with_currency_defaults({**merge(defaults, own), "currencies": [{}]})["currencies"][0]
    currencies = account.get("currencies")
    if isinstance(currencies, list):
        before = written.get("currencies")
        known = (
            {c.get("symbol"): c for c in before if isinstance(c, dict)} if isinstance(before, list) else {}
        )
        own["currencies"] = [
            _difference(c, known.get(c.get("symbol"), {}), {"enabled": True, **inherited}) for c in currencies
        ]
    return own


def _difference(
    values: Mapping[str, Any], written: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for key, value in values.items():
        if key in written:
            before = written[key]
            both = isinstance(value, dict) and isinstance(before, dict)
            below = _inheritable(key, defaults.get(key), value)
            own[key] = _difference(value, before, below or {}) if both else _as_before(before, value)
        elif isinstance(value, dict) and isinstance(defaults.get(key), dict):
            rest = _difference(value, {}, _inheritable(key, defaults[key], value))
            if rest:
                own[key] = rest
        elif key not in defaults or _as_before(defaults[key], value) != defaults[key]:
            own[key] = value
    return own


def _as_before(before: Any, value: Any) -> Any:
    """Return the value in the file's spelling, such as `x` for `[x]`."""
    return before if isinstance(before, str) and value == [before] else value


def sources(place: Place) -> tuple[Place, ...]:
    """Return the places in a file that may set a value, best first."""
    if len(place) >= 3 and place[0] == "currencies" and place[2] in _INHERITED:
        section, keys = _INHERITED[str(place[2])]
        if keys is None or len(place) == 3 or place[3] in keys:
            return (place, (section, *place[3:]))
    return (place,)
