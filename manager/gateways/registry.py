"""Registry of the gateways of this package and of other packages.

A folder registers its gateway as `GATEWAY_TYPE` in its module `gateway_type`. Another package registers one
by an entry point that names a `GatewayType`, or a callable that takes `GatewayOptions` and returns a gateway.
"""

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final

from manager.config.findings import Finding
from manager.config.models import AccountConfig
from manager.gateways.base import Gateway, InvalidRequest
from manager.gateways.gateway_type import GatewayType
from manager.gateways.options import GatewayOptions

if TYPE_CHECKING:
    from manager.settings import Settings

#: The entry point group of gateways of other packages.
ENTRY_POINTS: Final = "manager.gateways"


def known_gateways() -> tuple[str, ...]:
    """Return the names of all gateways, sorted. Loads none of other packages."""
    return tuple(sorted({*_built_in(), *_plugged()}))


def gateway_type(name: str) -> GatewayType | None:
    """Return the gateway's registration, or None if no gateway has this name.

    Loads a gateway of another package, once per process. If that fails, the returned registration reports
    the failure: as a warning of its rules, and as InvalidRequest from `create`.
    """
    built_in = _built_in().get(name)
    if built_in is not None:
        return built_in
    return _loaded(name) if name in _plugged() else None


def make_gateway(name: str, options: GatewayOptions) -> Gateway:
    """Return an unconnected gateway.

    Raises InvalidRequest if no gateway has this name.
    """
    found = gateway_type(name)
    if found is None:
        known = ", ".join(known_gateways())
        raise InvalidRequest(f"{name!r} is not a gateway on this host; available are {known}")
    return found.create(options)


def runs_programs(name: object) -> bool:
    """Return whether workers with this gateway start programs."""
    found = gateway_type(name) if isinstance(name, str) else None
    return found is not None and found.runs_programs


def may_leave_programs(name: str) -> bool:
    """Return whether a worker with this gateway may have left programs.

    True also for a gateway that is unknown or cannot be loaded here: it may have been removed since the
    start.
    """
    found = gateway_type(name)
    return found is None or found.runs_programs or found.load_error is not None


def uses_local_venue(config: AccountConfig) -> bool:
    """Return whether the account uses this machine's paper venue."""
    found = gateway_type(config.gateway)
    return found is not None and found.uses_local_venue(config)


def reach_problem(config: AccountConfig, settings: "Settings") -> str | None:
    """Return why this host cannot reach the account's venue, or None.

    A check before a start, without a login: the venue may still refuse the session.
    """
    found = gateway_type(config.gateway)
    return None if found is None else found.reachability(config, settings)


def preloaded_modules() -> tuple[str, ...]:
    """Return the modules that the fork server imports for gateways."""
    return tuple(module for found in _built_in().values() for module in found.preload)


def summaries() -> dict[str, str]:
    """Return what each gateway connects to, in a few words, by name."""
    return {found.name: found.summary for found in _all_types()}


def example_files() -> dict[str, str]:
    """Return the example files of all gateways: path → text.

    Paths are below the configuration directory.
    """
    return {path: text for found in _all_types() for path, text in found.example_files.items()}


def _all_types() -> Iterator[GatewayType]:
    return (found for name in known_gateways() if (found := gateway_type(name)) is not None)


@cache
def _built_in() -> Mapping[str, GatewayType]:
    package = __name__.rpartition(".")[0]
    found: dict[str, GatewayType] = {}
    for module in pkgutil.iter_modules(import_module(package).__path__):
        if module.ispkg:
            registered: GatewayType = import_module(f"{package}.{module.name}.gateway_type").GATEWAY_TYPE
            found[registered.name] = registered
    return found


@cache
def _plugged() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


@cache
def _loaded(name: str) -> GatewayType:
    try:
        registered = _plugged()[name].load()
    except Exception as error:
        return _not_loaded(name, error)
    if isinstance(registered, GatewayType):
        return replace(registered, name=name)
    create: Callable[[GatewayOptions], Gateway] = registered
    return GatewayType(name=name, create=create)


def _not_loaded(name: str, error: Exception) -> GatewayType:
    text = f"gateway {name} cannot be loaded here ({type(error).__name__}: {error}); install what it needs"

    def create(_options: GatewayOptions) -> Gateway:
        raise InvalidRequest(text) from error

    def rules(_config: AccountConfig, _config_dir: Path | None) -> Iterator[Finding]:
        # A warning: the machine that validates need not be one that runs the account.
        yield Finding(("gateway",), text, warning=True)

    return GatewayType(name=name, create=create, rules=rules, load_error=text)
