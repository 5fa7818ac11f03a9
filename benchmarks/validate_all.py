"""Compares the validation of account files with PyYAML's C loader.

The peer uses the same models and rules.

"Cold" is the first pass of a new process, "unchanged" the next pass of the same process. The peer reads each
file with CSafeLoader, merges defaults, builds the same pydantic model and runs the same rules, in about fifty
lines. It reports no positions or duplicate keys, has no limits, and caches nothing.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import machine, table

from manager.config import AccountConfig, ConfigurationService
from manager.validation import AccountConfigurationValidator

ACCOUNT = """\
enabled: true
gateway: paper
login: {login}
server: Paper-1
password: file:secrets/one.password
default_risk: {{risk_percent: 1.0, max_positions: 5, portfolio_risk_percent: 10.0, max_concurrent_trades: 15}}
currencies:
  - symbol: EURUSD
    enabled: true
    risk: {{risk_percent: 1.0, max_positions: 3}}
    strategy: {{strategy_type: simple_ma, timeframe: M5, params: {{fast_period: 10, slow_period: 20}}}}
    position_management: {{enable_breakeven: true, enable_trailing: true}}
  - symbol: GBPUSD
    risk: {{risk_percent: 0.5, max_positions: 2}}
execution: {{interval_seconds: 30}}
"""


def write_accounts(directory: Path, count: int) -> None:
    (directory / "accounts").mkdir(parents=True)
    (directory / "secrets").mkdir(mode=0o700)
    secret = directory / "secrets" / "one.password"
    secret.touch(mode=0o600)
    secret.write_text("benchmark-password\n")
    for number in range(count):
        path = directory / "accounts" / f"account-{number:05d}.yaml"
        path.write_text(ACCOUNT.format(login=5001 + number))


def ours(directory: Path) -> list[float]:
    validator = AccountConfigurationValidator(ConfigurationService(directory))
    return [
        _timed(lambda: _checked({k: r.valid for k, r in validator.validate_all().items()})) for _ in range(2)
    ]


def peer(directory: Path) -> list[float]:
    import yaml

    from manager.config.merge import merge, with_currency_defaults
    from manager.config.models import BUILT_IN

    def one_pass() -> dict[str, bool]:
        configs = []
        for path in sorted((directory / "accounts").glob("*.yaml")):
            with path.open(encoding="utf-8") as file:
                data: Any = yaml.load(file, Loader=yaml.CSafeLoader)
            merged = with_currency_defaults(merge(BUILT_IN, data))
            configs.append(AccountConfig.model_validate({**merged, "account_id": path.stem}))
        logins: dict[tuple[str, str], list[str]] = {}
        for config in configs:
            logins.setdefault(config.broker_login() or ("", ""), []).append(config.account_id)
        assert all(len(accounts) == 1 for accounts in logins.values())
        results = AccountConfigurationValidator().validate_batch(configs)
        return {account_id: result.valid for account_id, result in results.items()}

    return [_timed(lambda: _checked(one_pass())) for _ in range(2)]


def _checked(valid: dict[str, bool]) -> None:
    assert valid and all(valid.values())


def _timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(way: str, directory: Path, runs: int) -> tuple[float, float]:
    """Return the median seconds of the first and of the second pass."""
    results = []
    for _ in range(runs):
        answer = subprocess.run(
            [sys.executable, __file__, "--one", way, "--directory", str(directory)],
            check=True,
            capture_output=True,
            text=True,
        )
        results.append(json.loads(answer.stdout))
    first, second = (statistics.median(column) for column in zip(*results, strict=True))
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps({"ours": ours, "peer": peer}[given.one](given.directory)))
        return
    rows = []
    for count in given.counts:
        with tempfile.TemporaryDirectory(prefix="wm-") as name:
            directory = Path(name)
            write_accounts(directory, count)
            found = {way: measure(way, directory, given.runs) for way in ("peer", "ours")}
        for index, when in enumerate(("cold", "unchanged")):
            was, now = count / found["peer"][index], count / found["ours"][index]
            rows.append((f"{count:,}", when, f"{was:,.0f}", f"{now:,.0f}", f"{now / was:.1f}"))
    print(f"{machine()}; medians of {given.runs} runs\n")
    print(
        table(("accounts", "pass", "CSafeLoader + pydantic, files/s", "validate_all, files/s", "times"), rows)
    )


if __name__ == "__main__":
    main()
