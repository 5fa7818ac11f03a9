"""`manager import` as a user runs it: its files, its output, and that the files are valid."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures" / "importing"

GOOD = """\
[program:bot]
command=sleep 600
directory=/
environment=API_KEY="k-live-0001",LEVEL="info"
stopsignal=INT
[program:other]
command=sleep 600
directory=/
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MANAGER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("MANAGER_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def manager(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "manager.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def supervisord(home: Path, text: str = GOOD) -> str:
    path = home / "supervisord.conf"
    path.write_text(text)
    return str(path)


def test_imported_files_are_valid_and_secrets_are_private(home: Path) -> None:
    answer = manager("import", supervisord(home), "--group", "old")
    assert answer.returncode == 0, answer.stderr
    assert "wrote accounts/bot.yaml" in answer.stdout
    assert "file:secrets/ACCOUNT.NAME" in answer.stdout
    assert "supervisorctl shutdown" in answer.stdout
    assert "k-live-0001" not in answer.stdout
    secret = home / "config" / "secrets" / "bot.API_KEY"
    assert secret.read_text() == "k-live-0001\n"
    if sys.platform != "win32":
        assert secret.stat().st_mode & 0o777 == 0o600
        assert (home / "config" / "accounts" / "bot.yaml").stat().st_mode & 0o777 == 0o600
    checked = manager("validate", "--here", "--group", "old")
    assert (checked.returncode, "2 valid, 0 invalid" in checked.stdout) == (0, True), checked.stdout


def test_only_force_overwrites_existing_files(home: Path) -> None:
    accounts = home / "config" / "accounts"
    accounts.mkdir(parents=True)
    (accounts / "bot.yaml").write_text("mine\n")
    answer = manager("import", supervisord(home))
    assert answer.returncode == 1
    assert "accounts/bot.yaml already exists" in answer.stderr
    assert (accounts / "bot.yaml").read_text() == "mine\n"
    assert not (accounts / "other.yaml").exists()
    assert not (home / "config" / "secrets").exists()
    assert manager("import", supervisord(home), "--force").returncode == 0
    assert "gateway: command" in (accounts / "bot.yaml").read_text()


def test_a_dry_run_prints_the_files_and_writes_none(home: Path) -> None:
    answer = manager("import", supervisord(home), "--dry-run")
    assert answer.returncode == 0
    assert "--- accounts/bot.yaml\n# Imported from supervisord.conf, [program:bot]." in answer.stdout
    assert "API_KEY: file:secrets/bot.API_KEY" in answer.stdout
    assert "k-live-0001" not in answer.stdout
    assert not (home / "config").exists()


def test_an_account_with_a_missing_program_is_disabled(home: Path) -> None:
    source = supervisord(home, "[program:bot]\ncommand=/nowhere/bot\ndirectory=/nowhere\n")
    found = json.loads(manager("import", source, "--json").stdout)
    (account,) = found["accounts"]
    assert account["enabled"] is False
    assert "/nowhere is not a directory" in account["to_do"][0]
    text = (home / "config" / "accounts" / "bot.yaml").read_text()
    assert "\nenabled: false\n" in text
    assert f"#  - {account['to_do'][0]}" in text


@pytest.mark.parametrize("name", ["supervisord.conf", "ecosystem.config.json", "docker-compose.yml"])
def test_every_enabled_account_is_valid(home: Path, name: str) -> None:
    answer = manager("import", str(FIXTURES / name), "--json")
    assert answer.returncode == 1  # each of these files has a setting that cannot be translated
    found = json.loads(answer.stdout)
    assert found["not_translated"]
    assert all(note["text"] for note in found["not_translated"])
    enabled = {account["account_id"]: account["enabled"] for account in found["accounts"]}
    results = {one["account_id"]: one for one in json.loads(manager("validate", "--here", "--json").stdout)}
    assert results.keys() == enabled.keys()
    for account_id, is_enabled in enabled.items():
        result = results[account_id]
        assert result["valid"] or not is_enabled, result
        assert not any("unknown key" in text for text in result["errors"])


def test_the_home_of_an_unknown_user_is_a_missing_directory(home: Path) -> None:
    source = supervisord(home, "[program:bot]\ncommand=sleep 600\ndirectory=~no-such-user/bots\n")
    (account,) = json.loads(manager("import", source, "--json").stdout)["accounts"]
    assert "no-such-user/bots is not a directory" in account["to_do"][0]
    checked = manager("validate", "--here")
    assert "no-such-user/bots is not a directory" in checked.stdout
    assert "Traceback" not in checked.stderr


def test_errors_are_one_line(home: Path) -> None:
    script = home / "ecosystem.config.js"
    script.write_text("module.exports = {apps: []}")
    for source, says in ((str(script), "node -p"), (str(home / "none.conf"), "No such file")):
        answer = manager("import", source)
        assert answer.returncode == 1
        assert says in answer.stderr
        assert "Traceback" not in answer.stderr
    assert manager("import", supervisord(home), "--group", "a b").returncode == 2
