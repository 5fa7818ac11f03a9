"""Gateways by name: those that come with the manager, and those that other packages plug in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from manager.config.models import HealthConfig, ReadyConfig, StopConfig
from manager.gateways.base import Gateway, InvalidRequest

#: The entry point group of gateways from elsewhere; each names a callable that takes GatewayOptions.
ENTRY_POINTS: Final = "manager.gateways"

#: Name → where the class is. Imported when the first account of that kind connects.
_OWN: Final = {
    "paper": "manager.gateways.paper.gateway:PaperGateway",
    "command": "manager.gateways.command.gateway:CommandGateway",
}

#: Gateways that run programs on the host.
_RUN_PROGRAMS: Final = frozenset({"command"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """What a gateway is made from: the account's configuration as far as it concerns a gateway, secrets resolved."""

    account_id: str
    worker_id: str
    #: The fencing token of the worker's claim on its identity; a later worker's is greater.
    epoch: int = 0
    #: Whether another host may take the account over while this worker still runs.
    failover: bool = False
    login: int | str | None = None
    server: str | None = None
    password: SecretStr | None = field(default=None, repr=False)
    #: The terminal's program, as the account file writes it.
    path: str | None = None
    #: Whether the terminal keeps its data beside its program.
    portable: bool = False
    #: Milliseconds that connecting may take; `connect` is also given the deadline that follows from it.
    timeout: int = 60_000
    #: The paper venue's address, `unix:/path` or `tcp:host:port`.
    venue_address: str | None = None
    symbols: tuple[str, ...] = ()
    #: A directory of mode 0700 that is removed with the worker. The gateway creates it if it needs it.
    private_dir: Path
    command: tuple[str, ...] | None = None
    #: The program's working directory, absolute.
    directory: Path | None = None
    #: A directory for the program's own files, which is made before it starts; None if it wants none.
    state_dir: Path | None = None
    #: Whom the program runs as, by name or number; None: as the worker.
    user: str | None = None
    group: str | None = None
    umask: int = 0o022
    ready: ReadyConfig | None = None
    stop: StopConfig = field(default_factory=StopConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    #: What the account file says of the program's environment, references resolved: it may hold secrets.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: The account's `options`, for gateways from elsewhere, references resolved: they may hold secrets.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Every secret among `environment`, `options` and `command`: what a gateway shows must not hold one.
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def all_secrets(self) -> tuple[str, ...]:
        """Return the password and the other secrets, for masking."""
        return (*self.secrets, *(() if self.password is None else (self.password.get_secret_value(),)))


def known_gateways() -> tuple[str, ...]:
    """Return the names that `make_gateway` takes."""
    return tuple(sorted({*_OWN, *_plugged()}))


def runs_programs(name: str) -> bool:
    """Say whether workers with this gateway run programs, which may outlive them."""
    return name in _RUN_PROGRAMS


def make_gateway(name: str, options: GatewayOptions) -> Gateway:
    """Return an unconnected gateway. Raises InvalidRequest if there is none of that name."""
    make: Callable[[GatewayOptions], Gateway]
    if name in _OWN:
        module, _, attribute = _OWN[name].partition(":")
        make = getattr(import_module(module), attribute)
    elif name in _plugged():
        make = _plugged()[name].load()
    else:
        raise InvalidRequest(f"no gateway is named {name!r} here; there are {', '.join(known_gateways())}")
    return make(options)


@cache
def _plugged() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
