"""What a host agent sends to a new worker over a pipe, secrets included."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr

from manager.config import AccountConfig
from manager.states import TradingMode
from manager.system.masking import url_secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """Everything a worker needs to start.

    Its JSON contains secrets: write it to the pipe only.
    """

    worker_id: str
    config: AccountConfig
    #: The resolved password; `config.password` is its reference.
    password: SecretStr | None = field(repr=False)
    #: The account's `environment` and `options` with resolved references.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Every secret among them and in the account file.
    secrets: tuple[str, ...] = field(default=(), repr=False)
    #: None for a worker without Redis (a local pool in a script).
    redis_url: SecretStr | None = field(repr=False)
    host: str
    #: The id of the host's state directory; see `manager.fleet.leases.Holder`.
    home: str
    #: The claims of its lease, its fencing token, and the lease's time to live in seconds (0: none).
    claims: tuple[str, ...]
    epoch: int
    lease_seconds: float
    #: When the lease was requested, by `lease_clock`.
    leased_at: float
    venue_address: str | None
    log_file: Path
    beat_file: Path
    private_dir: Path
    #: Working directory of the account's program, absolute; None for gateways without a program.
    directory: Path | None
    #: The value of `{state_dir}` in the account file; None if it is not used.
    state_dir: Path | None = None
    control_address: str
    control_token: SecretStr = field(repr=False)
    heartbeat_interval_seconds: float
    log_level: str
    log_json: bool
    log_file_bytes: int = 5_000_000
    log_files: int = 4
    #: The initial trading mode; a paused account stays paused across starts.
    trading_mode: str = str(TradingMode.NORMAL)
    #: The host's record of the worker, which it holds open as its note; None for a worker without adoption.
    note: SecretStr | None = field(default=None, repr=False)

    @property
    def account_id(self) -> str:
        return self.config.account_id

    def all_secrets(self) -> list[str]:
        """Return every secret that the worker must mask in its output."""
        found = [*self.secrets, self.control_token.get_secret_value()]
        if self.password is not None:
            found.append(self.password.get_secret_value())
        if self.redis_url is not None:
            found += url_secrets(self.redis_url.get_secret_value())
        return found

    def to_json(self) -> bytes:
        """Return one line of JSON with secrets in plain text."""
        data: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            elif isinstance(value, Path):
                value = str(value)
            elif isinstance(value, AccountConfig):
                # The reference may be a literal password, and the worker does not need it.
                value = value.model_dump(mode="json", exclude={"password"})
            data[name] = value
        return json.dumps(data, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        data = json.loads(line)
        data["config"] = AccountConfig.model_validate(data["config"])
        data["claims"] = tuple(data["claims"])
        data["secrets"] = tuple(data["secrets"])
        for name in ("password", "redis_url", "control_token", "note"):
            if data.get(name) is not None:
                data[name] = SecretStr(data[name])
        for name in ("log_file", "beat_file", "private_dir", "directory", "state_dir"):
            if data[name] is not None:
                data[name] = Path(data[name])
        return cls(**data)
