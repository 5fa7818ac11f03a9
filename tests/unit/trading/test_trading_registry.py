"""The registry of strategies: built-in and plugged in, and what account files may say of them."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from support.bar_series import bars_of, tick_bars
from support.configs import GOOD, Directory, config, currency
from support.instruments import EURUSD

from manager.config.models import StrategyConfig
from manager.gateways.base import Bar, Instrument
from manager.trading import registry
from manager.trading.registry import (
    BUILT_IN,
    StrategyLoadError,
    UnknownStrategyError,
    known_strategies,
    make_strategy,
)
from manager.trading.strategies.rsi import RSI
from manager.trading.strategy import Decision
from manager.validation import AccountConfigurationValidator

ROOT = Path(__file__).resolve().parents[3]


class Always:
    """Enters long on every bar."""

    warmup = 5

    def __init__(self, params: Mapping[str, Any]) -> None:
        if params.get("size") == 0:
            raise ValueError(f"size: 0 is not allowed with {params.get('token')}")

    def decide(self, bars: Sequence[Bar], instrument: Instrument) -> Decision:
        return Decision("long", why=f"{len(bars)} bars of {instrument.symbol}")


class Greedy(Always):
    warmup = 1_000_000


class NoDecide:
    warmup = 5

    def __init__(self, params: Mapping[str, Any]) -> None:
        pass


def broken(params: Mapping[str, Any]) -> Always:
    raise KeyError(str(params))


not_callable = "text"

PLUGGED = {
    "always": f"{__name__}:Always",
    "greedy": f"{__name__}:Greedy",
    "no_decide": f"{__name__}:NoDecide",
    "broken": f"{__name__}:broken",
    "text": f"{__name__}:not_callable",
    "absent": "no_such_package.strategies:Mine",
    "rsi": f"{__name__}:Always",
}


def forget() -> None:
    registry._offers.cache_clear()
    registry._loaded.cache_clear()


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = [EntryPoint(name, value, "manager.strategies") for name, value in PLUGGED.items()]
    points.append(EntryPoint("twice", f"{__name__}:Always", "manager.strategies"))
    points.append(EntryPoint("twice", f"{__name__}:Greedy", "manager.strategies"))
    monkeypatch.setattr(
        registry, "entry_points", lambda group: points if group == registry.ENTRY_POINTS else []
    )
    forget()
    yield
    monkeypatch.undo()
    forget()


def test_the_distribution_declares_the_built_in_strategies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][registry.ENTRY_POINTS] == dict(BUILT_IN)


def test_the_built_in_strategies() -> None:
    assert set(known_strategies()) >= {"simple_ma", "rsi", "macd", "bollinger"}
    for name in BUILT_IN:
        found = make_strategy(name, {})
        assert found.warmup == 250
        assert found.decide([], EURUSD).enter is None
    with pytest.raises(
        UnknownStrategyError, match=r"'grid' is not a strategy here; available are .*simple_ma"
    ):
        make_strategy("grid", {})


@pytest.mark.usefixtures("plugged")
def test_another_package_adds_a_strategy() -> None:
    assert "always" in known_strategies()
    found = make_strategy("always", {"size": 2})
    assert found.decide(bars_of(tick_bars(3)), EURUSD).why == "3 bars of EURUSD"


@pytest.mark.usefixtures("plugged")
def test_a_built_in_name_cannot_be_taken() -> None:
    assert isinstance(make_strategy("rsi", {}), RSI)


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("greedy", "its warmup is not an integer from 1 to 10000"),
        ("no_decide", "has no method decide"),
        ("broken", r"failed while it was built \(KeyError\)"),
        ("text", "cannot be called with params"),
        ("absent", r"cannot be loaded here \(ModuleNotFoundError: No module named 'no_such_package'\)"),
        ("twice", "is offered twice, by .*Always and .*Greedy: uninstall one"),
    ],
)
def test_a_strategy_that_cannot_be_used(name: str, text: str) -> None:
    with pytest.raises(StrategyLoadError, match=text) as caught:
        make_strategy(name, {"token": "hunter2-hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("plugged")
def test_a_strategys_own_refusal_hides_the_texts_of_the_file() -> None:
    with pytest.raises(ValueError, match=r"^size: 0 is not allowed with …$"):
        make_strategy("always", {"size": 0, "token": "hunter2-hunter2"})


def findings(strategy_type: str, params: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    strategy = StrategyConfig(strategy_type=strategy_type, timeframe="M5", params=params)
    account = config(currencies=(currency("EURUSD", strategy=strategy),))
    found = AccountConfigurationValidator().validate(account)
    return found.errors, found.warnings


@pytest.mark.parametrize(
    ("strategy_type", "params", "text"),
    [
        ("simple_ma", {"fast_period": 0}, "fast_period: 0; 1 to 499 is allowed"),
        ("rsi", {"fast_period": 10}, "fast_period: is not a parameter of this strategy; did you mean"),
        ("bollinger", {"bb_std": "wide"}, "bb_std: a text is not a number; 0.1 to 10 is allowed"),
    ],
)
def test_a_parameter_out_of_range_is_an_error_of_the_account(
    strategy_type: str, params: dict[str, Any], text: str
) -> None:
    errors, _ = findings(strategy_type, params)
    assert len(errors) == 1
    assert f"currencies[0].strategy.params.{text}" in errors[0]


def test_an_error_about_a_default_names_the_mapping() -> None:
    errors, _ = findings("simple_ma", {"slow_period": 5})
    assert len(errors) == 1
    assert "currencies[0].strategy.params: fast_period: 10 is not below slow_period (5)" in errors[0]


@pytest.mark.usefixtures("plugged")
def test_what_validation_says_of_a_plugged_in_strategy() -> None:
    assert findings("always", {"anything": [1, {"x": "y"}]})[0] == ()
    errors, _ = findings("always", {"size": 0})
    assert "currencies[0].strategy.params: size: 0 is not allowed" in errors[0]
    errors, warnings = findings("absent", {})
    assert errors == ()
    assert any("strategy absent cannot be loaded here" in text for text in warnings)


def test_the_place_of_a_parameter_is_named(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    errors = directory.errors_of(GOOD + "    strategy: {strategy_type: rsi, params: {oversold: 80}}\n")
    assert any(
        error.startswith("accounts/a.yaml:7:55: currencies[0].strategy.params.oversold: 80 is not below")
        for error in errors
    ), errors


def test_a_strategy_does_not_inherit_the_parameters_of_another(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.defaults("strategy: {strategy_type: macd, params: {slow_period: 30}}\n")
    directory.write(
        "a",
        GOOD
        + "    strategy: {strategy_type: rsi}\n"
        + "  - {symbol: USDJPY, strategy: {timeframe: H1, params: {signal_period: 5}}}\n",
    )
    account = directory.service.load_account_config("a")
    first, second = (one.strategy for one in account.currencies)
    assert (first.strategy_type, first.timeframe, first.params) == ("rsi", "M5", {})
    assert (second.strategy_type, second.params) == ("macd", {"slow_period": 30, "signal_period": 5})
    assert [error for error in directory.check().errors if "strategy" in error] == []


def test_a_saved_account_keeps_parameters_that_another_strategys_default_equals(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.write("a", GOOD + "    strategy: {strategy_type: macd, params: {slow_period: 20}}\n")
    account = directory.service.load_account_config("a")
    directory.service.save_account_config(account.model_copy(update={"account_id": "b"}))
    saved = directory.service.load_account_config("b")
    assert saved.currencies[0].strategy == account.currencies[0].strategy
    assert saved.currencies[0].strategy.params == {"slow_period": 20}
