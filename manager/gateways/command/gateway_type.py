"""Registration of the command gateway."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from manager.config.findings import Finding
from manager.config.models import AccountConfig
from manager.gateways.base import Gateway
from manager.gateways.gateway_type import GatewayType
from manager.gateways.options import GatewayOptions

_EXAMPLE: Final = """\
# Any program as a worker: the manager starts, watches and stops it.
enabled: false

gateway: command
# The program and its arguments; no shell. A relative program is searched for in `directory`, then on PATH.
command: [python3, -u, -c, "import time; print('ready', flush=True); time.sleep(10**6)"]
#directory: /opt/bots

# How the program shows that it is ready; exactly one of
#   {line: TEXT}          a text in its output
#   {tcp: PORT}           a port on 127.0.0.1 that accepts connections
#   {http: URL}           a URL that answers with 2xx
#   {after_seconds: N}    the program still runs after this time
ready: {line: ready}

# The stop signal, and the seconds after which the program and its children are killed.
stop: {signal: TERM, deadline_seconds: 10}

# Its environment contains MANAGER_ACCOUNT_ID, MANAGER_WORKER_ID, MANAGER_EPOCH and, with login and password,
# MANAGER_CREDENTIALS_FILE; apart from these, only harmless variables and those that you set here.
#environment: {LOG_LEVEL: info}
#environment_file: secrets/example-command.env   # NAME=value lines; the file stays on the host

# For several similar bots, put `command`, `directory` and `ready` into defaults.yaml and use "{account_id}",
# "{login}", "{server}" or "{state_dir}" (a directory for the bot's own files) there.

currencies: [{symbol: EURUSD}]
"""


def _create(options: GatewayOptions) -> Gateway:
    from manager.gateways.command.gateway import CommandGateway

    return CommandGateway(options)


def _rules(config: AccountConfig, config_dir: Path | None) -> Iterable[Finding]:
    from manager.gateways.command.rules import program_findings

    return program_findings(config, config_dir)


GATEWAY_TYPE: Final = GatewayType(
    name="command",
    create=_create,
    summary="a program of yours, which the worker starts, watches and stops",
    rules=_rules,
    preload=("manager.gateways.command.gateway",),
    ignored_keys=(
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
    rejected_keys=("path", "venue"),
    runs_programs=True,
    example_files={"accounts/example-command.yaml": _EXAMPLE},
)
