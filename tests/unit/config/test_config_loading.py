"""Reading account files: defaults, merging, origins, positions and versions."""

from pathlib import Path

import pytest
from support.configs import GOOD, Directory

from manager.config import config_version
from manager.errors import InvalidConfigError


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    monkeypatch.setenv("SOME_PASSWORD", "secret")
    return Directory(tmp_path)


def test_a_gateway_its_credentials_and_one_symbol_make_a_valid_account(directory: Directory) -> None:
    directory.write("a", GOOD)
    assert directory.check().to_dict() == {"valid": True, "account_id": "a", "errors": [], "warnings": []}
    config = directory.service.load_account_config("a")
    assert config.account_id == "a"
    assert config.enabled
    assert config.timeout == 60_000
    assert config.default_risk.max_concurrent_trades == 15
    assert config.currencies[0].strategy.strategy_type == "simple_ma"
    assert config.currencies[0].risk.risk_percent == 1.0
    assert config.execution.interval_seconds == 30


def test_without_defaults_what_is_missing_is_an_error(directory: Directory) -> None:
    directory.write("a", GOOD)
    directory.defaults("default_risk: {risk_percent: 2}\n")
    errors = directory.check(apply_defaults=False).errors
    assert any("default_risk: is missing" in error for error in errors)
    assert any("currencies[0].risk: is missing" in error for error in errors)
    assert any("currencies[0].strategy: is missing" in error for error in errors)
    assert any("currencies[0].position_management: is missing" in error for error in errors)
    with pytest.raises(InvalidConfigError):
        directory.service.load_account_config("a", apply_defaults=False)


def test_account_lies_over_defaults_and_currency_over_account(directory: Directory) -> None:
    directory.defaults(
        "default_risk: {risk_percent: 2.0, max_positions: 7}\n"
        "strategy: {strategy_type: simple_ma, timeframe: H1, params: {fast_period: 3, slow_period: 9}}\n"
        "execution: {interval_seconds: 5}\n"
    )
    directory.write(
        "a",
        GOOD + "    risk: {max_positions: 2}\n    strategy: {params: {fast_period: 4}}\n"
        "  - symbol: GBPUSD\n"
        "default_risk: {risk_percent: 0.5}\n",
    )
    config = directory.service.load_account_config("a")
    assert (config.default_risk.risk_percent, config.default_risk.max_positions) == (0.5, 7)
    first, second = config.currencies
    assert (first.risk.risk_percent, first.risk.max_positions) == (0.5, 2)
    assert (second.risk.risk_percent, second.risk.max_positions) == (0.5, 7)
    assert first.strategy.params == {"fast_period": 4, "slow_period": 9}
    assert first.strategy.timeframe == "H1"
    assert config.execution.interval_seconds == 5


def test_every_value_has_its_origin(directory: Directory) -> None:
    directory.defaults("default_risk:\n  risk_percent: 2.0\n")
    directory.write("a", GOOD + "    risk: {max_positions: 2}\n")
    origins = {entry.key: entry.origin for entry in directory.service.read_account("a").origins()}
    assert origins["login"] == "accounts/a.yaml:2"
    assert origins["currencies[0].symbol"] == "accounts/a.yaml:6"
    assert origins["currencies[0].risk.max_positions"] == "accounts/a.yaml:7"
    assert origins["currencies[0].risk.risk_percent"] == "defaults.yaml:2"
    assert origins["default_risk.max_positions"] == "built-in"
    shown = {entry.key: entry.value for entry in directory.service.read_account("a").origins()}
    assert shown["password"] == "***"


