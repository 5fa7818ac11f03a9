"""Secrets other than the password: references are resolved, clear text is reported but never shown."""

import json
from pathlib import Path

import pytest
from support.configs import Directory

from manager.config.references import Resolved
from manager.config.secret_names import is_secret_name, secrets_of_arguments
from manager.errors import CredentialError, InvalidConfigError

PROGRAM = """\
gateway: command
command: [sh, -c, "echo ready; sleep 60"]
ready: {line: ready}
"""
#: No output may contain any of these.
SECRETS = (
    "my-api-key",
    "my-api-secret",
    "my-db-password",
    "my-argument",
    "my-option",
    "my-old-one",
    "4711471",
)
CLEAR = """\
gateway: command
command: [sh, -c, "sleep 60 --password my-argument", --api-key=my-argument, --token, my-argument]
ready: {line: ready}
environment:
  FREQTRADE__EXCHANGE__KEY: my-api-key
  FREQTRADE__EXCHANGE__SECRET: "my-api-secret"
  DB_URL: "postgres://u:my-db-password@db/x"
  BOT_TOKEN: 4711471
  # OLD_PASSWORD: my-old-one
  LOG_LEVEL: info
options:
  venues: [{name: main, passphrase: my-option}]
"""


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def secret(directory: Directory, name: str, content: str) -> None:
    path = directory.root / "secrets" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    path.chmod(0o600)


def resolved(directory: Directory) -> Resolved:
    return directory.service.resolve_values(directory.service.load_account_config("a"))


