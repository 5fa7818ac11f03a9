import re
import sys
import types
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.configs import GOOD, Directory

from manager.config import credentials
from manager.errors import CredentialError, SettingsError
from manager.local.flower import users_of
from manager.settings import load_settings


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def resolve(reference: str, root: Path) -> str:
    return credentials.resolve(SecretStr(reference), root).get_secret_value()


def test_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_PASSWORD", "s3cret")
    assert resolve("env:A_PASSWORD", tmp_path) == "s3cret"
    monkeypatch.delenv("A_PASSWORD")
    with pytest.raises(CredentialError, match="A_PASSWORD is not set where the host agent runs"):
        resolve("env:A_PASSWORD", tmp_path)
    monkeypatch.setenv("A_PASSWORD", "")
    with pytest.raises(CredentialError, match="is empty"):
        resolve("env:A_PASSWORD", tmp_path)


def test_file_relative_to_the_configuration_directory(tmp_path: Path) -> None:
    secret = tmp_path / "secrets" / "a"
    secret.parent.mkdir()
    secret.write_bytes(b"s3cret with spaces\r\n")
    assert resolve("file:secrets/a", tmp_path) == "s3cret with spaces"
    assert resolve(f"file:{secret}", Path("/nowhere")) == "s3cret with spaces"


@pytest.mark.parametrize(
    "content",
    [
        b"s3cret",
        b"s3cret\n",
        b"s3cret\r\n",
        b"s3cret\r",
        b"\xef\xbb\xbfs3cret",
        b"\xef\xbb\xbfs3cret\r\n",
    ],
)
def test_the_final_newline_of_an_editor_is_not_part_of_the_secret(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert resolve("file:a", tmp_path) == "s3cret"


AMBIGUOUS = [
    ("s3cret".encode("utf-16"), "is UTF-16 text"),
    (b"\xfe\xff" + "s3cret".encode("utf-16-be"), "is UTF-16 text"),
    ("s3cret".encode("utf-32"), "is UTF-32 text"),
    ("s3cret".encode("utf-16-le"), "holds a NUL byte"),
    (b"s3cret\0", "holds a NUL byte"),
    (b"s3cret ", "ends with a blank"),
    (b"s3cret\t\n", "ends with a blank"),
    (b" s3cret", "begins with a blank"),
    (b"s3cret\n\n", "ends with a blank or an empty line"),
    (b"\ns3cret\n", "begins with a blank or an empty line"),
    (b"user\ns3cret\n", "more than one line"),
    (b"s3\rcret", "control character (U+000D, character 3)"),
    (b"s3cret\x1a", "control character (U+001A, character 7)"),
    (b"s3cret\x7f", "control character (U+007F"),
    ("s3cret\u200b".encode(), "invisible character (U+200B, character 7)"),
    ("\u2060s3cret".encode(), "invisible character (U+2060, character 1)"),
    ("s3\ufeffcret".encode(), "invisible character (U+FEFF, character 3)"),
    ("s3cret\u00a0".encode(), "ends with a blank"),
    ("s3\u00a0cret".encode(), "unusual blank (U+00A0, character 3)"),
    ("s3cret\u2028".encode(), "ends with a blank"),
    ("s3\u202ecret".encode(), "invisible character (U+202E"),
    ("s3\ufffdcret".encode(), "invisible character (U+FFFD"),
    ("s3\u3164cret".encode(), "invisible character (U+3164"),
    (b"s3cr\xe9t", "not UTF-8"),
]


@pytest.mark.parametrize(("content", "problem"), AMBIGUOUS)
def test_a_secret_that_is_not_clear_is_refused_and_not_shown(
    directory: Directory, content: bytes, problem: str
) -> None:
    secret = directory.root / "secret"
    secret.write_bytes(content)
    secret.chmod(0o600)
    with pytest.raises(CredentialError, match=re.escape(problem)) as caught:
        resolve("file:secret", directory.root)
    (error,) = directory.errors_of(GOOD.replace("env:SOME_PASSWORD", "file:secret"))
    for text in (str(caught.value), error):
        assert str(secret) in text
        assert "s3" not in text
        assert "cret" not in text.replace(str(secret), "").replace("secret", "")


def test_a_variable_and_a_keyring_entry_are_held_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_PASSWORD", "s3cret\r")
    assert resolve("env:A_PASSWORD", tmp_path) == "s3cret"
    monkeypatch.setenv("A_PASSWORD", "s3cret ")
    with pytest.raises(CredentialError, match="env:A_PASSWORD ends with a blank"):
        resolve("env:A_PASSWORD", tmp_path)


def test_a_key_may_have_lines(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"-----BEGIN KEY-----\r\n\tabc\r\n-----END KEY-----\r\n")
    found = credentials.resolve(SecretStr("file:key"), tmp_path, lines=True)
    assert found.get_secret_value() == "-----BEGIN KEY-----\n\tabc\n-----END KEY-----"


@pytest.mark.parametrize(
    "content", [b"redis://h:6390/1", b"\xef\xbb\xbfredis://h:6390/1\r\n", b"  redis://h:6390/1 \n\n"]
)
def test_the_url_file_is_read_as_it_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = tmp_path / "redis.url"
    path.write_bytes(content)
    monkeypatch.delenv("MANAGER_REDIS_URL", raising=False)
    monkeypatch.setenv("MANAGER_REDIS_URL_FILE", str(path))
    url = load_settings().redis_url
    assert url is not None
    assert url.get_secret_value() == "redis://h:6390/1"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("redis://:s3cret@h/0".encode("utf-16"), "is UTF-16 text"),
        (b"redis://:s3cret@h/0\nredis://other", "more than one line"),
        (b"redis://:s3cret\xe2\x80\x8b@h/0", "invisible character (U+200B"),
        (b" \n", "is empty"),
        (None, "cannot be read"),
    ],
)
def test_a_url_file_that_is_not_clear_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "redis.url"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.delenv("MANAGER_REDIS_URL", raising=False)
    monkeypatch.setenv("MANAGER_REDIS_URL_FILE", str(path))
    with pytest.raises(SettingsError, match=re.escape(problem)) as caught:
        load_settings()
    assert str(path) in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_flowers_users_are_read_as_they_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "users"
    path.write_bytes(b"\xef\xbb\xbfdesk:s3cret\r\n\r\n")
    monkeypatch.setenv("MANAGER_FLOWER_AUTH_FILE", str(path))
    assert users_of(load_settings()) == ["desk:s3cret"]
    for content in ("desk:s3cret".encode("utf-16"), "desk:s3\u200bcret".encode(), b"desk:s3cr\xe9t"):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match="MANAGER_FLOWER_AUTH_FILE") as caught:
            users_of(load_settings())
        assert "s3" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "is missing"), (b"", "is empty"), (b"\xff", "not UTF-8"), (b"x" * 70_000, "longer than")],
)
def test_file_trouble_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(CredentialError, match=expected) as caught:
        resolve("file:a", tmp_path)
    assert "xxx" not in str(caught.value)


