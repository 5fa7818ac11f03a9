"""Each rule at its limits."""

from pathlib import Path
from typing import Any

import pytest
from support.configs import GOOD, Directory, config, currency, risk

from manager.config import AccountConfig, ReadyConfig, RiskConfig, StopConfig
from manager.config.models import ExecutionConfig, HealthConfig, LineEveryConfig, ProbeConfig, StrategyConfig
from manager.validation import AccountConfigurationValidator
from manager.validation import rules as registry


def findings(account: AccountConfig) -> tuple[list[str], list[str]]:
    result = AccountConfigurationValidator().validate(account)
    warnings = [text for text in result.warnings if "is stored in clear text" not in text]
    return list(result.errors), warnings


def test_a_good_account_has_no_findings() -> None:
    assert findings(config()) == ([], [])


@pytest.mark.parametrize(
    ("changes", "error", "warning"),
    [
        ({"risk_percent": 0.0999}, True, False),
        ({"risk_percent": 0.1}, False, False),
        ({"risk_percent": 10.0}, False, False),
        ({"risk_percent": 10.001}, False, True),
        ({"risk_percent": -1}, True, False),
        ({"max_positions": 0}, True, False),
        ({"max_positions": 1}, False, False),
        ({"portfolio_risk_percent": 0.99}, True, False),
        ({"portfolio_risk_percent": 1.0}, False, False),
        ({"portfolio_risk_percent": 20.0}, False, False),
        ({"portfolio_risk_percent": 20.1}, False, True),
        ({"max_concurrent_trades": 0}, True, False),
        ({"max_concurrent_trades": 1}, False, False),
        ({"portfolio_risk_percent": None}, True, False),
        ({"max_concurrent_trades": None}, True, False),
    ],
)
def test_risk_ranges(changes: dict[str, Any], error: bool, warning: bool) -> None:
    (field,) = changes
    currencies = (currency("EURUSD", risk=RiskConfig(risk_percent=1, max_positions=1)),)
    errors, warnings = findings(config(default_risk=risk(**changes), currencies=currencies))
    assert [f"default_risk.{field}" in text for text in errors] == [True] * error
    assert [f"default_risk.{field}" in text for text in warnings] == [True] * warning


def test_an_account_id_is_wanted() -> None:
    errors, _ = findings(config(account_id=" "))
    assert errors == [" : account_id: is missing; every account has an id"] or "account_id" in errors[0]


def test_at_least_one_currency() -> None:
    (error,), _ = findings(config(currencies=()))
    assert "at least one currency" in error


def test_empty_and_repeated_symbols_are_errors() -> None:
    errors, _ = findings(config(currencies=(currency(""), currency("E"), currency(" "), currency("E"))))
    assert [error.split(": ")[1] for error in errors] == [
        "currencies[0].symbol",
        "currencies[2].symbol",
        "currencies[3].symbol",
    ]
    assert "is listed twice (first as currencies[1])" in errors[2]


def test_a_currency_answers_for_its_own_risk_only() -> None:
    inherited = RiskConfig(risk_percent=12.0, max_positions=0)
    own = RiskConfig(risk_percent=12.0, max_positions=-1)
    errors, warnings = findings(
        config(
            default_risk=risk(risk_percent=12.0, max_positions=0),
            currencies=(currency("A", risk=inherited), currency("B", risk=own)),
        )
    )
    assert len(warnings) == 1
    assert [error.split(": ")[1] for error in errors] == [
        "default_risk.max_positions",
        "currencies[1].risk.max_positions",
    ]


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [
        ("papr", "did you mean 'paper'?"),
        ("mt5", "mt5 is not available in this version; available are command, paper"),
        ("ccxt", "ccxt is not available in this version"),
        ("zzz", "allowed are command, paper"),
    ],
)
def test_gateways(gateway: str, expected: str) -> None:
    errors, _ = findings(config(gateway=gateway))
    assert expected in errors[0]


def test_strategy_and_timeframe() -> None:
    strategy = StrategyConfig(strategy_type="simple_mo", timeframe="H3")
    errors, _ = findings(config(currencies=(currency("E", strategy=strategy),)))
    assert "did you mean 'simple_ma'?" in errors[0]
    assert "'H3' is unknown" in errors[1]


@pytest.mark.parametrize("field", ["login", "server", "password"])
def test_paper_needs_its_fields(field: str) -> None:
    errors, _ = findings(config(**{field: None}))
    assert [f"{field}: is missing" in error for error in errors] == [True]


def test_fields_of_another_gateway_are_refused() -> None:
    errors, _ = findings(config(command=("x",), path="C:/terminal"))
    assert [error.split(": ")[1] for error in errors] == ["command", "path"]


