"""Registration of the paper gateway."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from manager.config.findings import Finding
from manager.config.models import AccountConfig
from manager.config.program_defaults import PROGRAM_KEYS
from manager.gateways.base import Gateway
from manager.gateways.gateway_type import GatewayType
from manager.gateways.options import GatewayOptions

if TYPE_CHECKING:
    from manager.settings import Settings

_EXAMPLE: Final = """\
# An account at the paper venue. The file's name is the account's ID: copy it, one file per account.
enabled: false                  # set it to true, and `manager up` starts the account

gateway: paper
login: 5001
server: Paper-1
# A reference to the password, not the password itself. Relative paths start at the configuration directory.
#   file:PATH             a file that only you can read (chmod 600)
#   env:NAME              an environment variable of the host agent
#   keyring:SERVICE/USER  the system's keyring (pip install 'worker-manager[keyring]')
password: file:secrets/example-paper.password

currencies:
  - symbol: EURUSD
    enabled: true
    risk: {risk_percent: 0.5, max_positions: 3}   # instead of default_risk
"""


def _create(options: GatewayOptions) -> Gateway:
    from manager.gateways.paper.gateway import PaperGateway

    return PaperGateway(options)


def _rules(config: AccountConfig, _config_dir: Path | None) -> Iterable[Finding]:
    for name in ("login", "server", "password"):
        value = getattr(config, name)
        if value is None or value == "":
            yield Finding((name,), "is missing; gateway paper logs in with login, server and password")


def _reachability(config: AccountConfig, settings: "Settings") -> str | None:
    from manager.gateways.paper.address import venue_address
    from manager.gateways.paper.reachability import reach_problem

    return reach_problem(config.venue or venue_address(settings))


def _uses_local_venue(config: AccountConfig) -> bool:
    return config.venue is None


GATEWAY_TYPE: Final = GatewayType(
    name="paper",
    create=_create,
    summary="the paper venue that comes with the manager",
    rules=_rules,
    reachability=_reachability,
    preload=("manager.gateways.paper.gateway",),
    ignored_keys=(
        ("portable",),
        ("stop",),
        ("environment",),
        ("options",),
        ("health", "line_every"),
        ("health", "probe"),
        ("health", "watchdog_seconds"),
    ),
    rejected_keys=(*PROGRAM_KEYS, "path"),
    uses_local_venue=_uses_local_venue,
    example_files={
        "accounts/example-paper.yaml": _EXAMPLE,
        "secrets/example-paper.password": "change-me\n",
    },
)
