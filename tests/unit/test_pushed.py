"""Pushed account files: used as a whole, without passwords, and nothing but account files."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.configs import GOOD, Directory
from support.servers import RedisServer

from manager.change.config_push import FleetConfigurationService, collect, difference, literal_secrets
from manager.config import ConfigurationService
from manager.errors import AccountNotFoundError, ConfigChangedError, InvalidConfigError, NoConfigVersionError
from manager.fleet.config_versions import CURRENT_KEY, VERSIONS_KEY, ConfigStore, content_hash
from manager.system.state_dir import StatePaths


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[ConfigStore]:
    found = ConfigStore(redis_server.url)
    yield found
    found.close()


def reader(directory: Path, store: ConfigStore) -> FleetConfigurationService:
    """Return a new reader of pushed files: an existing one checks Redis only once a second."""
    paths = StatePaths(directory / "state")
    paths.create()
    return FleetConfigurationService(directory / "config", paths, store)


FILES = {"defaults.yaml": "server: Paper-1\n", "accounts/a.yaml": GOOD}


def test_versions_are_pushed_read_and_rolled_back(short_dir: Path, store: ConfigStore) -> None:
    assert store.current() is None
    assert reader(short_dir, store).list_accounts() == []
    assert store.push(FILES, replaces=0, by="me", message="first") == 1
    one = reader(short_dir, store)
    assert (one.list_accounts(), one.version) == (["a"], 1)
    assert one.load_account_config("a").server == "Paper-1"
    later = {**FILES, "accounts/b.yaml": GOOD.replace("5001", "5002")}
    assert store.push(later, replaces=1, by="me", message="more") == 2
    assert reader(short_dir, store).list_accounts() == ["a", "b"]
    assert store.roll_back(1, "me") == 3
    assert reader(short_dir, store).list_accounts() == ["a"]
    assert [one.version for one in store.history()] == [3, 2, 1]
    assert store.history()[0].hash == store.history()[2].hash == content_hash(FILES)
    with pytest.raises(NoConfigVersionError, match="history"):
        store.read(9)


def test_the_second_of_two_concurrent_pushes_is_refused(store: ConfigStore) -> None:
    store.push(FILES, replaces=0, by="one", message="")
    with pytest.raises(ConfigChangedError, match="version 1"):
        store.push({}, replaces=0, by="two", message="")
    assert store.read(1).by == "one"


def test_without_redis_the_last_version_stays_in_use(
    short_dir: Path, store: ConfigStore, redis_server: RedisServer
) -> None:
    store.push(FILES, replaces=0, by="me", message="")
    assert reader(short_dir, store).list_accounts() == ["a"]
    redis_server.stop()
    assert reader(short_dir, store).list_accounts() == ["a"]


def test_a_version_that_was_tampered_with_is_not_read(
    short_dir: Path, store: ConfigStore, redis_server: RedisServer
) -> None:
    store.push(FILES, replaces=0, by="me", message="")
    assert reader(short_dir, store).list_accounts() == ["a"]
    with redis_server.client() as client:
        raw = client.hget(VERSIONS_KEY, "1")
        assert isinstance(raw, bytes)
        client.hset(VERSIONS_KEY, "2", raw.replace(b"5001", b"6666"))
        client.set(CURRENT_KEY, "2 " + "0" * 64)
    one = reader(short_dir, store)
    assert str(one.load_account_config("a").login) == "5001"


def test_only_account_files_are_written(short_dir: Path, store: ConfigStore) -> None:
    evil = {
        **FILES,
        "../../evil": "x",
        "/tmp/evil": "x",
        "accounts/../../evil.yaml": "x",
        "accounts/.hidden.yaml": "x",
        "secrets/password": "x",
    }
    store.push(evil, replaces=0, by="me", message="")
    reader(short_dir, store).list_accounts()
    written = {path.relative_to(short_dir).as_posix() for path in short_dir.rglob("*") if path.is_file()}
    assert {path for path in written if "evil" in path or "hidden" in path or "password" in path} == set()
    modes = {path.stat().st_mode & 0o077 for path in (short_dir / "state" / "config").rglob("*.yaml")}
    assert modes == {0}


def test_credentials_are_read_on_the_host_and_not_beside_pushed_files(
    short_dir: Path, store: ConfigStore
) -> None:
    text = GOOD.replace("env:SOME_PASSWORD", "file:secrets/p")
    store.push({"accounts/a.yaml": text}, replaces=0, by="me", message="")
    secrets = short_dir / "config" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "p").write_text("hidden\n")
    one = reader(short_dir, store)
    password = one.resolve_password(one.load_account_config("a"))
    assert password is not None
    assert password.get_secret_value() == "hidden"


def test_a_password_in_a_file_is_never_pushed(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.write("a", GOOD.replace("env:SOME_PASSWORD", "hunter2"))
    directory.write("b", "password: hunter2\n  nonsense: [")
    for allow in (False, True):
        with pytest.raises(InvalidConfigError) as raised:
            collect(directory.service, allow_invalid=allow)
        assert "accounts/a.yaml contains its password" in str(raised.value)
        assert "accounts/b.yaml cannot be read" in str(raised.value)
        assert "hunter2" not in str(raised.value)


CLEAR = """\
gateway: command
command: [bot, --password, my-argument]
ready: {line: x}
environment: {KEY: my-api-key, LOG_LEVEL: info}
options:
  note: "postgres://u:my-db-password@db/x"