def command(**changes: Any) -> AccountConfig:
    data = {
        "command": ("python3",),
        "ready": ReadyConfig(after_seconds=0),
        "currencies": (),
        "password": None,
    }
    return config(gateway="command", **{"login": None, "server": None, **data, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"command": None}, "command: is missing"),
        ({"ready": None}, "ready: is missing"),
        ({"ready": ReadyConfig()}, "exactly one of line, tcp, http, after_seconds"),
        ({"ready": ReadyConfig(line="x", tcp=80)}, "line and tcp are given"),
        ({"ready": ReadyConfig(tcp=70_000)}, "70000 is not a port"),
        ({"ready": ReadyConfig(http="ftp://x")}, "is not a URL"),
        ({"ready": ReadyConfig(notify=False)}, "is false"),
        ({"health": HealthConfig(watchdog_seconds=5)}, "needs `ready: {notify: true}`"),
        ({"health": HealthConfig(line_every=LineEveryConfig(line="x", seconds=0))}, "more than 0 is allowed"),
        ({"health": HealthConfig(probe=ProbeConfig())}, "exactly one of tcp and http"),
        ({"health": HealthConfig(probe=ProbeConfig(tcp=0))}, "0 is not a port"),
        ({"ready": ReadyConfig(line="")}, "is empty"),
        ({"ready": ReadyConfig(after_seconds=-1)}, "to the account's timeout"),
        ({"stop": StopConfig(signal="BOOM")}, "'BOOM' is not a signal"),
        ({"stop": StopConfig(deadline_seconds=0)}, "more than 0"),
        ({"environment": {"MANAGER_ACCOUNT_ID": "x"}}, "are reserved"),
        ({"venue": "unix:/x"}, "is not a field of gateway command"),
    ],
)
def test_command_rules(changes: dict[str, Any], expected: str | None) -> None:
    errors, _ = findings(command(**changes))
    if expected is None:
        assert errors == []
    else:
        assert len(errors) == 1
        assert expected in errors[0]


@pytest.mark.parametrize("timeout", [999, 600_001])
def test_times(timeout: int) -> None:
    (error,), _ = findings(config(timeout=timeout))
    assert f"timeout: {timeout} ms; 1000 to 600000 is allowed" in error
    errors, _ = findings(config(execution=ExecutionConfig(interval_seconds=0, stop_timeout_seconds=0)))
    assert len(errors) == 2


def test_one_login_in_two_files_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "x")
    directory = Directory(tmp_path)
    directory.write("a", GOOD)
    directory.write("b", GOOD.replace("5001", "'5001'"))
    directory.write("c", GOOD.replace("Paper-1", "Paper-2"))
    results = directory.validator.validate_all()
    assert (
        "accounts/a.yaml:2:8: login: 5001 at server Paper-1 is also the login of accounts/b.yaml"
        in results["a"].errors[0]
    )
    assert "accounts/b.yaml:2:8" in results["b"].errors[0]
    assert "accounts/a.yaml" in results["b"].errors[0]
    assert results["c"].valid


def test_a_batch_sees_its_own_duplicates() -> None:
    validator = AccountConfigurationValidator()
    batch = [config(account_id="a"), config(account_id="b"), config(account_id="c", login=2)]
    results = validator.validate_batch(batch)
    assert [result.valid for result in results.values()] == [False, False, True]
    assert set(validator.get_invalid_configs(batch)) == {"a", "b"}


def test_a_program_is_looked_for_where_it_would_run(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    bots = tmp_path / "bots"
    bots.mkdir()
    text = "gateway: command\ncommand: [./bot.sh]\ndirectory: bots\nready: {after_seconds: 0}\n"
    (error,) = directory.errors_of(text)
    assert "accounts/a.yaml:2:11: command[0]: './bot.sh' is not an executable on this host" in error
    (bots / "bot.sh").write_text("#!/bin/sh\n")
    (bots / "bot.sh").chmod(0o700)
    assert directory.errors_of(text) == ()
    (error,) = directory.errors_of(text.replace("directory: bots", "directory: other"))
    assert "is not a directory on this host" in error


def test_others_add_rules_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site"
    (package / "house-1.0.dist-info").mkdir(parents=True)
    (package / "house-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: house\nVersion: 1.0\n"
    )
    (package / "house-1.0.dist-info" / "entry_points.txt").write_text(
        "[manager.validation_rules]\nno_gold = house_rules:no_gold\n"
    )
    (package / "house_rules.py").write_text(
        "from manager.validation import Finding\n"
        "def no_gold(config, around):\n"
        "    for index, currency in enumerate(config.currencies):\n"
        "        if currency.symbol == 'XAUUSD':\n"
        "            yield Finding(('currencies', index, 'symbol'), 'gold is not for this house')\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(package))
        registry.rules.cache_clear()
        (error,), _ = findings(config(currencies=(currency("XAUUSD"),)))
    registry.rules.cache_clear()
    assert error == "a: currencies[0].symbol: gold is not for this house"


def test_a_result_is_kept_while_nothing_changes_and_not_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "x")
    directory = Directory(tmp_path)
    directory.write("a", GOOD)
    first = directory.validator.validate_all()["a"]
    assert directory.validator.validate_all()["a"] is first
    monkeypatch.delenv("SOME_PASSWORD")
    assert directory.validator.validate_all()["a"].has_errors


def test_a_refusal_is_not_kept_when_what_it_was_for_is_mended_outside_the_files(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.write("a", "gateway: command\ncommand: [./bot.sh]\nready: {after_seconds: 0}\n")
    assert directory.validator.validate_all()["a"].has_errors
    (tmp_path / "bot.sh").write_text("#!/bin/sh\n")
    (tmp_path / "bot.sh").chmod(0o755)
    assert directory.validator.validate_all()["a"].valid