def test_every_problem_of_a_file_in_one_pass_each_with_its_place(directory: Directory) -> None:
    directory.write(
        "a",
        "gateway: papr\n"
        "login: 5001\n"
        "server: Paper-1\n"
        "pasword: env:SOME_PASSWORD\n"
        "timeout: soon\n"
        "default_risk:\n"
        "  risk_percent: 0.05\n"
        "  max_positions: 0\n"
        "  portfolio_risk_percent: 30\n"
        "currencies:\n"
        "  - symbol: EURUSD\n"
        "    strategy: {strategy_type: simple_na, timeframe: m5}\n"
        "  - symbol: EURUSD\n"
        "    enabled: maybe\n"
        "execution: {intervall_seconds: 3}\n",
    )
    result = directory.check()
    assert list(result.warnings) == [
        "accounts/a.yaml:9:27: default_risk.portfolio_risk_percent: 30 is above 20.0: "
        "all open trades may lose that much"
    ]
    found = {error.split(": ", 2)[1]: error for error in result.errors}
    expected = {
        "gateway": "accounts/a.yaml:1:10: gateway: 'papr' is unknown; did you mean 'paper'?",
        "pasword": "accounts/a.yaml:4:1: pasword: unknown key; did you mean 'password'?",
        "timeout": "accounts/a.yaml:5:10: timeout: 'soon' is not an integer",
        "default_risk.risk_percent": "accounts/a.yaml:7:17: default_risk.risk_percent: "
        "0.05 is below 0.1; 0.1 to 10.0 is allowed",
        "default_risk.max_positions": "accounts/a.yaml:8:18: default_risk.max_positions: "
        "0 is below 1; 1 or more is allowed",
        "currencies[0].strategy.strategy_type": "accounts/a.yaml:12:31: "
        "currencies[0].strategy.strategy_type: "
        "'simple_na' is unknown; did you mean 'simple_ma'?",
        "currencies[0].strategy.timeframe": "accounts/a.yaml:12:53: currencies[0].strategy.timeframe: "
        "'m5' is unknown; did you mean 'M5'?",
        "currencies[1].symbol": "accounts/a.yaml:13:13: currencies[1].symbol: EURUSD is listed twice "
        "(first as currencies[0])",
        "currencies[1].enabled": "accounts/a.yaml:14:14: currencies[1].enabled: "
        "'maybe': must be true or false",
        "execution.intervall_seconds": "accounts/a.yaml:15:13: execution.intervall_seconds: unknown key; "
        "did you mean 'interval_seconds'?",
    }
    assert found == expected


@pytest.mark.parametrize(
    ("text", "symbol"), [("NO", "NO"), ("ON", "ON"), ("500", "500"), ("'0123'", "0123"), ("yes", "yes")]
)
def test_yaml_loaders_disagree_but_a_symbol_means_what_its_author_meant(
    directory: Directory, text: str, symbol: str
) -> None:
    directory.write("a", GOOD.replace("EURUSD", text))
    assert directory.service.load_account_config("a").enabled_symbols() == (symbol,)


def test_yes_is_a_word_and_no_switch(directory: Directory) -> None:
    (error,) = directory.errors_of("enabled: yes\n" + GOOD)
    assert error == "accounts/a.yaml:1:10: enabled: 'yes': must be true or false"


def test_a_login_may_be_a_number_or_a_text_and_is_one_identity(directory: Directory) -> None:
    directory.write("a", GOOD)
    directory.write("b", GOOD.replace("5001", '"5001"'))
    a, b = (directory.service.load_account_config(name) for name in "ab")
    assert a.identity() == b.identity() == "paper:paper-1:5001"
    assert a.broker_login() == b.broker_login()


def test_a_program_without_login_is_its_own_identity(directory: Directory) -> None:
    directory.write("a", "gateway: command\ncommand: [python3]\nready: {after_seconds: 0}\n")
    config = directory.service.load_account_config("a")
    assert config.identity() == "command:a"
    assert config.broker_login() is None


def test_an_account_id_in_the_file_must_be_its_name(directory: Directory) -> None:
    assert directory.errors_of("account_id: a\n" + GOOD) == ()
    (error,) = directory.errors_of("account_id: b\n" + GOOD)
    assert error.startswith("accounts/a.yaml:1:13: account_id: is 'b', but the file's name is a.yaml")


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(directory: Directory) -> None:
    directory.write("a", GOOD)
    first = directory.service.read_account("a")
    assert directory.service.read_account("a") is first
    directory.write("a", GOOD.replace("5001", "59999"))
    config = directory.service.read_account("a").config
    assert config is not None
    assert config.login == 59999
    directory.defaults("timeout: 1234\n")
    config = directory.service.read_account("a").config
    assert config is not None
    assert config.timeout == 1234


def test_the_version_changes_with_the_content_and_holds_no_password(directory: Directory) -> None:
    directory.write("a", GOOD)
    first = directory.service.load_account_config("a")
    directory.write("a", GOOD.replace("env:SOME_PASSWORD", "another"))
    assert config_version(directory.service.load_account_config("a")) == config_version(first)
    directory.write("a", GOOD.replace("EURUSD", "GBPUSD"))
    assert config_version(directory.service.load_account_config("a")) != config_version(first)


def test_global_defaults(directory: Directory) -> None:
    assert directory.service.load_global_defaults().model_dump(exclude_none=True) == {}
    directory.defaults("gateway: paper\ndefault_risk: {max_positions: 3}\n")
    found = directory.service.load_global_defaults()
    assert found.gateway == "paper"
    assert found.default_risk is not None
    assert found.default_risk.max_positions == 3
    directory.defaults("login: 1\n")
    with pytest.raises(InvalidConfigError, match=r"defaults\.yaml:1:1: login: unknown key"):
        directory.service.load_global_defaults()
