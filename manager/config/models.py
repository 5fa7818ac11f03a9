"""An account's configuration as frozen models. They hold types and shapes; ranges are the validator's."""

import hashlib
import json
import math
import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, SecretStr

from manager.config.identity import identity, identity_as_written, plain, plain_login
from manager.placement.engine import WORKER_MB, Needs

#: No login, count or time is longer; Python would take a number of 400 digits, and nothing behind it could.
_MAX_NUMBER: Final = 2**63 - 1


def _number(value: object) -> object:
    # YAML's true is no number, and 1 is no truth: pydantic's lax mode takes each for the other.
    if isinstance(value, bool):
        raise ValueError("a number is wanted here, not true or false")  # noqa: TRY004 - pydantic takes no TypeError
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        raise ValueError(f"a number of at most {_MAX_NUMBER} is wanted here")
    return value


def _boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("true or false is wanted here")  # noqa: TRY004 - pydantic takes no TypeError
    return value


Number = Annotated[float, BeforeValidator(_number)]
Count = Annotated[int, BeforeValidator(_number)]
Switch = Annotated[bool, BeforeValidator(_boolean)]


def _named(value: object) -> object:
    # `login: 5001` and `symbol: 500` are numbers to YAML and names to us.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_named)]


def _text(value: object) -> object:
    # Arguments and variables are texts, however they look. From a file they come as they are written there
    # (`manager.config.as_written`); what is left is of a configuration that a program made.
    if isinstance(value, bool):
        raise ValueError('true or false is not a text; write it in quotes, "true"')  # noqa: TRY004 - as above
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number; write it in quotes if the text is meant")
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_text)]

#: A placeholder, `{login}`: a port may be made of one. `manager.config.placeholders` knows which there are.
_PLACEHOLDER: Final = re.compile(r"\{[a-z_]+\}")
_OCTAL: Final = re.compile(r"(?:0o)?[0-7]{1,4}")


def _port(value: object) -> object:
    value = _number(value)
    if not isinstance(value, str) or _PLACEHOLDER.search(value):
        return value
    if not value.isdecimal():
        raise ValueError("a port is wanted here, 1 to 65535, or a text with a placeholder such as {login}")
    return int(value)


#: A port. A text until its placeholders are filled in.
Port = Annotated[int | str, BeforeValidator(_port)]


