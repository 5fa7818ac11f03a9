"""GatewayType: what the rest of the manager needs to know of a gateway."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from manager.config.findings import Finding
from manager.config.models import AccountConfig
from manager.config.problems import Place
from manager.gateways.base import Gateway
from manager.gateways.options import GatewayOptions

if TYPE_CHECKING:
    from manager.settings import Settings

#: A gateway's validation rules. They take the account and the configuration directory, or None if nothing
#: on this machine is to be checked. They raise nothing.
GatewayRules = Callable[[AccountConfig, Path | None], Iterable[Finding]]


def _no_findings(_config: AccountConfig, _config_dir: Path | None) -> Iterable[Finding]:
    return ()


def _unknown(_config: AccountConfig, _settings: "Settings") -> str | None:
    return None


def _no_venue(_config: AccountConfig) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayType:
    """The registration of one gateway.

    Its functions import what they need when they are called: every command of the manager loads the
    registrations, but only workers load the gateways.
    """

    #: The value of `gateway` in an account file.
    name: str
    #: Returns an unconnected gateway.
    create: Callable[[GatewayOptions], Gateway]
    #: A few words for people: what the gateway connects to.
    summary: str = ""
    rules: GatewayRules = _no_findings
    #: A model of the account's `options`, which are validated against it as written. Secrets are references
    #: such as `env:NAME` at that time, so their fields must accept text. None: any `options` are valid.
    options: type[BaseModel] | None = None
    #: Returns why this host cannot reach the account's venue, or None if it can, or if only a login can show
    #: it.
    reachability: Callable[[AccountConfig, "Settings"], str | None] = _unknown
    #: Modules that the fork server imports before it forks workers. Ignored for gateways of other packages:
    #: their import may start threads, which do not survive a fork.
    preload: tuple[str, ...] = ()
    #: Keys that have no effect: validation warns about them.
    ignored_keys: tuple[Place, ...] = ()
    #: Keys of `AccountConfig` that are an error for this gateway.
    rejected_keys: tuple[str, ...] = ()
    #: Whether workers start programs with `manager.gateways.command.program`. Such programs may outlive their
    #: worker and are then killed by their mark; they have one trading mode; `defaults.yaml` may configure
    #: them.
    runs_programs: bool = False
    #: Returns whether the account uses this machine's paper venue, which `manager up` then starts.
    uses_local_venue: Callable[[AccountConfig], bool] = _no_venue
    #: Files that `manager init` writes: path below the configuration directory → text.
    example_files: Mapping[str, str] = field(default_factory=dict)
    #: Why the gateway of another package could not be loaded. Set by the registry.
    load_error: str | None = None
