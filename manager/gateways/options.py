"""GatewayOptions: everything that an account file offers a gateway."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from manager.config.models import HealthConfig, ReadyConfig, StopConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """The account's configuration for its gateway, with secrets resolved."""

    account_id: str
    worker_id: str
    #: The fencing token of the worker's lease; a later worker has a greater one.
    epoch: int = 0
    #: Whether another host may start the account while this worker still runs.
    failover: bool = False
    login: int | str | None = None
    server: str | None = None
    password: SecretStr | None = field(default=None, repr=False)
    #: The terminal's program, as written in the account file.
    path: str | None = None
    #: Whether the terminal stores its data beside its program.
    portable: bool = False
    #: Limit for `connect` in milliseconds; `connect` also receives the resulting deadline.
    timeout: int = 60_000
    #: The paper venue's address, `unix:/path` or `tcp:host:port`.
    venue_address: str | None = None
    symbols: tuple[str, ...] = ()
    #: A directory (mode 0700) that is removed with the worker. The gateway creates it if needed.
    private_dir: Path
    command: tuple[str, ...] | None = None
    #: The program's working directory, absolute.
    directory: Path | None = None
    #: A directory for the program's own files, created before the program starts; None if it uses none.
    state_dir: Path | None = None
    #: The user that the program runs as, by name or number; None for the worker's user.
    user: str | None = None
    group: str | None = None
    umask: int = 0o022
    #: The soft limit of open files of the program; None: that of most systems.
    open_files: int | None = None
    ready: ReadyConfig | None = None
    stop: StopConfig = field(default_factory=StopConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    #: The program's environment from the account file, references resolved: it may contain secrets.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: The account's `options`, references resolved: they may contain secrets.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Every secret in `environment`, `options` and `command`. A gateway must not show any of them.
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def all_secrets(self) -> tuple[str, ...]:
        """Return the password and the other secrets, for masking."""
        return (*self.secrets, *(() if self.password is None else (self.password.get_secret_value(),)))
