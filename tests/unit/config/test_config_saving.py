from pathlib import Path

import pytest
from pydantic import SecretStr
from support.configs import GOOD, Directory

from manager.config.starting_files import write_demo_fleet, write_starting_files
from manager.errors import InvalidAccountIdError, SettingsError
from manager.gateways import example_files, summaries


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    monkeypatch.setenv("SOME_PASSWORD", "secret")
    return Directory(tmp_path)


def test_saving_keeps_comments_order_and_what_the_defaults_say(directory: Directory) -> None:
    directory.defaults("execution: {interval_seconds: 5}\n")
    text = "# my first account\n" + GOOD.replace("login: 5001", "login: 5001   # the broker's number")
    path = directory.write("a", text)
    config = directory.service.load_account_config("a")
    assert directory.service.save_account_config(config) == path
    assert path.read_text() == text
    directory.service.save_account_config(config.model_copy(update={"enabled": False}))
    assert path.read_text() == text + "enabled: false\n"
    again = directory.service.load_account_config("a")
    assert again == config.model_copy(update={"enabled": False})


def test_what_was_loaded_and_saved_elsewhere_loads_the_same(directory: Directory) -> None:
    directory.defaults("default_risk: {risk_percent: 2.0}\nstrategy: {timeframe: H4}\n")
    directory.write("a", GOOD + "    risk: {max_positions: 2}\n  - {symbol: GBPUSD, enabled: false}\n")
    config = directory.service.load_account_config("a").model_copy(update={"account_id": "b"})
    path = directory.service.save_account_config(config)
    assert directory.service.load_account_config("b") == config
    assert "timeframe" not in path.read_text()
    assert (path.stat().st_mode & 0o777) == 0o600


def test_a_literal_password_is_saved_and_shown_by_nothing_else(directory: Directory) -> None:
    directory.write("a", GOOD)
    config = directory.service.load_account_config("a").model_copy(update={"password": SecretStr("hunter2")})
    path = directory.service.save_account_config(config)
    assert "password: hunter2" in path.read_text()
    loaded = directory.service.load_account_config("a")
    for text in (repr(loaded), str(loaded), loaded.model_dump_json(), str(loaded.model_dump())):
        assert "hunter2" not in text


def test_saving_is_whole_or_not_at_all(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory.write("a", GOOD)
    config = directory.service.load_account_config("a").model_copy(update={"timeout": 1})

    def fail(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ValueError, match="No space left"):
        directory.service.save_account_config(config)
    assert path.read_text() == GOOD
    assert [entry.name for entry in path.parent.iterdir()] == ["a.yaml"]


def test_saving_under_a_hostile_id_is_refused(directory: Directory) -> None:
    directory.write("a", GOOD)
    config = directory.service.load_account_config("a")
    with pytest.raises(InvalidAccountIdError):
        directory.service.save_account_config(config.model_copy(update={"account_id": "../a"}))


def test_the_demo_fleet_is_what_the_readme_says(tmp_path: Path) -> None:
    root = tmp_path / "new" / "config"
    assert write_demo_fleet(root)
    directory = Directory(root)
    results = directory.validator.validate_all()
    assert len(results) == 8
    assert [name for name, result in results.items() if result.has_errors] == ["account-008"]
    assert [name for name, result in results.items() if result.has_warnings] == ["account-004"]
    enabled = [
        name
        for name in results
        if (config := directory.service.read_account(name).config) is not None and config.enabled
    ]
    assert enabled == [f"account-00{number}" for number in range(1, 7)]
    assert "did you mean 'risk_percent'?" in results["account-008"].errors[0]
    for path in (root / "secrets").iterdir():
        assert (path.stat().st_mode & 0o777) == 0o600


def write_examples(root: Path) -> list[Path]:
    return write_starting_files(root, summaries(), example_files())


@pytest.mark.parametrize("write", [write_demo_fleet, write_examples])
def test_example_files_never_overwrite_existing_files(tmp_path: Path, write: object) -> None:
    assert callable(write)
    (tmp_path / "mine.txt").write_text("mine")
    assert write(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_files_of_init_are_valid_and_start_nothing(tmp_path: Path) -> None:
    root = tmp_path / "c"
    assert len(write_examples(root)) == 4
    directory = Directory(root)
    results = directory.validator.validate_all()
    assert {name: result.errors for name, result in results.items()} == {
        "example-command": (),
        "example-paper": (),
    }
    for name in results:
        assert not directory.service.load_account_config(name).enabled


def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="MANAGER_CONFIG_DIR"):
        write_demo_fleet(tmp_path / "file" / "config")
