"""Placeholders: four names are filled in, and their values never change the meaning of a text."""

from pathlib import Path
from typing import Any

import pytest
from support.configs import Directory

from manager.config.models import AccountConfig
from manager.config.placeholders import escaped, fill_placeholders, filled, uses_state_dir
from manager.errors import InvalidConfigError

PROGRAM = "gateway: command\nready: {line: ready}\nlogin: 5001\nserver: Demo 1\n"


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def config(directory: Directory, text: str, account_id: str = "a") -> AccountConfig:
    directory.write(account_id, text)
    return directory.service.load_account_config(account_id)


def argument(directory: Directory, text: str, program: str = PROGRAM) -> str:
    """Return the value of one argument that is written in single quotes."""
    found = config(directory, f"{program}command: [sleep, '{text}']\n")
    command = filled(found, Path("/state/accounts/a")).command
    assert command is not None
    return command[1]


def test_every_place_of_a_program_is_filled_in(directory: Directory) -> None:
    (directory.root / "a.env").write_text("A=1\n")
    (directory.root / "a.env").chmod(0o600)
    (directory.root / "bots-a").mkdir()
    text = """\
gateway: command
login: 5001
server: Demo 1
command: [sleep, "--config={account_id}.json", "{server}", "{state_dir}/x"]
directory: bots-{account_id}
ready: {http: "http://127.0.0.1:{login}/{account_id}"}
health:
  line_every: {line: "beat {login}", seconds: 5}
  probe: {tcp: "{login}"}
environment: {WHERE: "{state_dir}/db", WHO: "{login}@{server}"}
environment_file: "{account_id}.env"
"""
    raw = config(directory, text)
    assert directory.check().errors == ()
    found = filled(raw, Path("/state/a"))
    assert found.command == ("sleep", "--config=a.json", "Demo 1", "/state/a/x")
    assert found.directory == "bots-a"
    assert found.ready is not None
    assert found.ready.http == "http://127.0.0.1:5001/a"
    every, probe = found.health.line_every, found.health.probe
    assert every is not None
    assert probe is not None
    assert (every.line, probe.tcp) == ("beat 5001", 5001)
    assert found.environment == {"WHERE": "/state/a/db", "WHO": "5001@Demo 1"}
    assert found.environment_file == ("a.env",)
    assert uses_state_dir(raw)
    # A saved file keeps its placeholders, and `config show` shows the values that the program receives.
    directory.service.save_account_config(raw)
    saved = (directory.root / "accounts" / "a.yaml").read_text()
    assert all(line in saved for line in text.splitlines() if "{" in line and "probe" not in line)
    shown = directory.service.read_account("a").shown()
    assert shown["command"][1] == "--config=a.json"
    assert shown["environment"]["WHERE"] == "{state_dir}/db"


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("{login}", "5001"),
        ('{"a": {"login": {login}}}', '{"a": {"login": 5001}}'),
        ('{"login": 1}', '{"login": 1}'),
        ("{{login}}", "{login}"),
        ("{{password}} {other} {}", "{password} {other} {}"),
        ("${login} ${server}", "${login} ${server}"),
        ("{login}{login}", "50015001"),
        ("{state_dir}/a b", "/state/accounts/a/a b"),
    ],
)
def test_exactly_the_four_names_are_replaced(directory: Directory, text: str, becomes: str) -> None:
    assert argument(directory, text) == becomes


@pytest.mark.parametrize("text", ["{password}", "--p={password}"])
def test_a_password_is_never_filled_in(directory: Directory, text: str) -> None:
    (error,) = directory.errors_of(f"{PROGRAM}command: [sleep, '{text}']\n")
    assert error.startswith("accounts/a.yaml:5:18: command[1]: a password is never filled in")
    assert "file:secrets/" in error
    assert "MANAGER_CREDENTIALS_FILE" in error
    (error,) = directory.errors_of(f"{PROGRAM}command: [sleep]\nenvironment: {{A: '{text}'}}\n")
    assert "environment.A: a password is never filled in" in error


def test_what_looks_like_a_password_is_a_warning(directory: Directory) -> None:
    directory.write("a", f"{PROGRAM}command: [sleep, '{{ Password }}', '{{passwd}}']\n")
    warnings = directory.check().warnings
    assert len(warnings) == 2
    assert all("a password is never filled in" in warning for warning in warnings)


@pytest.mark.parametrize(
    "text", ["{login}", "{{login}}", "${login}", "${{login}}", '{"a":{login}}', "{password}", "{x}"]
)
def test_what_is_escaped_comes_out_as_it_was(directory: Directory, text: str) -> None:
    assert argument(directory, escaped(text)) == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("{acount_id}", "account_id"),
        ("{LOGIN}", "login"),
        ("{ server }", "server"),
        ("{statedir}", "state_dir"),
    ],
)
def test_a_misspelt_placeholder_is_a_warning(directory: Directory, text: str, meant: str) -> None:
    directory.write("a", f"{PROGRAM}command: [sleep, '{text}']\n")
    result = directory.check()
    (warning,) = result.warnings
    assert result.valid
    assert f"{text} is not a placeholder; did you mean {{{meant}}}?" in warning
    assert argument(directory, text) == text


@pytest.mark.parametrize("text", ["{user}", "{a}", "${logn}", "{{logn}}", '{"x": 1}', "{name}"])
def test_other_braces_are_not_placeholders(directory: Directory, text: str) -> None:
    directory.write("a", f"{PROGRAM}command: [sleep, '{text}']\n")
    assert directory.check().warnings == ()


