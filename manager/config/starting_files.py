"""Starting files: a demo fleet, and commented files for a real fleet."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from manager.errors import SettingsError

_DEFAULTS_DEMO: Final = """\
# Values for every account that does not set them.
# `manager config show ACCOUNT --origin` shows the source of each value.
gateway: paper
server: Paper-1
default_risk: {risk_percent: 1.0, max_positions: 5, portfolio_risk_percent: 10.0, max_concurrent_trades: 15}
strategy: {strategy_type: simple_ma, timeframe: M5, params: {fast_period: 10, slow_period: 20}}
position_management: {enable_breakeven: true, enable_trailing: true}
execution: {interval_seconds: 2}
labels: {desk: london}
"""

#: Account → (its lines, a comment). Login and password are added to each.
_DEMO: Final[Mapping[str, tuple[str, str]]] = {
    "account-001": (
        "groups: [fx]\ncurrencies: [{symbol: EURUSD}, {symbol: GBPUSD}]",
        "Two currencies, default values for the rest.",
    ),
    "account-002": (
        "groups: [metals]\nlabels: {desk: paris}\ncurrencies: [{symbol: XAUUSD, risk: {risk_percent: 0.5}}]",
        "Gold, at half the usual risk.",
    ),
    "account-003": (
        "currencies: [{symbol: BTCUSD}, {symbol: ETHUSD, enabled: false}]",
        "One disabled currency.",
    ),
    "account-004": (
        "default_risk: {risk_percent: 12.0}\ngroups: [fx]\ncurrencies: [{symbol: USDJPY}]",
        "A risk of 12 % is allowed, with a warning.",
    ),
    "account-005": ("server: Paper-2\ncurrencies: [{symbol: EURUSD}]", "At another server."),
    "account-006": (
        "currencies:\n  - symbol: EURUSD\n    strategy: {timeframe: H1}\n  - symbol: USDJPY",
        "One currency on another timeframe.",
    ),
    "account-007": (
        "enabled: false\ncurrencies: [{symbol: GBPUSD}]",
        "Disabled: `manager up` does not start it.",
    ),
    "account-008": (
        "default_risk: {risk_percnt: 1.0, max_positions: -1}\ncurrencies: [{symbol: EURUSD}]",
        "Invalid on purpose, to show `manager validate`: a misspelt key and a number out of range.",
    ),
}

_DEFAULTS: Final = """\
# Values for every account of this fleet that does not set them. An account's file has precedence over this
# file, and a currency's section over its account. Mappings are merged key by key, lists are replaced. Keys
# that are missing here have built-in defaults; the lines with `#` below show some of them.
# `manager config show ACCOUNT --origin` shows the source of each value of an account.

# How accounts connect:
{gateways}
#gateway: paper

# Limit for connecting, in milliseconds.
#timeout: 60000

default_risk:
  risk_percent: 1.0             # of the balance, for one trade: 0.1 to 10.0
  max_positions: 5              # open at once: 1 or more
  portfolio_risk_percent: 10.0  # of the balance, for all open trades together: 1.0 to 20.0
  max_concurrent_trades: 15     # 1 or more

strategy:
  strategy_type: simple_ma      # or rsi, macd, bollinger
  timeframe: M5                 # M1 M5 M15 M30 H1 H4 D1 W1 MN1
  params: {fast_period: 10, slow_period: 20}

position_management:
  enable_breakeven: false
  enable_trailing: false

execution:
  interval_seconds: 30          # between two cycles of a session
  stop_timeout_seconds: 30      # for a clean stop; then the worker is killed
  open_positions: keep          # at a stop: keep or close
"""


def demo_files() -> dict[str, str | None]:
    """Return the demo fleet's files: path → text.

    Paths are below the configuration directory. None stands for a password file, whose content is random.
    """
    files: dict[str, str | None] = {"defaults.yaml": _DEFAULTS_DEMO}
    for number, (account_id, (lines, comment)) in enumerate(_DEMO.items(), 1):
        secret = f"secrets/{account_id}.password"
        files[secret] = None
        files[f"accounts/{account_id}.yaml"] = (
            f"# {comment}\nlogin: {5000 + number}\npassword: file:{secret}\n{lines}\n"
        )
    return files


def write_demo_fleet(config_dir: Path) -> list[Path]:
    """Write a fleet of eight accounts, six of which can start.

    Returns the files.

    Writes nothing and returns an empty list if the directory exists and is not empty.
    Raises SettingsError if a file cannot be written.
    """
    files = {
        name: secrets.token_urlsafe(18) + "\n" if text is None else text
        for name, text in demo_files().items()
    }
    return _write(config_dir, files)


def write_starting_files(
    config_dir: Path, gateways: Mapping[str, str], examples: Mapping[str, str], *, beside: bool = False
) -> list[Path]:
    """Write commented files for a real fleet, with every account disabled.

    Returns the files.

    `gateways` describes each gateway in a few words, by name. `examples` are the example files of the
    gateways: path below the configuration directory → text. Existing files are never changed. If the
    directory has other files, nothing is written unless `beside` is set.

    Raises SettingsError if a file cannot be written.
    """
    lines = "\n".join(f"#   {name:<10} {summary}" for name, summary in gateways.items())
    files = {"defaults.yaml": _DEFAULTS.replace("{gateways}", lines), **examples}
    return _write(config_dir, files, beside=beside)


def _write(config_dir: Path, files: Mapping[str, str], *, beside: bool = False) -> list[Path]:
    written: list[Path] = []
    try:
        if not beside and config_dir.exists() and any(config_dir.iterdir()):
            return []
        for name, text in files.items():
            path = config_dir / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # O_EXCL: never overwrite a file that appeared after the check above.
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                if beside:
                    continue
                raise
            with os.fdopen(fd, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            written.append(path)
    except OSError as error:
        raise SettingsError(
            f"{error.filename or config_dir}: {error.strerror}: make the directory writable, or set "
            "MANAGER_CONFIG_DIR to another one"
        ) from None
    return written
