"""Keys that a gateway ignores: validation warns about them, in agreement with the documentation."""

from pathlib import Path
from typing import Any

import pytest
from support.configs import GOOD, Directory

from manager.config import AccountConfig
from manager.config.problems import dotted
from manager.gateways import GatewayType, gateway_type, known_gateways

PROGRAM = "gateway: command\ncommand: [/bin/true]\nready: {after_seconds: 0}\n"
DOCS = Path(__file__).resolve().parents[3] / "docs" / "reference" / "configuration.md"

#: A value for each key that some gateway ignores.
VALUES: dict[str, Any] = {
    "portable": "true",
    "stop": "{signal: INT}",
    "environment": "{LOG_LEVEL: info}",
    "options": "{colour: red}",
    "default_risk": "{risk_percent: 2}",
    "strategy": "{timeframe: H1}",
    "position_management": "{enable_trailing: true}",
    "currencies": "[{symbol: EURUSD}]",
    "health.line_every": "{seconds: 5}",
    "health.probe": "{tcp: 8080}",
    "health.watchdog_seconds": "5",
    "health.tick_age_seconds": "100",
    "health.market_hours": "always",
    "health.cycle_seconds": "5",
    "execution.open_positions": "close",
}


def registered(name: str) -> GatewayType:
    found = gateway_type(name)
    assert found is not None
    return found


def line(key: str) -> str:
    section, _, name = key.partition(".")
    return f"{section}: {{{name}: {VALUES[key]}}}\n" if name else f"{section}: {VALUES[key]}\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    monkeypatch.setenv("SOME_PASSWORD", "x")
    return Directory(tmp_path)


@pytest.mark.parametrize(
    ("gateway", "key"),
    [(name, dotted(place)) for name in known_gateways() for place in registered(name).ignored_keys],
)
def test_a_key_that_the_gateway_ignores_is_a_warning_with_its_place(
    directory: Directory, gateway: str, key: str
) -> None:
    text = {"paper": GOOD, "command": PROGRAM}[gateway]
    directory.write("a", text)
    assert directory.check().warnings == ()
    directory.write("a", text + line(key))
    result = directory.check()
    assert result.errors == ()
    (warning,) = result.warnings
    assert warning.startswith(f"accounts/a.yaml:{text.count(chr(10)) + 1}:")
    assert f"{key}: has no effect with gateway {gateway}, which ignores it: remove it" in warning


def test_keys_from_the_defaults_cause_no_warning(directory: Directory) -> None:
    directory.defaults("portable: true\noptions: {colour: red}\ndefault_risk: {risk_percent: 2}\n")
    directory.write("a", GOOD)
    assert directory.check().warnings == ()
    directory.write("a", PROGRAM)
    assert directory.check().warnings == ()


def test_the_documentation_of_every_account_key_names_what_it_affects() -> None:
    table = DOCS.read_text().partition("## Which gateways use a key")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if row[:2] == "| "
    ]
    said: dict[str, tuple[str, ...]] = {}
    for keys, *cells in rows[1:]:
        for key in keys.replace("`", "").split(", "):
            said[key] = tuple(cells)
    for name in AccountConfig.model_fields:
        if name != "account_id":
            assert any(key.partition(".")[0] == name for key in said), f"{name} is not in the table"
    for gateway, column in (("paper", 0), ("command", 1)):
        ignored = {dotted(place) for place in registered(gateway).ignored_keys}
        assert {key for key, cells in said.items() if cells[column] == "no effect: warning"} == ignored
    assert {cells[2] for cells in said.values()} <= {"yes", "given to it"}
