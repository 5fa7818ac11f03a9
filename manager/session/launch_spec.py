"""What a host agent tells a new worker: everything it needs, secrets too, over a pipe and nowhere else."""

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
    """The order that starts a worker. Its JSON holds secrets; it is written to the worker's pipe only."""

    worker_id: str
    config: AccountConfig
    #: The resolved password; `config.password` is only the reference to it.
    password: SecretStr | None = field(repr=False)
    #: The account's `environment` and `options`, references resolved; `config` has the references.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Every secret among them, and among what the account file holds in clear.
    secrets: tuple[str, ...] = field(default=(), repr=False)
    #: None for a worker that reports to no Redis (a local pool in a script).
    redis_url: SecretStr | None = field(repr=False)
    host: str
    #: Which state directory of that host; see `manager.fleet.leases.Holder`.
    home: str
    #: What it holds in the fleet, its fencing token, and the lease's time to live in seconds (0: none).
    claims: tuple[str, ...]
    epoch: int
    lease_seconds: float
    #: When it was asked for, by `lease_clock`.
    leased_at: float
    venue_address: str | None
    log_file: Path
    beat_file: Path
    private_dir: Path
    #: Where the account's program runs, absolute; None for the gateways that run none.
    directory: Path | None
    #: `{state_dir}` of its files; None if they do not use it.
    state_dir: Path | None = None
    control_address: str
    control_token: SecretStr = field(repr=False)
    heartbeat_interval_seconds: float
    log_level: str
    log_json: bool
    log_file_bytes: int = 5_000_000
    log_files: int = 4
    #: The mode in which it begins; one that was paused runs no cycle, however often it is started.
    trading_mode: str = str(TradingMode.NORMAL)
    #: Its host's record of it, which it keeps as its note; None for a worker that nobody adopts.
    note: SecretStr | None = field(default=None, repr=False)

    @property
    def account_id(self) -> str:
        return self.config.account_id

    def all_secrets(self) -> list[str]:
        """Return all that this worker must never show."""
        found = [*self.secrets, self.control_token.get_secret_value()]
        if self.password is not None:
            found.append(self.password.get_secret_value())
        if self.redis_url is not None:
            found += url_secrets(self.redis_url.get_secret_value())
        return found

    def to_json(self) -> bytes:
        """Return the order as one line of JSON, secrets in clear."""
        data: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            elif isinstance(value, Path):
                value = str(value)
            elif isinstance(value, AccountConfig):
                # The reference is resolved already, and may be a literal: the worker needs neither.
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
