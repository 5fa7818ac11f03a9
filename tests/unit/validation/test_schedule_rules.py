"""Schedules in account files and in schedules.yaml: what is refused, and where the message points."""

from pathlib import Path

import pytest

from manager.change.config_push import checked, collect
from manager.config import ConfigurationService
from manager.errors import InvalidConfigError
from manager.models import ValidationResult
from manager.validation import AccountConfigurationValidator

ACCOUNT = "gateway: paper\nlogin: 1\nserver: S\npassword: env:PATH\ncurrencies: [{symbol: EURUSD}]\n"
PROGRAM = "gateway: command\ncommand: [sleep, '60']\n"
NAMED = "london-desk:\n  clock: Europe/London\n  run: [{days: mon-fri, from: 08:00, to: 16:30}]\n"


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    (tmp_path / "accounts").mkdir()
    return tmp_path


def validated(config_dir: Path, schedule: str, account: str = ACCOUNT) -> ValidationResult:
    (config_dir / "accounts" / "a.yaml").write_text(f"{account}schedule: {schedule}\n")
    return AccountConfigurationValidator(ConfigurationService(config_dir)).validate_account("a")


@pytest.mark.parametrize(
    "schedule",
    [
        "fx",
        "london-desk",
        "{use: london-desk, lead: 2m}",
        "{clock: Europe/London, run: [{days: mon-fri, from: 08:00, to: 16:30}], outside: pause}",
        "{clock: America/New_York+7h, run: [{cron: '30 9 * * mon-fri', for: 6h30m}], "
        "except: [{rollover: {before: 10m, after: 20m}}]}",
        "{clock: America/New_York, run: [{exchange: XNYS}], except: [{holidays: XLON}]}",
        "{run: [{session: fx}], at_end: {positions: wait_flat, wait: 30m}}",
    ],
)
def test_schedules_of_the_documentation_are_valid(config_dir: Path, schedule: str) -> None:
    (config_dir / "schedules.yaml").write_text(NAMED)
    assert validated(config_dir, schedule).errors == ()


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (
            "lodnon-desk",
            "a.yaml:6:11: schedule: 'lodnon-desk' is not a schedule or a session; did you mean london",
        ),
        ("{clok: Europe/London}", "a.yaml:6:12: schedule.clok: unknown key; did you mean 'clock'?"),
        ("{run: [{from: 08:00, to: 16:00}]}", "schedule: clock is missing"),
        ("{clock: Mars/Base}", "schedule.clock: 'Mars/Base': 'Mars/Base' is not a time zone"),
        (
            "{run: [{exchange: XNYX}]}",
            "there is no calendar of exchange XNYX: exchange_calendars does not know",
        ),
        ("{run: [{exchange: nyse}]}", "'nyse' is not the code of an exchange"),
        ("{at_end: {positions: closed}}", "schedule.at_end.positions: 'closed' is not allowed"),
        ("17", "schedule: 17 is not"),
    ],
)
def test_a_wrong_schedule_is_an_error_with_its_place(config_dir: Path, schedule: str, text: str) -> None:
    (config_dir / "schedules.yaml").write_text(NAMED)
    errors = validated(config_dir, schedule).errors
    assert any(text in error for error in errors), errors


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        ("{use: fx, outside: pause}", "pause is not supported with gateway command"),
        ("{use: fx, at_end: {positions: wait_flat}}", "wait_flat is not supported with gateway command"),
        ("{use: fx, at_end: {positions: close}}", "close is not supported with gateway command"),
        ("{use: fx, lead: 2m}", "is not supported with gateway command"),
    ],
)
def test_a_program_has_only_start_and_stop(config_dir: Path, schedule: str, text: str) -> None:
    errors = validated(config_dir, schedule, PROGRAM).errors
    assert any(text in error for error in errors), errors


def test_a_window_that_a_clock_change_swallows_is_a_warning(config_dir: Path) -> None:
    result = validated(config_dir, "{clock: America/New_York, run: [{from: 02:15, to: 02:45}]}")
    assert result.valid
    assert any("does not exist in New York" in warning for warning in result.warnings)


def test_a_problem_of_schedules_yaml_is_named_at_each_account_that_uses_it(config_dir: Path) -> None:
    (config_dir / "schedules.yaml").write_text(
        f"{NAMED}bad:\n  use: londn\nworse: {{run: [{{days: mun}}]}}\n"
    )
    errors = validated(config_dir, "london-desk").errors
    assert any("schedules.yaml:5:3: bad: 'londn' is not a schedule" in error for error in errors), errors
    assert any("schedules.yaml:6:" in error and "'mun' is not a day" in error for error in errors), errors


def test_schedules_yaml_is_read_again_when_it_changes(config_dir: Path) -> None:
    service = ConfigurationService(config_dir)
    assert service.schedules().names == ()
    (config_dir / "schedules.yaml").write_text(NAMED)
    assert service.schedules().names == ("london-desk",)
    assert service.schedules() is service.schedules()


def test_a_push_contains_schedules_yaml(config_dir: Path) -> None:
    (config_dir / "schedules.yaml").write_text(NAMED)
    (config_dir / "accounts" / "a.yaml").write_text(f"{ACCOUNT}schedule: london-desk\n")
    service = ConfigurationService(config_dir)
    assert service.left_out() == []
    files = collect(service)
    assert files["schedules.yaml"] == NAMED
    assert checked(files, config_dir) == files
    with pytest.raises(InvalidConfigError, match=r"schedules.yaml:1:"):
        checked({**files, "schedules.yaml": "london-desk: {clok: x}\n"}, config_dir)


def test_a_saved_account_keeps_its_schedule(config_dir: Path) -> None:
    service = ConfigurationService(config_dir)
    for schedule in ("fx", "{use: fx, lead: 2m}"):
        (config_dir / "accounts" / "a.yaml").write_text(f"{ACCOUNT}schedule: {schedule}\n")
        config = service.load_account_config("a")
        service.save_account_config(config)
        assert service.load_account_config("a") == config
        assert "outside" not in (config_dir / "accounts" / "a.yaml").read_text()