def test_a_directory_as_secret_file(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="not a regular file"):
        resolve(f"file:{tmp_path}", tmp_path)


def test_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("keyring")
    entries = {("desk", "5001"): "s3cret"}
    fake.get_password = lambda service, user: entries.get((service, user))  # type: ignore[attr-defined]
    errors = types.ModuleType("keyring.errors")
    errors.KeyringError = type("KeyringError", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", fake)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    assert resolve("keyring:desk/5001", tmp_path) == "s3cret"
    with pytest.raises(CredentialError, match="keyring set desk 5002"):
        resolve("keyring:desk/5002", tmp_path)
    with pytest.raises(CredentialError, match="keyring:SERVICE/USER"):
        resolve("keyring:desk", tmp_path)


def test_keyring_that_is_not_installed_says_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(CredentialError, match=r"pip install 'worker-manager\[keyring\]'"):
        resolve("keyring:desk/5001", tmp_path)


def test_another_scheme_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site"
    (package / "vault-1.0.dist-info").mkdir(parents=True)
    (package / "vault-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vault\nVersion: 1.0\n"
    )
    (package / "vault-1.0.dist-info" / "entry_points.txt").write_text(
        "[manager.credentials]\nvault = vault_for_tests:read\n"
    )
    (package / "vault_for_tests.py").write_text(
        "def read(rest, config_dir):\n    return 'from-vault-' + rest\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(package))
        credentials.resolvers.cache_clear()
        assert resolve("vault:x", tmp_path) == "from-vault-x"
    credentials.resolvers.cache_clear()
    assert resolve("vault:x", tmp_path) == "vault:x", "an unknown scheme is a literal"


def test_a_literal_password_works_with_a_warning(directory: Directory) -> None:
    directory.write("a", GOOD.replace("env:SOME_PASSWORD", "s3cret"))
    result = directory.check()
    assert result.valid
    (warning,) = result.warnings
    assert warning.startswith("accounts/a.yaml:4:11: password: is stored in clear text")
    assert "s3cret" not in warning
    config = directory.service.load_account_config("a")
    found = directory.service.resolve_password(config)
    assert found is not None
    assert found.get_secret_value() == "s3cret"


def test_a_reference_that_does_not_resolve_here_is_an_error_of_the_account(directory: Directory) -> None:
    (error,) = directory.errors_of(GOOD)
    assert error.startswith("accounts/a.yaml:4:11: password: env:SOME_PASSWORD: the environment variable")


def test_a_password_file_that_others_may_read_is_a_warning(directory: Directory) -> None:
    secret = directory.root / "secret"
    secret.write_text("s3cret\n")
    directory.write("a", GOOD.replace("env:SOME_PASSWORD", "file:secret"))
    secret.chmod(0o644)
    (warning,) = directory.check().warnings
    assert "may be read by others (mode 0644): chmod 600 it" in warning
    secret.chmod(0o600)
    assert directory.check().warnings == ()


def test_a_secret_that_appears_later_makes_the_account_valid(directory: Directory) -> None:
    directory.write("a", GOOD.replace("env:SOME_PASSWORD", "file:secret"))
    assert directory.check().has_errors
    (directory.root / "secret").write_text("s3cret\n")
    (directory.root / "secret").chmod(0o600)
    assert directory.check().valid
