"""The page about strategies agrees with the code."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.bar_series import bars_of, tick_bars
from support.instruments import EURUSD

import manager.trading
from manager.trading.registry import BUILT_IN, make_strategy
from manager.trading.strategy import ParameterError, all_params

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reference" / "strategies.md").read_text()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_parameter_is_listed_with_its_default(name: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    for key, default in all_params(make_strategy(name, {}), {}).items():
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert re.search(rf"`{key}` \({re.escape(shown)}[;)]", row), f"{name}: {key}"


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_ranges_are_those_of_the_code(name: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    found = re.findall(r"`(\w+)` \([\d.]+; ([\d.]+) to ([\d.]+)", row)
    assert found
    for key, least, most in found:
        for value in (float(least) / 2, float(most) * 2):
            with pytest.raises(ParameterError, match=f"{least} to {most} is allowed|is not an integer"):
                make_strategy(name, {key: value})


def test_every_refusal_is_listed() -> None:
    folder = Path(manager.trading.__file__).parent
    code = "".join(
        (folder / f"{name}.py").read_text() for name in ("planning", "entry_limits", "risk", "sizing")
    )
    names = {*re.findall(r'Refusal\(\s*"(\w+)"', code), *re.findall(r'refused="(\w+)"', code)}
    assert len(names) > 20
    for name in names:
        assert f"`{name}`" in PAGE, name


def test_the_example_of_a_plug_in_works() -> None:
    block = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    module: Any = ModuleType("breakout")
    exec(block[1], module.__dict__)
    strategy = module.Breakout({"bars": 10})
    bars = bars_of(tick_bars())
    decisions = [strategy.decide(bars[:end], EURUSD) for end in range(1, 300)]
    entered = [decision for decision in decisions if decision.enter == "long"]
    assert 5 < len(entered) < 150
    assert entered[0].why.endswith("is a new high: enter long")
    with pytest.raises(ParameterError, match="bars: 2 to 59 is allowed"):
        module.Breakout({"bars": 60})
