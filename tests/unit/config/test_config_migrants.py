"""Keys of other supervisors and bots in an account file: the error names our key, or says why none exists."""

from pathlib import Path

import pytest

from manager.config import ConfigurationService
from manager.config.migrant_keys import TOP, WITHIN, MigrantKey, normal
from manager.config.models import AccountConfig, GlobalDefaults
from manager.config.problems import dotted
from manager.config.unknown_keys import all_keys, explain_unknown_key

KEYS = {dotted(place) for place in all_keys(AccountConfig)}
#: The place of each section of the table in an account file.
SECTIONS = {
    "stop": "stop",
    "ready": "ready",
    "health": "health",
    "probe": "health.probe",
    "recovery": "recovery",
    "execution": "execution",
    "risk": "default_risk",
    "position_management": "position_management",
    "strategy": "strategy",
    "currencies": "currencies",
}
ROWS = [("", name, row) for name, row in TOP.items()] + [
    (section, name, row) for section, rows in WITHIN.items() for name, row in rows.items()
]


@pytest.mark.parametrize(("section", "name", "row"), ROWS, ids=[f"{row[0]}.{row[1]}" for row in ROWS])
def test_each_row_names_keys_that_exist_and_says_what_to_write(
    section: str, name: str, row: MigrantKey
) -> None:
    around = f"{SECTIONS[section]}." if section else ""
    assert [key for key in row.ours if around + key not in KEYS] == []
    assert name == normal(name)
    assert row.text


@pytest.mark.parametrize(
    "theirs",
    [
        "env",
        "cwd",
        "autostart",
        "autorestart",
        "stopsignal",
        "stopwaitsecs",
        "startsecs",
        "startretries",
        "stdout_logfile",
        "script",
        "args",
        "interpreter",
        "instances",
        "exec_mode",
        "restart",
        "image",
        "environment_vars",
        "working_dir",
        "ExecStart",
        "User",
        "WorkingDirectory",
        "Restart",
        "numprocs",
        "priority",
        "max_memory_restart",
        "kill_timeout",
        "cmd",
        "graceful_timeout",
        "respawn",
        "numprocesses",
        "env_file",
        "depends_on",
        "volumes",
        "healthcheck",
        "Environment",
        "EnvironmentFile",
        "RestartSec",
        "TimeoutStopSec",
        "KillSignal",
        "WatchdogSec",
        "MemoryMax",
        "LimitNOFILE",
        "platform_type",
        "risk",
        "default_strategy",
        "exchange",
        "api_key",
    ],
)
@pytest.mark.parametrize("model", [AccountConfig, GlobalDefaults])
def test_keys_of_supervisord_pm2_compose_systemd_circus_and_bots_are_known(
    theirs: str, model: type[AccountConfig] | type[GlobalDefaults]
) -> None:
    reported = explain_unknown_key(model, (theirs,))
    assert not reported.startswith("allowed are"), reported
    assert len(reported) < 300


def errors(tmp_path: Path, text: str, defaults: str | None = None) -> dict[str, str]:
    (tmp_path / "accounts").mkdir(exist_ok=True)
    (tmp_path / "accounts" / "a.yaml").write_text(text)
    if defaults is not None:
        (tmp_path / "defaults.yaml").write_text(defaults)
    found = ConfigurationService(tmp_path).read_account("a").problems
    return {dotted(problem.place or ()): str(problem) for problem in found}


def test_keys_of_tradingmtq_files_get_a_hint(tmp_path: Path) -> None:
    found = errors(
        tmp_path,
        "gateway: paper\nlogin: 1\nserver: S\npassword: env:P\nplatform_type: MT5\nrisk: "
        "{risk_percent: 1.0}\n"
        "strategy: {fast_period: 10, atr_period: 14}\n"
        "currencies:\n  - symbol: EURUSD\n    fast_period: 8\n    risk_percent: 0.5\n    "
        "timeframe: H1\n    sl_pips: 20\n",
    )
    assert found["platform_type"].startswith("accounts/a.yaml:5:1: platform_type: unknown key; ")
    assert "platform_type (TradingMTQ) is 'gateway' here" in found["platform_type"]
    assert "risk (TradingMTQ) is 'default_risk' here" in found["risk"]
    assert "write strategy.params.fast_period" in found["strategy.fast_period"]
    assert "write strategy.params.atr_period" in found["strategy.atr_period"]
    assert "write currencies[0].strategy.params.fast_period" in found["currencies[0].fast_period"]
    assert "write currencies[0].risk.risk_percent" in found["currencies[0].risk_percent"]
    assert "write currencies[0].strategy.timeframe" in found["currencies[0].timeframe"]
    assert "sl_pips (TradingMTQ) is" in found["currencies[0].sl_pips"]


def test_the_answer_gives_the_line_to_write_or_the_reason(tmp_path: Path) -> None:
    found = errors(
        tmp_path,
        "gateway: command\ncommand: [sleep, '9']\nready: {after_seconds: 1}\nstopsignal: INT\nnumprocs: 5\n"
        "max_restarts: 3\nExecStart: /bin/x\nstop: {timeout: 5}\nstdout_logfile: x\n",
    )
    assert found["stopsignal"] == (
        "accounts/a.yaml:4:1: stopsignal: unknown key; stopsignal (supervisord, "
        "docker-compose) is 'stop.signal' here: "
        "write `stop: {signal: INT}`"
    )
    assert "numprocs (supervisord) is not supported: an account is one process" in found["numprocs"]
    assert "write recovery.max_restarts" in found["max_restarts"]
    assert "ExecStart (systemd) is 'command' here" in found["ExecStart"]
    assert "'stop.deadline_seconds'" in found["stop.timeout"]
    assert "manager logs" in found["stdout_logfile"]


def test_in_defaults_a_key_of_one_account_is_sent_to_its_file() -> None:
    def reported(key: str) -> str:
        return explain_unknown_key(GlobalDefaults, (key,))

    assert reported("login") == "'login' belongs to one account: write it in the account's file"
    assert reported("user_name").startswith("user_name is 'login' here (in the account's file): write")
    assert reported("env").startswith("env (PM2) is 'environment' here: write")


@pytest.mark.parametrize(
    ("key", "wanted"),
    [("Timeout", "timeout"), ("time-out", "timeout"), ("pasword", "password"), ("LOGIN", "login")],
)
def test_a_misspelt_key_of_ours_is_still_recognised(key: str, wanted: str) -> None:
    assert explain_unknown_key(AccountConfig, (key,)) == f"did you mean {wanted!r}?"
