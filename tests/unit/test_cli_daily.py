"""Suggestions, version, completion, manual page and settings of the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from manager.cli.main import cli
from manager.errors import SettingsError
from manager.settings import load_settings


def manager(*arguments: str, stdout: Any = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-m", "manager.cli", *arguments],
        check=False,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    return done


@pytest.mark.parametrize("typed", ["sto", "strat", "restrat", "stauts", "drian", "mvoe"])
def test_suggestions_change_nothing(typed: str) -> None:
    done = manager(typed)
    assert done.returncode == 2
    hint = done.stderr.partition("did you mean")[2].partition("?")[0]
    assert not {"stop", "start", "restart", "start-all", "stop-all", "drain", "move"} & set(hint.split())
    if typed == "stauts":
        assert "status" in hint


def test_version_names_the_packages() -> None:
    found = json.loads(manager("version", "--json").stdout)
    assert {"manager", "python", "celery", "redis-py", "redis-server"} <= set(found)
    assert found["redis-server"] == "not reachable"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    assert "_MANAGER_COMPLETE" in manager("completion", shell).stdout


def test_the_manual_page_has_every_command() -> None:
    page = manager("man").stdout
    assert page.startswith(".TH MANAGER 1")
    for name in ("start", "stop", "ps", "forget", "doctor"):
        assert f".SS manager {name}" in page
    assert "Traceback" not in page


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_an_output_error_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = manager("man", stdout=full)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_empty_settings_are_unset_and_levels_take_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    default = load_settings()
    for name in ("CONFIG_DIR", "STATE_DIR", "HOST", "LOG_LEVEL", "REDIS_URL", "CAPACITY"):
        monkeypatch.setenv(f"MANAGER_{name}", "")
    assert load_settings() == default
    for given, level in (("debug", "DEBUG"), ("WARN", "WARNING"), ("Info", "INFO")):
        monkeypatch.setenv("MANAGER_LOG_LEVEL", given)
        assert load_settings().log_level == level


def test_a_missing_home_directory_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("manager.settings.platformdirs.user_config_path", fail)
    with pytest.raises(SettingsError, match="MANAGER_CONFIG_DIR"):
        load_settings()


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can be a user without an entry for a home"
)
def test_without_a_home_directory_every_command_gives_one_line() -> None:
    commands = [
        *(
            ["up", "--demo"],
            ["host"],
            ["flower"],
            ["scheduler"],
            ["init"],
            ["healthcheck"],
            ["secure", "init"],
        ),
        *(
            ["ps"],
            ["ps", "--local"],
            ["info", "a"],
            ["events"],
            ["logs", "a"],
            ["hosts"],
            ["doctor"],
            ["audit"],
        ),
        *(["start", "a"], ["stop", "a"], ["stop", "a", "--local"], ["stop-all", "--local"], ["restart", "a"]),
        *(["validate"], ["place", "a"], ["drain", "h"], ["forget", "a"], ["config", "push"], ["batch"]),
    ]
    program = """
import os, sys
os.setreuid(54321, 0)  # no such user: the system knows no home for it
from manager.cli.main import cli
from manager.errors import SettingsError

for line in sys.argv[1:]:
    try:
        cli.main(line.split(), prog_name="manager", standalone_mode=False)
    except SettingsError as error:
        assert "set HOME, or MANAGER_CONFIG_DIR" in str(error), (line, error)
        assert len(str(error).splitlines()) == 1
    else:
        raise AssertionError(line)

from manager.cli import main

sys.argv = ["manager", "host"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *(" ".join(command) for command in commands)],
        env={"PATH": os.environ.get("PATH", "")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: no home directory is known")
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_groups_and_hosts_are_completed_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = tmp_path / "accounts"
    accounts.mkdir()
    (accounts / "account-001.yaml").write_text("gateway: paper\nlogin: 1\nserver: S\ngroups: [fx, metals]\n")
    monkeypatch.setenv("MANAGER_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("MANAGER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MANAGER_HOST", "london-1")
    completed = ShellComplete(cli, {}, "manager", "_MANAGER_COMPLETE")
    assert [one.value for one in completed.get_completions(["stop", "--group"], "f")] == ["fx"]
    assert [one.value for one in completed.get_completions(["ps", "--host"], "")] == ["london-1"]
    assert [one.value for one in completed.get_completions(["drain"], "lon")] == ["london-1"]
