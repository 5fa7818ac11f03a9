"""Validation rules for accounts, and the registry that holds them.

Each rule is one function. It takes the configuration and a `ValidationContext` and yields findings; it never
raises for a bad value. Other packages add rules by entry point.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from manager.config import AccountConfig, Logins, Place, suggestion
from manager.config.findings import Finding
from manager.config.identity import spelling_problem
from manager.config.schedule_file import ScheduleFile
from manager.config.shared_programs import SharedPrograms
from manager.gateways import gateway_type, known_gateways
from manager.placement.labels import label_problem
from manager.settings import HOST_NAME
from manager.trading.registry import StrategyLoadError, known_strategies, make_strategy
from manager.trading.strategy import ParameterError
from manager.trading.timeframes import LENGTHS
from manager.validation.limit_rules import limit_findings
from manager.validation.schedule_rules import schedule_findings

#: Names of gateways that this version does not include.
_PLANNED_GATEWAYS: Final = frozenset({"mt5", "ccxt"})

RULES_GROUP: Final = "manager.validation_rules"

_ADDRESS: Final = re.compile(r"unix:/.+|tcp:[^:\s]+:\d{1,5}")


@dataclass(frozen=True, slots=True)
class ValidationContext:
    """Facts beyond the configuration that rules may use; each may be absent."""

    config_dir: Path | None = None
    logins: Logins = field(default_factory=dict)
    shared: SharedPrograms = field(default_factory=SharedPrograms)
    schedules: ScheduleFile = field(default_factory=ScheduleFile)


Rule = Callable[[AccountConfig, ValidationContext], Iterator[Finding]]

_built_in: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Register a built-in rule."""
    _built_in.append(function)
    return function


@cache
def rules() -> tuple[Rule, ...]:
    """Return all rules: built-in rules first, then those of entry points.

    Entry points are read once per process.
    """
    return (*_built_in, *(point.load() for point in entry_points(group=RULES_GROUP)))


