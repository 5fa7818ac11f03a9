"""Frozen models of an account's configuration.

The models check types and structure. `manager.validation` checks ranges.
"""

import hashlib
import json
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, SecretStr

from manager.config.field_types import (
    Avoidance,
    Count,
    Files,
    Name,
    Names,
    Number,
    Port,
    Switch,
    Text,
    Umask,
    number,
)
from manager.config.identity import identity, identity_as_written, plain, plain_login
from manager.config.models_limits import LimitsConfig
from manager.config.models_reload import ReloadConfig
from manager.config.models_schedule import NamedOrSchedule
from manager.market.names import SessionName
from manager.placement.engine import WORKER_MB, Needs


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RiskConfig(_Section):
    """Risk limits of an account or of one currency.

    The two portfolio limits apply to accounts only.
    """

    #: Percent of the balance that one trade may lose at most.
    risk_percent: Number
    #: Maximum number of open positions.
    max_positions: Count
    #: Percent of the balance that all open trades together may lose at most.
    portfolio_risk_percent: Number | None = None
    max_concurrent_trades: Count | None = None


class StrategyConfig(_Section):
    """The strategy of a currency."""

    strategy_type: str
    #: M1, M5, M15, M30, H1, H4, D1, W1 or MN1.
    timeframe: str
    params: dict[str, JsonValue] = Field(default_factory=dict)


class PositionManagementConfig(_Section):
    """How open positions of a currency are managed."""

    enable_breakeven: Switch = False
    enable_trailing: Switch = False


class CurrencyConfiguration(_Section):
    """One symbol that an account trades."""

    symbol: Name
    enabled: Switch = True
    risk: RiskConfig
    strategy: StrategyConfig
    position_management: PositionManagementConfig


class ExecutionConfig(_Section):
    """The intervals and limits of an account's session."""

    #: Seconds between two cycles of the session.
    interval_seconds: Number = 30.0
    #: Seconds that a clean stop may take before the worker is killed.
    stop_timeout_seconds: Number = 30.0
    #: Whether a stop keeps or closes open positions.
    open_positions: Literal["keep", "close"] = "keep"


class ReadyConfig(_Section):
    """How a program reports that it is ready; exactly one of the five."""

    #: A text that the program prints.
    line: Text | None = None
    #: A port of this machine (127.0.0.1 or ::1) that accepts connections.
    tcp: Port | None = None
    #: A URL that answers with a 2xx status.
    http: str | None = None
    #: Seconds after the start; the program is ready if it is still running then.
    after_seconds: Number | None = None
    #: The program sends READY=1 to the socket in NOTIFY_SOCKET (sd_notify).
    notify: Switch | None = None


class StopConfig(_Section):
    """How the worker stops its program."""

    #: Signal name, with or without the prefix SIG.
    signal: str = "TERM"
    #: Seconds after the signal until the whole process group is killed.
    deadline_seconds: Number = 10.0


class RecoveryConfig(_Section):
    """Restart policy for a worker that exits unexpectedly."""

    #: Restarts allowed within `window_seconds`; after that the account stays `failed`. 0: never restart.
    max_restarts: Count = 10
    window_seconds: Number = 600.0
    #: Delay before the second consecutive restart; doubles each time. The first restart is immediate.
    backoff_seconds: Number = 1.0
    max_backoff_seconds: Number = 60.0
    #: A worker that has run this long has recovered; its next restart is immediate again.
    healthy_after_seconds: Number = 60.0
    #: Whether an unhealthy worker ends its session so that it is restarted.
    restart_unhealthy: Switch = False


class LineEveryConfig(_Section):
    """Regular output that a healthy program prints."""

    #: A text that the output line contains; without it any output counts.
    line: Text | None = None
    #: The program is unhealthy after this many seconds without such a line.
    seconds: Number


class ProbeConfig(_Section):
    """Health probe of a program; exactly one of `tcp` and `http`."""

    #: A port of this machine (127.0.0.1 or ::1) that accepts connections.
    tcp: Port | None = None
    #: A URL that answers with a 2xx status.
    http: str | None = None
    interval_seconds: Number = 10.0
    #: Seconds that one probe may take.
    timeout_seconds: Number = 2.0
    #: The program is unhealthy after this many consecutive failed probes.
    failures: Count = 3


