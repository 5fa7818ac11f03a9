"""Finds accounts that share a port or a whole program.

A bot that is configured twice trades twice. Paths are compared as text, because the comparison may run on
another machine than the program. Pure, except that `~` is expanded to the home directory.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from manager.config.models import AccountConfig
from manager.config.placeholders import fill_placeholders
from manager.config.problems import Place
from manager.config.program_gateways import runs_programs

#: (host, port), normalized for comparison.
Endpoint = tuple[str, int]

#: What identifies a program: program and arguments, directory, environment, and broker login.
_Program = tuple[object, ...]

_THIS_MACHINE: Final = frozenset(
    {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}  # noqa: S104 - only compared
)
_DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class SharedPrograms:
    """Enabled accounts by port and by program."""

    #: Port → (account ID, host that the account is pinned to or None).

    ports: Mapping[Endpoint, tuple[tuple[str, str | None], ...]] = field(default_factory=dict)
    programs: Mapping[_Program, tuple[str, ...]] = field(default_factory=dict)

    def of(self, config: AccountConfig) -> tuple[tuple[Place, str, tuple[str, ...]], ...]:
        """Return what the account shares with other accounts.

        Each entry is the place in the configuration, the shared port (empty for the whole program), and the
        other accounts.
        """
        if not runs_programs(config.gateway) or not config.enabled:
            return ()
        found: list[tuple[Place, str, tuple[str, ...]]] = []
        for place, endpoint in endpoints(config):
            others = tuple(
                account_id
                for account_id, pin in self.ports.get(endpoint, ())
                if account_id != config.account_id and (pin is None or config.host in (None, pin))
            )
            if others and all(shared != _shown(endpoint) for _, shared, _ in found):
                found.append((place, _shown(endpoint), others))
        same = self.programs.get(_program(config), ())
        twins = tuple(account_id for account_id in same if account_id != config.account_id)
        if twins:
            found.append((("command",), "", twins))
        return tuple(found)


def shared_programs(configs: Iterable[AccountConfig]) -> SharedPrograms:
    """Return the ports and programs of the enabled accounts."""
    ports: dict[Endpoint, tuple[tuple[str, str | None], ...]] = {}
    programs: dict[_Program, tuple[str, ...]] = {}
    for config in configs:
        if not runs_programs(config.gateway) or not config.enabled or not config.command:
            continue
        config = _as_run(config)  # noqa: PLW2901
        for endpoint in dict.fromkeys(endpoint for _, endpoint in endpoints(config)):
            ports[endpoint] = (*ports.get(endpoint, ()), (config.account_id, config.host))
        key = _program(config)
        programs[key] = (*programs.get(key, ()), config.account_id)
    return SharedPrograms(ports, programs)


def endpoints(config: AccountConfig) -> list[tuple[Place, Endpoint]]:
    """Return the ports of `ready` and `health.probe`, with their places."""
    config = _as_run(config)
    found: list[tuple[Place, Endpoint]] = []
    for around, sign in ((("ready",), config.ready), (("health", "probe"), config.health.probe)):
        if sign is None:
            continue
        port = "" if sign.tcp is None else str(sign.tcp)
        if port.isdigit():
            found.append(((*around, "tcp"), ("127.0.0.1", int(port))))
        target = None if sign.http is None else _target(sign.http)
        if target is not None:
            found.append(((*around, "http"), target))
    return found


def _target(url: str) -> Endpoint | None:
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None  # a rule of the gateway reports it
    host = (parts.hostname or "").lower()
    return ("127.0.0.1" if host in _THIS_MACHINE else host), port


def _program(config: AccountConfig) -> _Program:
    directory = os.path.normpath(os.path.expanduser(config.directory or "."))  # noqa: PTH111
    command = tuple(config.command or ())
    environment = tuple(sorted((name, str(value)) for name, value in config.environment.items()))
    return command, directory, environment, config.broker_login()


def _as_run(config: AccountConfig) -> AccountConfig:
    """Return the account with placeholders filled in.

    Each account has its own state directory.
    """
    return fill_placeholders(config, Path(config.account_id)).config


def _shown(endpoint: Endpoint) -> str:
    return f"{endpoint[0]}:{endpoint[1]}"