def test_a_value_that_the_account_does_not_have_is_an_error(directory: Directory) -> None:
    (error,) = directory.errors_of(
        "gateway: command\nready: {line: r}\ncommand: [sleep]\nenvironment: {A: '{server}'}\n"
    )
    assert "environment.A: {server} has no value: this account has no `server`" in error
    with pytest.raises(InvalidConfigError, match=r"a: environment\.A: \{server\} has no value"):
        filled(directory.service.load_account_config("a"), Path("/s"))


@pytest.mark.parametrize("login", ["../x", "a/b", "..", "~root", "a\\\\b"])
@pytest.mark.parametrize(
    "line",
    [
        "directory: 'bots-{login}'",
        "environment_file: 'env/{login}'",
        "environment: {A: 'file:secrets/{login}'}",
    ],
)
def test_a_value_cannot_lead_to_another_directory(directory: Directory, login: str, line: str) -> None:
    errors = directory.errors_of(
        f'gateway: command\nready: {{line: r}}\ncommand: [sleep]\nlogin: "{login}"\n{line}\n'
    )
    (error,) = errors
    assert "which leads to another directory" in error


@pytest.mark.parametrize("login", ["1; touch x", "$(id)", "a b", "'", "`id`", "-x", "1\\n2"])
@pytest.mark.parametrize(
    "command",
    [
        "[sh, -c, 'bot --login {login}']",
        "[/usr/bin/env, bash, -e, -lc, 'bot {login}']",
        "[python3, -W, ignore, -c, 'x = {login}']",
    ],
)
def test_a_value_cannot_become_code_of_a_shell(directory: Directory, login: str, command: str) -> None:
    text = f'gateway: command\nready: {{line: r}}\nlogin: "{login}"\ncommand: {command}\n'
    assert any("that the program runs as code" in error for error in directory.errors_of(text))


@pytest.mark.parametrize(
    "command",
    [
        "[sh, -c, 'bot --login \"$1\"', sh, '{server}']",
        "[python3, bot.py, -c, '{server}.json']",
        "[freqtrade, -c, '{server}.json']",
        "[sh, -c, 'bot {login}']",
    ],
)
def test_plain_arguments_may_hold_anything(directory: Directory, command: str) -> None:
    found = config(directory, f"{PROGRAM}command: {command}\n")
    assert fill_placeholders(found, None).problems == ()


def test_a_state_directory_in_a_shell_is_checked_once_it_is_known(directory: Directory) -> None:
    found = config(directory, f"{PROGRAM}command: [sh, -c, 'cd {{state_dir}} && bot']\n")
    assert directory.check().errors == ()
    command = filled(found, Path("/state/accounts/a")).command
    assert command is not None
    assert command[2] == "cd /state/accounts/a && bot"
    with pytest.raises(InvalidConfigError, match="that the program runs as code"):
        filled(found, Path("/state; rm/accounts/a"))


def test_a_value_is_one_argument_and_never_an_option(directory: Directory) -> None:
    assert argument(directory, "{server}") == "Demo 1"
    (error,) = directory.errors_of(
        "gateway: command\nready: {line: r}\nlogin: --rm\ncommand: [sleep, '{login}']\n"
    )
    assert "becomes an option" in error
    assert argument(directory, "--login={login}", PROGRAM.replace("5001", "-7")) == "--login=-7"


def test_a_value_never_becomes_a_reference(directory: Directory) -> None:
    (directory.root / "key").write_text("the-secret\n")
    found = config(
        directory,
        "gateway: command\nready: {line: r}\ncommand: [sleep]\nlogin: 'file:key'\nserver: key\n"
        "environment: {A: '{login}', B: 'file:{server}', C: 'literal:{login}'}\n",
    )
    values = directory.service.resolve_values(filled(found, Path("/s")))
    assert values.environment == {"A": "file:key", "B": "the-secret", "C": "file:key"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("ready: {tcp: '{server}'}", "ready.tcp: {server} is 'Demo 1', which is not a port"),
        ("health: {probe: {tcp: '9{login}'}}", "health.probe.tcp: 95001 is not a port"),
        ("ready: {tcp: abc}", "ready.tcp: 'abc': must be a port"),
    ],
)
def test_a_port_is_checked_once_it_is_filled_in(directory: Directory, line: str, says: str) -> None:
    program = PROGRAM.replace("ready: {line: ready}\n", "") if line.startswith("ready") else PROGRAM
    (error,) = directory.errors_of(f"{program}command: [sleep]\n{line}\n")
    assert says in error


def test_what_is_started_is_checked_once_it_is_filled_in(directory: Directory) -> None:
    (error,) = directory.errors_of(f"{PROGRAM}command: ['./bot-{{account_id}}']\n")
    assert "command[0]: './bot-a' is not an executable on this host" in error
    (error,) = directory.errors_of(f"{PROGRAM}command: [sleep]\ndirectory: 'bots/{{account_id}}'\n")
    assert "bots/a is not a directory" in error
    assert directory.errors_of(f"{PROGRAM}command: [sleep]\ndirectory: '{{state_dir}}/data'\n") == ()


@pytest.mark.parametrize("value", ["[bot, {login}]", "[{account_id}]"])
def test_a_placeholder_without_quotes_is_reported(directory: Directory, value: str) -> None:
    (error,) = directory.errors_of(f"gateway: command\nready: {{line: r}}\ncommand: {value}\n")
    assert "braces mean one in YAML; write it in quotes" in error


def test_another_gateway_has_no_placeholders(directory: Directory) -> None:
    data: dict[str, Any] = {"environment": {"A": "{login}"}, "gateway": "fake"}
    base = config(directory, PROGRAM + "command: [sleep]\n")
    other = base.model_copy(update=data)
    assert filled(other, Path("/s")) is other