class HealthConfig(_Section):
    """Thresholds at which a running worker counts as degraded or unhealthy."""

    #: Seconds without a heartbeat of the session's loop until the worker counts as hung and is restarted.
    hang_after_seconds: Number = 30.0
    #: Age in seconds of the latest tick above which the worker is degraded.
    tick_age_seconds: Number = 300.0
    #: A worker that has been degraded for this many seconds is unhealthy.
    unhealthy_after_seconds: Number = 300.0
    #: When ticks are expected: a named session, such as `fx` (Sunday 17:00 to Friday 17:00 in New York) or
    #: `always`.
    market_hours: SessionName = "fx"
    #: Duration in seconds of a cycle above which the worker is degraded.
    cycle_seconds: Number = 30.0
    #: A program with `ready.notify` must send WATCHDOG=1 at least this often, or it is unhealthy.
    watchdog_seconds: Number | None = None
    line_every: LineEveryConfig | None = None
    probe: ProbeConfig | None = None


class AccountConfig(_Section):
    """Complete configuration of one account, from which a worker starts."""

    account_id: str
    enabled: Switch = True
    gateway: str
    login: Annotated[int | str | None, BeforeValidator(number)] = None
    server: Name | None = None
    #: A reference (`env:`, `file:`, `keyring:`), or the password itself. Never displayed.
    password: SecretStr | None = Field(default=None, repr=False)
    #: Milliseconds that connecting may take.
    timeout: Count = 60_000
    portable: Switch = False
    path: str | None = None
    #: Address of the paper venue, `unix:/path` or `tcp:host:port`; None: the venue of this host.
    venue: str | None = None
    default_risk: RiskConfig
    strategy: StrategyConfig | None = None
    position_management: PositionManagementConfig | None = None
    currencies: tuple[CurrencyConfiguration, ...] = ()
    execution: ExecutionConfig = ExecutionConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    health: HealthConfig = HealthConfig()
    limits: LimitsConfig = LimitsConfig()
    reload: ReloadConfig = ReloadConfig()
    #: When the account runs: a schedule, or the name of one in `schedules.yaml`; None: always.
    schedule: NamedOrSchedule | None = None
    #: The only host that may run the account; None: prefer the host where it ran last.
    host: Name | None = None
    #: `auto`: another host starts the account if its host is lost; `never`: only `manager move --force` does.
    failover: Literal["never", "auto"] = "never"
    #: Labels that the host must have, `name` or `name=value`.
    requires: Names = ()
    #: Megabytes reserved on the host for the worker and its helpers, such as a terminal.
    memory_mb: Count = WORKER_MB
    #: Keep accounts of one server apart: not on one host (`server`), or not behind one address (`egress_ip`).
    avoid_sharing: Avoidance = ()
    #: What commands select the account by: `--group`, and `-l name=value`.
    groups: Names = ()
    labels: dict[str, Name] = Field(default_factory=dict)
    command: tuple[Text, ...] | None = None
    directory: Text | None = None
    ready: ReadyConfig | None = None
    stop: StopConfig = StopConfig()
    environment: dict[str, Text] = Field(default_factory=dict)
    #: Files of `NAME=value` lines on the host; a later file wins over an earlier one, `environment` over all.
    environment_file: Files = ()
    #: The program's user and primary group, by name or number; None: the host agent's user, the user's group.
    user: Text | None = None
    group: Text | None = None
    #: The program's umask in octal digits; None: 022.
    umask: Umask | None = None
    #: Settings for gateways from other packages.
    options: dict[str, JsonValue] = Field(default_factory=dict)

    def enabled_symbols(self) -> tuple[str, ...]:
        """Return the enabled symbols in the sequence of the file."""
        return tuple(currency.symbol for currency in self.currencies if currency.enabled)

    def broker_login(self) -> tuple[str, str] | None:
        """Return normalized server and login for comparison, or None.

        The gateway is not part of the result. An account without a login has None.
        """
        return None if self.login is None else (plain(self.server or ""), plain_login(self.login))

    def stop_seconds(self) -> float:
        """Return how many seconds a stop may take before the worker is killed.

        A program always gets its whole `stop.deadline_seconds`, even if
        `execution.stop_timeout_seconds` is less.
        """
        seconds = self.execution.stop_timeout_seconds
        return seconds if self.command is None else max(seconds, 1.5 * self.stop.deadline_seconds + 10.0)

    def needs(self) -> Needs:
        """Return the account's placement requirements."""
        return Needs(
            account_id=self.account_id,
            pin=self.host,
            requires=self.requires,
            memory_mb=self.memory_mb,
            server="" if self.server is None else f"{quote(self.gateway)}:{quote(self.server)}",
            avoid=frozenset(self.avoid_sharing),
            groups=tuple(self.groups),
            labels=dict(self.labels),
        )

    def identity(self) -> str:
        """Return the key for which only one session may exist in the fleet.

        It consists of gateway, server and login, or of the account ID for an account without a login.
        All spellings of one login have one identity; see `manager.config.identity`.
        """
        if self.login is None:
            return f"{quote(self.gateway)}:{self.account_id}"
        return identity(self.gateway, self.server, self.login)

    def identity_claims(self) -> tuple[str, ...]:
        """Return the identities that a worker of the account leases.

        These are the identity and its spelling in version 0.2. During a rolling upgrade, workers of both
        versions lease the spelling of 0.2, so only one of them can run the account.
        """
        if self.login is None:
            return (self.identity(),)
        return tuple(
            dict.fromkeys((identity_as_written(self.gateway, self.server, self.login), self.identity()))
        )