def _umask(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 7:
        return str(value)  # the same in both readings
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise ValueError('octal digits in quotes are wanted here: umask: "027"')  # noqa: TRY004
    if isinstance(value, int | float):
        shown = f"{value} is" if isinstance(value, int) else "it is"
        raise ValueError(  # noqa: TRY004 - pydantic takes no TypeError
            f'without quotes {shown} a decimal number; write the octal digits in quotes: umask: "027"'
        )
    if isinstance(value, str) and not (_OCTAL.fullmatch(value) and int(value.removeprefix("0o"), 8) <= 0o777):
        raise ValueError('octal digits from "000" to "777" are wanted here')
    return value


Umask = Annotated[str, BeforeValidator(_umask)]


def _listed(value: object) -> object:
    # `avoid_sharing: server` means a list of one.
    return (value,) if isinstance(value, str) else value


Avoidance = Annotated[tuple[Literal["egress_ip", "server"], ...], BeforeValidator(_listed)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_listed)]
Files = Annotated[tuple[Text, ...], BeforeValidator(_listed)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RiskConfig(_Section):
    """Limits on risk; of an account, or (without the two portfolio limits) of one currency."""

    #: Percent of the balance that one trade may lose.
    risk_percent: Number
    #: Open positions at once.
    max_positions: Count
    #: Percent of the balance that all open trades together may lose.
    portfolio_risk_percent: Number | None = None
    max_concurrent_trades: Count | None = None


class StrategyConfig(_Section):
    strategy_type: str
    #: M1, M5, M15, M30, H1, H4, D1, W1 or MN1.
    timeframe: str
    params: dict[str, JsonValue] = Field(default_factory=dict)


class PositionManagementConfig(_Section):
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
    #: Seconds between two cycles of the session.
    interval_seconds: Number = 30.0
    #: Seconds that a polite stop may take before the worker is ended by force.
    stop_timeout_seconds: Number = 30.0
    #: What happens to open positions at a stop.
    open_positions: Literal["keep", "close"] = "keep"


class ReadyConfig(_Section):
    """How a program shows that it is ready; exactly one of the five."""

    #: A text that appears in its output.
    line: Text | None = None
    #: A port of this machine (127.0.0.1 or ::1) that accepts connections.
    tcp: Port | None = None
    #: A URL that answers with a 2xx status.
    http: str | None = None
    #: So long after its start, if it still runs then.
    after_seconds: Number | None = None
    #: It says READY=1 on the socket that NOTIFY_SOCKET names (sd_notify).
    notify: Switch | None = None


class StopConfig(_Section):
    """How a program is asked to stop."""

    #: The signal's name, with or without SIG.
    signal: str = "TERM"
    #: Seconds until its whole process group is killed.
    deadline_seconds: Number = 10.0


class RecoveryConfig(_Section):
    """What happens when a worker ends without being asked to."""

    #: Restarts within `window_seconds`; one more, and the account stays `failed`. 0: it is never restarted.
    max_restarts: Count = 10
    window_seconds: Number = 600.0
    #: Seconds before the second restart in a row, doubled at each further one; the first is at once.
    backoff_seconds: Number = 1.0
    max_backoff_seconds: Number = 60.0
    #: Running so long, a worker has recovered: the next restart is at once again.
    healthy_after_seconds: Number = 60.0
    #: Whether a worker that is unhealthy ends its session, to be started again.
    restart_unhealthy: Switch = False


class LineEveryConfig(_Section):
    """Output that shows that a program is well."""

    #: A text that a line of its output holds; without it any output counts.
    line: Text | None = None
    #: Seconds without such a line, after which the program is unhealthy.
    seconds: Number


class ProbeConfig(_Section):
    """A look at a program from outside; exactly one of `tcp` and `http`."""

    #: A port of this machine (127.0.0.1 or ::1) that accepts connections.
    tcp: Port | None = None
    #: A URL that answers with a 2xx status.
    http: str | None = None
    interval_seconds: Number = 10.0
    #: Seconds that one look may take.
    timeout_seconds: Number = 2.0
    #: Failed looks in a row, after which the program is unhealthy.
    failures: Count = 3


class HealthConfig(_Section):
    """From when on a worker that runs is not well."""

    #: Seconds without a sign of life from the session's loop, after which it hangs and is restarted.
    hang_after_seconds: Number = 30.0
    #: The latest tick is older than this: degraded.
    tick_age_seconds: Number = 300.0
    #: Degraded for so long, it does not pass by itself: unhealthy.
    unhealthy_after_seconds: Number = 300.0
    #: When ticks are to be expected: `fx` (Sunday 17:00 to Friday 17:00 in New York) or `always`.
    market_hours: Literal["fx", "always"] = "fx"
    #: A cycle takes longer than this: degraded.
    cycle_seconds: Number = 30.0
    #: A program that says READY=1 (`ready.notify`) says WATCHDOG=1 at least so often, or is unhealthy.
    watchdog_seconds: Number | None = None
    line_every: LineEveryConfig | None = None
    probe: ProbeConfig | None = None


class AccountConfig(_Section):
    """One account, complete: what a worker is started from."""

    account_id: str
    enabled: Switch = True
    gateway: str
    login: Annotated[int | str | None, BeforeValidator(_number)] = None
    server: Name | None = None
    #: A reference (`env:`, `file:`, `keyring:`), or the password itself. Shown by nothing.
    password: SecretStr | None = Field(default=None, repr=False)
    #: Milliseconds that connecting may take.
    timeout: Count = 60_000
    portable: Switch = False
    path: str | None = None
    #: Where the paper venue is, `unix:/path` or `tcp:host:port`, if it is not this machine's own.
    venue: str | None = None
    default_risk: RiskConfig
    strategy: StrategyConfig | None = None
    position_management: PositionManagementConfig | None = None
    currencies: tuple[CurrencyConfiguration, ...] = ()
    execution: ExecutionConfig = ExecutionConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    health: HealthConfig = HealthConfig()
    #: The one host that may run it; without it, the host where it ran last.
    host: Name | None = None
    #: `auto` lets another host take over when this one is lost; `never` leaves that to `manager move --force`.
    failover: Literal["never", "auto"] = "never"
    #: Labels that its host must have, `name` or `name=value`.
    requires: Names = ()
    #: Megabytes that its worker, and what belongs to it on the host (a terminal), is counted with.
    memory_mb: Count = WORKER_MB
    #: No other account of its server on its host (`server`), or behind its host's address (`egress_ip`).
    avoid_sharing: Avoidance = ()
    #: What commands select it by: `--group`, and `-l name=value`.
    groups: Names = ()
    labels: dict[str, Name] = Field(default_factory=dict)
    command: tuple[Text, ...] | None = None
    directory: Text | None = None
    ready: ReadyConfig | None = None
    stop: StopConfig = StopConfig()
    environment: dict[str, Text] = Field(default_factory=dict)
    #: Files of `NAME=value` lines on the host; a later file wins over an earlier one, `environment` over all.
    environment_file: Files = ()
    #: The program's user and primary group, by name or number; None: the host agent's, and the user's own group.
    user: Text | None = None
    group: Text | None = None
    #: The program's umask in octal digits; None: 022.
    umask: Umask | None = None
    #: For gateways that are plugged in.
    options: dict[str, JsonValue] = Field(default_factory=dict)

    def enabled_symbols(self) -> tuple[str, ...]:
        """Return the symbols that are switched on, in the order of the file."""
        return tuple(currency.symbol for currency in self.currencies if currency.enabled)

    def broker_login(self) -> tuple[str, str] | None:
        """Return server and login as they are compared, whatever the gateway; None for an account without a login."""
        return None if self.login is None else (plain(self.server or ""), plain_login(self.login))

    def stop_seconds(self) -> float:
        """Return the seconds that a stop may take until the worker is killed.

        A program has its whole `stop.deadline_seconds` before that, whatever `execution.stop_timeout_seconds` says.
        """
        seconds = self.execution.stop_timeout_seconds
        return seconds if self.command is None else max(seconds, 1.5 * self.stop.deadline_seconds + 10.0)

    def needs(self) -> Needs:
        """Return what the account asks of its host."""
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
        """Return what only one session may exist for: gateway, server and login, or the account where it has none.

        All spellings of one login have one identity; see `manager.config.identity`.
        """
        if self.login is None:
            return f"{quote(self.gateway)}:{self.account_id}"
        return identity(self.gateway, self.server, self.login)

    def identity_claims(self) -> tuple[str, ...]:
        """Return what a worker of the account claims in the fleet: the identity, and what version 0.2 takes for it.

        During a rolling upgrade a worker of 0.2 holds the one that it knows, and must keep out a worker of this version
        for the same file, as this one must keep out one of 0.2.
        """
        if self.login is None:
            return (self.identity(),)
        return tuple(
            dict.fromkeys((identity_as_written(self.gateway, self.server, self.login), self.identity()))
        )


class RiskDefaults(_Section):
    risk_percent: Number | None = None
    max_positions: Count | None = None
    portfolio_risk_percent: Number | None = None
    max_concurrent_trades: Count | None = None


class StrategyDefaults(_Section):
    strategy_type: str | None = None
    timeframe: str | None = None
    params: dict[str, JsonValue] | None = None


class GlobalDefaults(_Section):
    """What `defaults.yaml` may hold: values for every account that does not give its own.

    `manager.config.program_defaults` says which of them count only for accounts that run a program.
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


#: What lies beneath `defaults.yaml`.
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
    "failover": "never",
    "requires": [],
    "memory_mb": WORKER_MB,
    "avoid_sharing": [],
    "groups": [],
    "labels": {},
    "stop": {"signal": "TERM", "deadline_seconds": 10.0},
}


def config_version(config: AccountConfig) -> str:
    """Return 12 hexadecimal digits that change whenever the configuration does; made without the password."""
    data = config.model_dump(mode="json", exclude={"password"})
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
