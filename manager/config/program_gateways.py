"""Which gateways run a program, as far as reading the configuration depends on it."""

from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from typing import Final

#: Resolved at the first use: gateways are made from configurations, so their registry imports this package.
_REGISTRY: Final = "manager.gateways.registry:runs_programs"


def runs_programs(gateway: object) -> bool:
    """Return whether accounts of this gateway run a program; False if it is unknown, or not even a text."""
    return _registered()(gateway)


@cache
def _registered() -> Callable[[object], bool]:
    found: Callable[[object], bool] = resolve_name(_REGISTRY)
    return found