class RiskDefaults(_Section):
    """Risk limits of an account, for its currencies."""

    risk_percent: Number | None = None
    max_positions: Count | None = None
    portfolio_risk_percent: Number | None = None
    max_concurrent_trades: Count | None = None


class StrategyDefaults(_Section):
    """The default strategy of an account."""

    strategy_type: str | None = None
    timeframe: str | None = None
    params: dict[str, JsonValue] | None = None


class GlobalDefaults(_Section):
    """Contents of `defaults.yaml`.

    A value applies to every account that does not set its own.
    `manager.config.program_defaults` lists the keys that apply only to accounts that run a program.
    """

    gateway: str | None = None
    server: Name | None = None
    timeout: Count | None = None
    portable: Switch | None = None
    venue: str | None = None
    default_risk: RiskDefaults | None = None
    strategy: StrategyDefaults | None = None
    position_management: PositionManagementConfig | None = None
    execution: ExecutionConfig | None = None
    recovery: RecoveryConfig | None = None
    health: HealthConfig | None = None
    limits: LimitsConfig | None = None
    reload: ReloadConfig | None = None
    schedule: NamedOrSchedule | None = None
    host: Name | None = None
    failover: Literal["never", "auto"] | None = None
    requires: Names | None = None
    memory_mb: Count | None = None
    avoid_sharing: Avoidance | None = None
    groups: Names | None = None
    labels: dict[str, Name] | None = None
    command: tuple[Text, ...] | None = None
    directory: Text | None = None
    ready: ReadyConfig | None = None
    stop: StopConfig | None = None
    environment: dict[str, Text] | None = None
    environment_file: Files | None = None
    user: Text | None = None
    group: Text | None = None
    umask: Umask | None = None
    options: dict[str, JsonValue] | None = None


#: Built-in values; `defaults.yaml` overrides them.
BUILT_IN: Final[dict[str, Any]] = {
    "enabled": True,
    "timeout": 60_000,
    "portable": False,
    "environment": {},
    "environment_file": [],
    "options": {},
    "default_risk": {
        "risk_percent": 1.0,
        "max_positions": 5,
        "portfolio_risk_percent": 10.0,
        "max_concurrent_trades": 15,
    },
    "strategy": {
        "strategy_type": "simple_ma",
        "timeframe": "M5",
        "params": {"fast_period": 10, "slow_period": 20},
    },
    "position_management": {"enable_breakeven": False, "enable_trailing": False},
    "execution": {"interval_seconds": 30.0, "stop_timeout_seconds": 30.0, "open_positions": "keep"},
    "recovery": {
        "max_restarts": 10,
        "window_seconds": 600.0,
        "backoff_seconds": 1.0,
        "max_backoff_seconds": 60.0,
        "healthy_after_seconds": 60.0,
        "restart_unhealthy": False,
    },
    "health": {
        "hang_after_seconds": 30.0,
        "tick_age_seconds": 300.0,
        "unhealthy_after_seconds": 300.0,
        "market_hours": "fx",
        "cycle_seconds": 30.0,
    },
    "limits": {"cpu_window": "1m", "on_exceed": "restart", "when_flat": True, "grace": "10m"},
    "reload": {"restart": "when_flat", "hold": "raises"},
    "failover": "never",
    "requires": [],
    "memory_mb": WORKER_MB,
    "avoid_sharing": [],
    "groups": [],
    "labels": {},
    "stop": {"signal": "TERM", "deadline_seconds": 10.0},
}


def config_version(config: AccountConfig) -> str:
    """Return a hash of the configuration: 12 hexadecimal digits.

    The password is not part of it.
    """
    data = config.model_dump(mode="json", exclude={"password"})
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
