"""Built-in defaults, `defaults.yaml`, account, currency: what lies over what. A mapping merges, a list replaces."""

from collections.abc import Mapping
from typing import Any, Final

from manager.config.problems import Place

#: Sections of an account that lie beneath the same section of each of its currencies, with the keys that count there.
_INHERITED: Final[dict[str, tuple[str, tuple[str, ...] | None]]] = {
    "risk": ("default_risk", ("risk_percent", "max_positions")),
    "strategy": ("strategy", None),
    "position_management": ("position_management", None),
}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `over` laid over `base`; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def with_currency_defaults(account: Mapping[str, Any]) -> dict[str, Any]:
    """Return the account with each currency's sections filled from the account's own."""
    merged = dict(account)
    currencies = account.get("currencies")
    if not isinstance(currencies, list):
        return merged
    beneath: dict[str, Any] = {}
    for section, (source, keys) in _INHERITED.items():
        value = account.get(source)
        if isinstance(value, dict):
            beneath[section] = value if keys is None else {k: value[k] for k in keys if k in value}
    merged["currencies"] = [merge(beneath, c) if isinstance(c, dict) else c for c in currencies]
    return merged


def own_values(
    account: Mapping[str, Any], written: Mapping[str, Any], beneath: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what an account's file must say, so that with `beneath` under it `account` comes out.

    Whatever the file says already (`written`) stays in it.
    """
    own = _beyond(account, written, beneath)
    # The account's own sections are only there to lie beneath its currencies.
    inherited = with_currency_defaults({**merge(beneath, own), "currencies": [{}]})["currencies"][0]
    currencies = account.get("currencies")
    if isinstance(currencies, list):
        before = written.get("currencies")
        known = (
            {c.get("symbol"): c for c in before if isinstance(c, dict)} if isinstance(before, list) else {}
        )
        own["currencies"] = [
            _beyond(c, known.get(c.get("symbol"), {}), {"enabled": True, **inherited}) for c in currencies
        ]
    return own


def _beyond(
    values: Mapping[str, Any], written: Mapping[str, Any], beneath: Mapping[str, Any]
) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for key, value in values.items():
        if key in written:
            said = written[key]
            both = isinstance(value, dict) and isinstance(said, dict)
            own[key] = _beyond(value, said, beneath.get(key) or {}) if both else _as_said(said, value)
        elif isinstance(value, dict) and isinstance(beneath.get(key), dict):
            rest = _beyond(value, {}, beneath[key])
            if rest:
                own[key] = rest
        elif key not in beneath or _as_said(beneath[key], value) != beneath[key]:
            own[key] = value
    return own


def _as_said(said: Any, value: Any) -> Any:
    """Return the value as it is written already, where a file has `x` for the list `[x]`."""
    return said if isinstance(said, str) and value == [said] else value


def sources(place: Place) -> tuple[Place, ...]:
    """Return where the value at `place` may stand in a file, the nearest first."""
    if len(place) >= 3 and place[0] == "currencies" and place[2] in _INHERITED:
        section, keys = _INHERITED[str(place[2])]
        if keys is None or len(place) == 3 or place[3] in keys:
            return (place, (section, *place[3:]))
    return (place,)