def test_references_in_environment_and_options_are_resolved_on_the_host(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret(directory, "key", "the-key\n")
    secret(directory, "pem", "-----BEGIN KEY-----\nabcdefgh\n-----END KEY-----\n")
    monkeypatch.setenv("EXCHANGE_SECRET", "the-secret")
    directory.write(
        "a",
        PROGRAM
        + """\
environment: {KEY: "file:secrets/key", SECRET: "env:EXCHANGE_SECRET", DB: "literal:file:a.db", LEVEL: info}
options: {wallet: [{pem: "file:secrets/pem"}], retries: 3, "on": true}
""",
    )
    assert directory.check().errors == ()
    found = resolved(directory)
    assert found.environment == {
        "KEY": "the-key",
        "SECRET": "the-secret",
        "DB": "file:a.db",
        "LEVEL": "info",
    }
    pem = "-----BEGIN KEY-----\nabcdefgh\n-----END KEY-----"
    assert found.options == {"wallet": [{"pem": pem}], "retries": 3, "on": True}
    assert set(found.secrets) == {"the-key", "the-secret", pem}
    assert "the-key" not in repr(found)
    loaded = directory.service.read_account("a")
    assert loaded.shown()["environment"]["KEY"] == "file:secrets/key"


def test_a_reference_that_leads_nowhere_is_an_error_that_names_its_key(directory: Directory) -> None:
    (error,) = directory.errors_of(PROGRAM + 'environment: {KEY: "file:secrets/key"}\n')
    assert error.startswith("accounts/a.yaml:4:20: environment.KEY: file:secrets/key: ")
    assert "is missing" in error
    with pytest.raises(CredentialError, match=r"^environment\.KEY: file:secrets/key: .* is missing"):
        resolved(directory)
    # A change of the secret is detected, and changes the account.
    secret(directory, "key", "the-key\n")
    assert directory.check().valid
    secret(directory, "key", "\n")
    assert "is empty" in directory.check().errors[0]
    (error,) = directory.errors_of(PROGRAM + 'options: {a: [{passphrase: "env:NOT_SET_HERE"}]}\n')
    assert "options.a[0].passphrase: env:NOT_SET_HERE: the environment variable" in error


def test_a_referenced_file_that_others_may_read_is_a_warning(directory: Directory) -> None:
    secret(directory, "key", "the-key\n")
    (directory.root / "secrets" / "key").chmod(0o640)
    directory.write("a", PROGRAM + 'environment: {KEY: "file:secrets/key"}\n')
    (warning,) = directory.check().warnings
    assert "environment.KEY" in warning
    assert "may be read by others (mode 0640)" in warning


def test_secrets_in_clear_work_with_a_warning_each_and_are_shown_nowhere(directory: Directory) -> None:
    directory.write("a", CLEAR)
    result = directory.check()
    assert result.valid
    said = "\n".join(result.warnings)
    for place in (
        "environment.FREQTRADE__EXCHANGE__KEY",
        "environment.FREQTRADE__EXCHANGE__SECRET",
        "environment.DB_URL",
        "environment.BOT_TOKEN",
        "options.venues[0].passphrase",
        "command[2]",
        "command[3]",
        "command[5]",
    ):
        assert place in said
    assert "LOG_LEVEL" not in said
    loaded = directory.service.read_account("a")
    shown = json.dumps(loaded.shown()) + str(loaded.origins())
    for text in (said, shown):
        assert not any(hidden in text for hidden in SECRETS)
    assert loaded.shown()["environment"]["DB_URL"] == "postgres://u:***@db/x"
    assert loaded.shown()["environment"]["LOG_LEVEL"] == "info"
    # The worker receives them unchanged and masks each.
    found = resolved(directory)
    assert found.environment["FREQTRADE__EXCHANGE__KEY"] == "my-api-key"
    assert {*SECRETS} - {"my-old-one"} <= set(found.secrets)


def test_a_reference_as_an_argument_is_a_warning_since_nothing_resolves_it(directory: Directory) -> None:
    directory.write("a", PROGRAM.replace('"echo', 'x, --password, "file:secrets/key", "echo'))
    (warning,) = directory.check().warnings
    assert "command[4]: looks like a reference, but the program receives it unchanged" in warning


@pytest.mark.parametrize(
    "text",
    [
        "environment: {API_SECRET: [my-api-secret]}",
        "environment: API_SECRET=my-api-secret",
        "options: [my-api-secret]",
        "password: [my-api-secret]",
        "command: bot --password my-api-secret",
    ],
)
def test_a_secret_of_the_wrong_kind_is_not_shown(directory: Directory, text: str) -> None:
    program = PROGRAM.replace("command:", "# command:") if text.startswith("command") else PROGRAM
    errors = directory.errors_of(f"{program}{text}\n")
    assert errors
    assert "my-api-secret" not in str(errors)


@pytest.mark.parametrize("value", ["0047114711", "!my-api-secret x", "&my-api-secret x", "1_047114711"])
def test_yaml_that_is_refused_shows_no_secret(directory: Directory, value: str) -> None:
    for key in ("password", "environment: {API_SECRET"):
        errors = directory.errors_of(f"{PROGRAM}{key}: {value}{'}' if '{' in key else ''}\n")
        assert errors
        assert "my-api-secret" not in str(errors)
        assert "47114711" not in str(errors)


@pytest.mark.parametrize(
    "name",
    [
        "KEY",
        "FREQTRADE__EXCHANGE__SECRET",
        "apiKey",
        "SMTP_PASS",
        "passphrase",
        "walletMnemonic",
        "ACCESSTOKEN",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["keyboard", "MAX_TOKENS", "TOKEN_SYMBOL", "PASSWORD_FILE", "PWD", "public_key", "symbol", ""]
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("command", "secrets"),
    [
        (("bot", "--password", "hunter2"), ["hunter2"]),
        (("bot", "--api-key=hunter2", "-v"), ["hunter2"]),
        (("java", "-Dpassword=hunter2"), ["hunter2"]),
        (("env", "API_TOKEN=hunter2", "bot"), ["hunter2"]),
        (("bot", "--db", "postgres://u:hunter2@h/x"), ["hunter2"]),
        (("sh", "-c", "API_KEY=hunter2 bot --secret 'hunter 3'"), ["hunter 3", "hunter2"]),
        (("sh", "-c", "bot --token $TOKEN --key ${KEY} --secret $(cat s)"), []),
        (("python", "-c", "key = os.environ['KEY']; sorted(rows, key=len)"), []),
        (("bot", "--password-file", "/run/secrets/p", "--ssl-key", "/etc/tls/k.pem", "--password"), []),
        (("bot", "--token", "--verbose"), []),
    ],
)
def test_secrets_among_arguments(command: tuple[str, ...], secrets: list[str]) -> None:
    assert [secret for _, _, secret in secrets_of_arguments(command)] == secrets


def test_a_literal_password_with_something_invisible_is_a_warning(directory: Directory) -> None:
    directory.write("a", PROGRAM + 'login: 1\npassword: "hunter2\\u200b"\n')
    result = directory.check()
    assert result.valid
    assert any("invisible character (U+200B" in warning for warning in result.warnings)
    assert "hunter2" not in str(result.warnings)


def test_the_mask_of_a_configuration_is_not_the_configuration(directory: Directory) -> None:
    directory.write("a", CLEAR)
    directory.service.read_account("a").shown()
    assert directory.service.load_account_config("a").environment["FREQTRADE__EXCHANGE__KEY"] == "my-api-key"
    with pytest.raises(InvalidConfigError):
        directory.write("a", "environment: [")
        directory.service.load_account_config("a")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('{"exchange": {"secret": "my-api-secret"}}', "my-api-secret"),
        ("{'api_key': 'my-api-secret'}", "my-api-secret"),
        ("Basic dXNlcjpteS1wYXNzd29yZA==", "dXNlcjpteS1wYXNzd29yZA=="),
        ("Authorization: Bearer abcdefghijkl", "abcdefghijkl"),
        ("X-API-Key: my-api-secret", "my-api-secret"),
        ("https://venue.example/ws?listen=1&api_key=my-api-secret", "my-api-secret"),
        ("123456789:AAabcdefghijklmnopqrstuvwxyz0123456", "123456789:AAabcdefghijklmnopqrstuvwxyz0123456"),
        (
            "https://hooks.slack.com/services/T0/B0/abcdefgh",
            "https://hooks.slack.com/services/T0/B0/abcdefgh",
        ),
    ],
)
def test_secrets_in_json_headers_urls_and_of_known_forms(
    directory: Directory, text: str, secret: str
) -> None:
    account = {
        "gateway": "command",
        "command": ["bot", "--with", text],
        "ready": {"after_seconds": 1},
        "environment": {"PLAIN": text},
        "options": {"deep": [{"plain": text}]},
    }
    directory.write("a", json.dumps(account))
    found = [line for line in directory.check().warnings if "looks like a secret" in line]
    assert [line.split(": ")[1] for line in found] == [
        "environment.PLAIN",
        "options.deep[0].plain",
        "command[2]",
    ]
    assert secret not in json.dumps(directory.service.read_account("a").shown())


def test_a_password_in_the_url_of_a_probe_is_a_secret_too(directory: Directory) -> None:
    account = {
        "gateway": "command",
        "command": ["bot"],
        "ready": {"after_seconds": 1},
        "health": {"probe": {"http": "http://ft:my-password@127.0.0.1:8080/"}},
    }
    directory.write("a", json.dumps(account))
    assert any("health.probe.http: looks like a secret" in line for line in directory.check().warnings)
    assert "my-password" not in json.dumps(directory.service.read_account("a").shown())


@pytest.mark.parametrize(
    "text",
    [
        '{"key": "EURUSD", "secret": null, "password": "${PASSWORD}"}',
        "Token ring",
        "basic strategy",
        "log: secret path: /etc/x",
        "https://venue.example/?symbol=EURUSD&limit=10",
        "http://127.0.0.1:8080/",
        "12:30:45",
    ],
)
def test_texts_that_hold_no_secret(directory: Directory, text: str) -> None:
    directory.write(
        "a",
        json.dumps(
            {
                "gateway": "command",
                "command": ["bot", text],
                "ready": {"after_seconds": 1},
                "environment": {"PLAIN": text},
            }
        ),
    )
    assert not [line for line in directory.check().warnings if "looks like a secret" in line]
