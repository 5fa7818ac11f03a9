"""Keys of programs in `defaults.yaml`: fifty bots need only fifty files of three lines."""

from pathlib import Path

import pytest
from support.configs import GOOD, Directory

DEFAULTS = """\
gateway: command
command: [sh, -c, "echo ready; sleep 60", "{account_id}"]
directory: "."
ready: {line: ready}
health: {probe: {tcp: "80{login}", failures: 7}}
stop: {signal: INT}
environment: {A: 1, B: "{login}"}
environment_file: shared.env
umask: "027"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    found = Directory(tmp_path)
    found.defaults(DEFAULTS)
    (tmp_path / "shared.env").write_text("FROM_FILE=1\n")
    (tmp_path / "shared.env").chmod(0o600)
    return found


def test_an_account_of_two_lines_is_a_bot(directory: Directory) -> None:
    for login in (1, 2):
        directory.write(f"bot-{login}", f"login: {login}\nserver: Demo\n")
        assert directory.check(f"bot-{login}").errors == ()
        assert directory.check(f"bot-{login}").warnings == ()
    config = directory.service.load_account_config("bot-1")
    assert config.command == ("sh", "-c", "echo ready; sleep 60", "{account_id}")
    assert (config.umask, config.environment_file) == ("027", ("shared.env",))
    # Values of the defaults are not written into the account's file.
    path = directory.service.save_account_config(config)
    assert not any(key in path.read_text() for key in ("command", "directory", "ready", "_file", "umask"))


def test_a_list_is_replaced_and_the_environment_merged_by_key(directory: Directory) -> None:
    directory.write(
        "a", "login: 1\nserver: S\ncommand: [sleep, 5]\nenvironment: {A: 2, C: 3}\nenvironment_file: []\n"
    )
    config = directory.service.load_account_config("a")
    assert config.command == ("sleep", "5")
    assert config.environment == {"A": "2", "B": "{login}", "C": "3"}
    assert config.environment_file == ()


def test_another_sign_of_readiness_replaces_the_one_in_the_defaults(directory: Directory) -> None:
    directory.write(
        "a",
        "login: 1\nserver: S\nready: {after_seconds: 1}\nhealth: {probe: {http: 'http://127.0.0.1:1/'}}\n",
    )
    assert directory.check().errors == ()
    config = directory.service.load_account_config("a")
    assert config.ready is not None
    assert config.ready.model_dump(exclude_none=True) == {"after_seconds": 1.0}
    probe = config.health.probe
    assert probe is not None
    assert (probe.tcp, probe.http, probe.failures) == (None, "http://127.0.0.1:1/", 7)


def test_accounts_of_other_gateways_are_not_disturbed(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "hunter2")
    directory.defaults(
        DEFAULTS + "user: no-such-user-here\ndirectory: /nowhere\n".replace("directory", "group")
    )
    directory.write("a", GOOD)
    result = directory.check()
    assert (result.errors, result.warnings) == ((), ())
    config = directory.service.load_account_config("a")
    assert (config.command, config.ready, config.user, config.environment_file) == (None, None, None, ())
    path = directory.service.save_account_config(config)
    assert not any(key in path.read_text() for key in ("command", "directory", "ready", "_file", "umask"))


def test_a_problem_of_the_defaults_is_reported_at_its_place(directory: Directory) -> None:
    directory.defaults(DEFAULTS.replace("[sh, -c", "[no-such-program-here, -c"))
    directory.write("a", "login: 1\nserver: S\n")
    (error,) = directory.check().errors
    assert error.startswith("defaults.yaml:2:11: command[0]: 'no-such-program-here' is not an executable")
    directory.defaults(
        DEFAULTS.replace('command: [sh, -c, "echo ready; sleep 60", "{account_id}"]', "command: sh x")
    )
    (error,) = directory.check().errors
    assert "defaults.yaml:2:10: command: is a text; write it as a list" in error
