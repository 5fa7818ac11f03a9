import sys
import types
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.configs import GOOD, Directory

from manager.config import credentials
from manager.errors import CredentialError


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
    secret.write_bytes(b" s3cret with spaces \r\n")
    assert resolve("file:secrets/a", tmp_path) == " s3cret with spaces "
    assert resolve(f"file:{secret}", Path("/nowhere")) == " s3cret with spaces "


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "is missing"), (b"", "is empty"), (b"\xff\xfe", "no UTF-8"), (b"x" * 70_000, "longer than")],
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
    with pytest.raises(CredentialError, match="no file"):
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
    assert warning.startswith("accounts/a.yaml:4:11: password: stands in the file as it is")
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