# password: my-old-one
"""
SECRETS = ("my-argument", "my-api-key", "my-db-password", "my-old-one", "my-default")


def test_literal_secrets_are_pushed_only_with_an_option(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.write("a", CLEAR)
    directory.defaults("environment:\n  SMTP_PASSWORD: my-default\n")
    with pytest.raises(InvalidConfigError) as raised:
        collect(directory.service)
    for where in (
        "defaults.yaml:2:18: environment.SMTP_PASSWORD looks like a secret",
        "accounts/a.yaml:2:28: command[2] looks like a secret (the value of --password)",
        "accounts/a.yaml:4:20: environment.KEY looks like a secret",
        "accounts/a.yaml:6:9: options.note looks like a secret (it holds a URL with a password in it)",
        "accounts/a.yaml:7:1: a comment looks like a secret",
        "--allow-literals REASON",
    ):
        assert where in str(raised.value)
    assert "LOG_LEVEL" not in str(raised.value)
    files = collect(directory.service, allow_literals=True)
    assert files["accounts/a.yaml"] == CLEAR
    assert len(literal_secrets(files)) == 5
    shown = "\n".join(difference({}, files)) + "\n".join(difference(files, {}))
    assert not any(secret in str(raised.value) + shown for secret in SECRETS)
    assert "LOG_LEVEL: info" in shown
    # References are not secrets and are shown.
    directory.write("a", CLEAR.replace("my-api-key", '"file:secrets/key"'))
    after = collect(directory.service, allow_literals=True)
    changes = difference(files, after)
    assert '+environment: {KEY: "file:secrets/key", LOG_LEVEL: info}' in changes
    assert not any(secret in line for secret in SECRETS for line in changes)


def test_a_difference_shows_no_secret_of_a_file_that_cannot_be_parsed(tmp_path: Path) -> None:
    broken = "login: 5\npassword: hunter2\n - [\napi_key: x1\n"
    shown = difference({"accounts/a.yaml": broken}, {"accounts/a.yaml": broken.replace("x1", "y2")})
    assert "+api_key: ***" in shown
    assert not any("hunter2" in line or "x1" in line or "y2" in line for line in shown)
    multi = "options:\n  private_key: |\n    -----BEGIN KEY-----\n    abcdefghijkl\n"
    assert "abcdefghijkl" not in str(difference({}, {"accounts/a.yaml": multi}))


def test_invalid_accounts_are_pushed_only_with_an_option(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.write("a", GOOD + "colour: red\n")
    with pytest.raises(InvalidConfigError, match="colour"):
        collect(directory.service)
    files = collect(directory.service, allow_invalid=True)
    assert list(files) == ["accounts/a.yaml"]
    assert "+colour: red" in difference({"accounts/a.yaml": GOOD}, files)
    assert difference(files, files) == []
    assert ConfigurationService(tmp_path).list_accounts() == ["a"]


def test_only_errors_of_every_host_refuse_a_push(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.write("a", GOOD + "memory_mb: -2\ndefault_risk: {max_positions: -1}\n")
    directory.write("b", GOOD)  # with the login of `a`
    with pytest.raises(InvalidConfigError) as raised:
        collect(directory.service)
    for what in ("memory_mb: -2", "max_positions: -1", "is also the login of accounts/a.yaml"):
        assert what in str(raised.value)
    program = (
        "gateway: command\ncommand: [only-there]\ndirectory: /only/there\nready: {line: x}\n"
        "currencies: [{symbol: EURUSD}]\n"
    )
    directory.write("a", program)
    assert sorted(collect(directory.service)) == ["accounts/a.yaml", "accounts/b.yaml"]


def test_an_account_that_was_not_pushed_is_an_error(short_dir: Path, store: ConfigStore) -> None:
    with pytest.raises(AccountNotFoundError, match="none were pushed yet"):
        reader(short_dir, store).account_path("b")
    store.push(FILES, replaces=0, by="me", message="")
    with pytest.raises(AccountNotFoundError) as raised:
        reader(short_dir, store).account_path("b")
    assert "no account b in version 1 of the pushed files" in str(raised.value)
    assert str(short_dir) not in str(raised.value)


def test_the_progress_of_a_push_names_each_account_twice(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.write("a", GOOD)
    directory.write("b", GOOD.replace("5001", "5002"))
    stages: list[tuple[str, str]] = []
    collect(directory.service, progress=lambda account_id, stage: stages.append((stage, account_id)))
    assert stages[:4] == [("read", "a"), ("read", "b"), ("valid", "a"), ("valid", "b")]
    (tmp_path / "accounts" / "b.yaml").write_text("gateway: nothing\n")
    stages.clear()
    directory.validator.validate_all(lambda account_id, stage: stages.append((stage, account_id)))
    assert stages[:2] == [("read", "a"), ("read", "b")]
    assert [account_id for _, account_id in stages[2:]] == ["a", "b"]
    assert stages[3] == ("invalid", "b")