@rule
def account_id_present(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    if not config.account_id.strip():
        yield Finding(("account_id",), "is missing; every account has an id")


@rule
def account_id_not_the_defaults(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    if config.account_id.lower() in ("default", "defaults"):
        text = (
            f"this file is read as an account called {config.account_id}; values for all accounts belong in "
            "defaults.yaml beside accounts/"
        )
        yield Finding(("account_id",), text, True)


@rule
def gateway_known(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    if config.gateway in known_gateways():
        return
    if config.gateway in _PLANNED_GATEWAYS:
        names = ", ".join(sorted(known_gateways()))
        yield Finding(
            ("gateway",), f"{config.gateway} is not available in this version; available are {names}"
        )
    else:
        yield Finding(
            ("gateway",), f"{config.gateway!r} is unknown; {suggestion(config.gateway, known_gateways())}"
        )


@rule
def default_risk_in_range(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    risk, place = config.default_risk, ("default_risk",)
    yield from _risk_percent(risk.risk_percent, place)
    yield from _max_positions(risk.max_positions, place)
    portfolio = risk.portfolio_risk_percent
    if portfolio is None:
        yield Finding((*place, "portfolio_risk_percent"), "is missing; 1.0 to 20.0 is usual")
    else:
        yield from _portfolio_risk(portfolio, (*place, "portfolio_risk_percent"))
    trades = risk.max_concurrent_trades
    if trades is None:
        yield Finding((*place, "max_concurrent_trades"), "is missing; 1 or more")
    elif trades < 1:
        yield Finding((*place, "max_concurrent_trades"), f"{trades} is below 1; 1 or more is allowed")


@rule
def currencies_present(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    found = gateway_type(config.gateway)
    if not config.currencies and (found is None or ("currencies",) not in found.ignored_keys):
        yield Finding(("currencies",), "is empty; an account needs at least one currency with a symbol")


@rule
def symbols_named_once(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, currency in enumerate(config.currencies):
        place = ("currencies", index, "symbol")
        symbol = currency.symbol.strip()
        if not symbol:
            yield Finding(place, "is empty; name the symbol as the venue does")
        elif symbol in first:
            yield Finding(place, f"{symbol} is listed twice (first as currencies[{first[symbol]}])")
        first.setdefault(symbol, index)


@rule
def currency_risk_in_range(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    for index, currency in enumerate(config.currencies):
        place = ("currencies", index, "risk")
        # Inherited values are reported once, at the account.
        if currency.risk.risk_percent != config.default_risk.risk_percent:
            yield from _risk_percent(currency.risk.risk_percent, place)
        if currency.risk.max_positions != config.default_risk.max_positions:
            yield from _max_positions(currency.risk.max_positions, place)
        if currency.risk.portfolio_risk_percent is not None:
            yield from _portfolio_risk(
                currency.risk.portfolio_risk_percent, (*place, "portfolio_risk_percent")
            )
        trades = currency.risk.max_concurrent_trades
        if trades is not None and trades < 1:
            yield Finding((*place, "max_concurrent_trades"), f"{trades} is below 1; 1 or more is allowed")


@rule
def strategies_known(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    for index, currency in enumerate(config.currencies):
        strategy, place = currency.strategy, ("currencies", index, "strategy")
        if strategy.strategy_type not in known_strategies():
            hint = suggestion(strategy.strategy_type, known_strategies())
            yield Finding((*place, "strategy_type"), f"{strategy.strategy_type!r} is unknown; {hint}")
        else:
            yield from _strategy_params(strategy.strategy_type, strategy.params, place)
        if strategy.timeframe not in LENGTHS:
            hint = suggestion(strategy.timeframe.upper(), LENGTHS)
            yield Finding((*place, "timeframe"), f"{strategy.timeframe!r} is unknown; {hint}")


@rule
def times_sensible(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    if not 1_000 <= config.timeout <= 600_000:
        yield Finding(("timeout",), f"{config.timeout} ms; 1000 to 600000 is allowed")
    execution = config.execution
    if not 0.1 <= execution.interval_seconds <= 86_400:
        yield Finding(
            ("execution", "interval_seconds"), f"{execution.interval_seconds:g}; 0.1 to 86400 is allowed"
        )
    if not 0 < execution.stop_timeout_seconds <= 3_600:
        text = f"{execution.stop_timeout_seconds:g}; more than 0 and up to 3600 is allowed"
        yield Finding(("execution", "stop_timeout_seconds"), text)


@rule
def recovery_and_health_sensible(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    recovery, health = config.recovery, config.health
    if not 0 <= recovery.max_restarts <= 1_000:
        yield Finding(("recovery", "max_restarts"), f"{recovery.max_restarts}; 0 to 1000 is allowed")
    for place, seconds, least in (
        (("recovery", "window_seconds"), recovery.window_seconds, 1.0),
        (("recovery", "backoff_seconds"), recovery.backoff_seconds, 0.1),
        (("recovery", "max_backoff_seconds"), recovery.max_backoff_seconds, 0.1),
        (("recovery", "healthy_after_seconds"), recovery.healthy_after_seconds, 1.0),
        (("health", "hang_after_seconds"), health.hang_after_seconds, 2.0),
        (("health", "tick_age_seconds"), health.tick_age_seconds, 1.0),
        (("health", "cycle_seconds"), health.cycle_seconds, 0.1),
        (("health", "unhealthy_after_seconds"), health.unhealthy_after_seconds, 1.0),
    ):
        if not least <= seconds <= 86_400:
            yield Finding(place, f"{seconds:g}; {least:g} to 86400 is allowed")


@rule
def host_is_a_name(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    if config.host is not None and not HOST_NAME.fullmatch(config.host):
        yield Finding(
            ("host",),
            f"{config.host!r} is not a valid host name; letters, digits, '.', '_' and '-' are allowed",
        )


@rule
def placement_sensible(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    if not 1 <= config.memory_mb <= 1_048_576:
        yield Finding(("memory_mb",), f"{config.memory_mb}; 1 to 1048576 megabytes are allowed")
    for index, want in enumerate(config.requires):
        name, _equals, value = want.partition("=")
        problem = label_problem(name, value)
        if problem is not None:
            yield Finding(("requires", index), problem)
    for index, group in enumerate(config.groups):
        problem = label_problem(group, "")
        if problem is not None:
            yield Finding(("groups", index), problem)
    for name, value in config.labels.items():
        problem = label_problem(name, value)
        if problem is not None:
            yield Finding(("labels", name), problem)
    if config.avoid_sharing and config.server is None:
        yield Finding(
            ("avoid_sharing",), "applies to accounts of one `server`, but this account sets no `server`"
        )


@rule
def names_can_be_seen(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    """Report names with trailing blanks or invisible characters.

    Such a name looks the same as another one but differs from it.
    """
    names: list[tuple[Place, object]] = [
        ((name,), getattr(config, name)) for name in ("gateway", "login", "server", "path", "host", "venue")
    ]
    names += [(("currencies", n, "symbol"), one.symbol) for n, one in enumerate(config.currencies)]
    for place, value in names:
        problem = spelling_problem(value) if isinstance(value, str) else None
        # An empty symbol has its own finding.
        if problem is not None and (str(value).strip() or place[0] != "currencies"):
            yield Finding(place, problem)


@rule
def identity_is_one_accounts(config: AccountConfig, context: ValidationContext) -> Iterator[Finding]:
    login = config.broker_login()
    if login is None:
        return
    others = [account_id for account_id in context.logins.get(login, ()) if account_id != config.account_id]
    if others:
        files = ", ".join(f"accounts/{account_id}.yaml" for account_id in others)
        yield Finding(
            ("login",),
            f"{config.login} at server {config.server} is also the login of {files} (case, blanks and "
            "leading zeros do not count): one broker account may have one live session; "
            "give each account its own login",
        )


@rule
def program_is_one_accounts(config: AccountConfig, context: ValidationContext) -> Iterator[Finding]:
    for place, port, others in context.shared.of(config):
        files = ", ".join(f"accounts/{account_id}.yaml" for account_id in others[:3])
        files += f" and {len(others) - 3} more" if len(others) > 3 else ""
        if port:
            text = (
                f"{port} also shows whether {files} is ready or well: on one host the port has one program; "
                "give each account its own port, or pin them to different hosts"
            )
        else:
            text = (
                f"{files} runs the same program with the same arguments, directory and environment: "
                "if that is one bot configured twice, it trades twice"
            )
        yield Finding(place, text, True)


@rule
def venue_is_an_address(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    if config.venue is not None and not _ADDRESS.fullmatch(config.venue):
        yield Finding(
            ("venue",), f"{config.venue!r} is not a valid address; unix:/path or tcp:host:port is allowed"
        )


@rule
def schedule(config: AccountConfig, context: ValidationContext) -> Iterator[Finding]:
    yield from schedule_findings(config, context.schedules)


@rule
def limits(config: AccountConfig, _: ValidationContext) -> Iterator[Finding]:
    yield from limit_findings(config)


@rule
def gateway_rules(config: AccountConfig, context: ValidationContext) -> Iterator[Finding]:
    """Apply the rules that the account's gateway registers."""
    found = gateway_type(config.gateway)
    if found is None:
        return
    for name in found.rejected_keys:
        if getattr(config, name) not in (None, ()):
            yield Finding((name,), f"is not a field of gateway {found.name}: remove it")
    if found.options is not None:
        yield from _option_findings(config.options, found.options)
    yield from found.rules(config, context.config_dir)


def _strategy_params(strategy_type: str, params: Mapping[str, Any], place: Place) -> Iterator[Finding]:
    try:
        make_strategy(strategy_type, params)
    except ParameterError as error:
        # A default has no place in the file: then the mapping is named.
        below = (error.key,) if error.key in params else ()
        yield Finding((*place, "params", *below), error.problem if below else str(error))
    except ValueError as error:
        yield Finding((*place, "params"), str(error))
    except StrategyLoadError as error:
        # A warning: the machine that validates need not be one that runs the account.
        yield Finding((*place, "strategy_type"), str(error), warning=True)


def _option_findings(options: Mapping[str, Any], model: type[BaseModel]) -> Iterator[Finding]:
    try:
        model.model_validate(options)
    except ValidationError as error:
        # The message of a validator may contain the value, which may be a secret.
        for one in error.errors(include_url=False, include_input=False, include_context=False):
            kind, text = one["type"], one["msg"]
            if kind in ("value_error", "assertion_error"):
                text = "is not allowed"
            yield Finding(("options", *one["loc"]), text[0].lower() + text[1:])


def _risk_percent(percent: float, place: Place) -> Iterator[Finding]:
    if percent < 0.1:
        yield Finding((*place, "risk_percent"), f"{percent:g} is below 0.1; 0.1 to 10.0 is allowed")
    elif percent > 10.0:
        yield Finding(
            (*place, "risk_percent"), f"{percent:g} is above 10.0: one trade may lose that much", True
        )


def _max_positions(count: int, place: Place) -> Iterator[Finding]:
    if count < 1:
        yield Finding((*place, "max_positions"), f"{count} is below 1; 1 or more is allowed")


def _portfolio_risk(percent: float, place: Place) -> Iterator[Finding]:
    if percent < 1.0:
        yield Finding(place, f"{percent:g} is below 1.0; 1.0 to 20.0 is allowed")
    elif percent > 20.0:
        yield Finding(place, f"{percent:g} is above 20.0: all open trades may lose that much", True)
