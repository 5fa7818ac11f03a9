"""Configuration directories for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manager.change.reload_classes import WITHOUT_RESTART, changes, live_config
from manager.config import AccountConfig, ConfigurationService, CurrencyConfiguration, RiskConfig
from manager.config.models import PositionManagementConfig, StrategyConfig
from manager.models import ValidationResult
from manager.validation import AccountConfigurationValidator

GOOD = """\
gateway: paper
login: 5001
server: Paper-1
password: env:SOME_PASSWORD
currencies:
  - symbol: EURUSD
"""


class Directory:
    """A configuration directory and the services over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "accounts").mkdir(parents=True, exist_ok=True)
        self.service = ConfigurationService(root)
        self.validator = AccountConfigurationValidator(self.service)

    def write(self, account_id: str, text: str | bytes) -> Path:
        path = self.root / "accounts" / f"{account_id}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def defaults(self, text: str) -> None:
        (self.root / "defaults.yaml").write_text(text)

    def check(self, account_id: str = "a", apply_defaults: bool = True) -> ValidationResult:
        return self.validator.validate_account(account_id, apply_defaults)

    def errors_of(self, text: str | bytes) -> tuple[str, ...]:
        self.write("a", text)
        return self.check().errors


def config(**changes: Any) -> AccountConfig:
    """Return a valid configuration with `changes`."""
    data: dict[str, Any] = {
        "account_id": "a",
        "gateway": "paper",
        "login": 1,
        "server": "S",
        "password": "literal",
        "default_risk": risk(),
        "currencies": (currency("EURUSD"),),
    }
    return AccountConfig(**{**data, **changes})


def risk(**changes: Any) -> RiskConfig:
    data: Mapping[str, Any] = {
        "risk_percent": 1.0,
        "max_positions": 5,
        "portfolio_risk_percent": 10.0,
        "max_concurrent_trades": 15,
    }
    return RiskConfig(**{**data, **changes})


def currency(symbol: str, **changes: Any) -> CurrencyConfiguration:
    data: dict[str, Any] = {
        "symbol": symbol,
        "risk": RiskConfig(risk_percent=1.0, max_positions=5),
        "strategy": StrategyConfig(strategy_type="simple_ma", timeframe="M5"),
        "position_management": PositionManagementConfig(),
    }
    return CurrencyConfiguration(**{**data, **changes})


def merge(old: AccountConfig, new: AccountConfig) -> AccountConfig:
    """Return what a session that runs with `old` takes of `new` without a restart."""
    later = [one for one in changes(old, new) if one.reload_class not in WITHOUT_RESTART]
    return live_config(old, new, later)
