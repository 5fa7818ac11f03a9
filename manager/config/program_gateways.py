"""Lookup of the gateways that run programs, for reading the configuration."""

from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from typing import Final

#: Resolved at the first call, not imported: the registry of gateways imports this package.
_REGISTRY: Final = "manager.gateways.registry:runs_programs"


def runs_programs(gateway: object) -> bool:
    """Return whether accounts of this gateway run a program.

    False if the gateway is unknown or not a text.
    """
    return _registered()(gateway)


@cache
def _registered() -> Callable[[object], bool]:
    found: Callable[[object], bool] = resolve_name(_REGISTRY)
    return found
