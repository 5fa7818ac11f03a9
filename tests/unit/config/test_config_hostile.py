"""Hostile files and account IDs cause a quick, clear error that names the file."""

import os
import sys
import time
from pathlib import Path

import pytest
from support.configs import GOOD, Directory

from manager.config import ConfigurationService
from manager.errors import AccountNotFoundError, InvalidAccountIdError, InvalidConfigError


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    monkeypatch.setenv("SOME_PASSWORD", "secret")
    return Directory(tmp_path)


def bomb() -> str:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    return "\n".join(lines) + "\n" + GOOD


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "alias bomb": (bomb(), "anchors (&name) are not allowed"),
    "alias": (GOOD + "environment: {A: *x}\n", "alias"),
    "tag that builds objects": (
        GOOD + "environment: !!python/object/apply:os.system ['true']\n",
        "tags (",
    ),
    "merge key": (GOOD + "environment:\n  <<: {A: b}\n", "merge keys (<<) are not allowed"),
    "not UTF-8": (GOOD.encode() + b"server: \xff\xfe\n", "byte 0xff is not UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), "UTF-8"),
    "duplicate key": (
        GOOD + "login: 5002\n",
        "key 'login' appears for the second time (first in line 2)",
    ),
    "NaN": (GOOD + "default_risk: {risk_percent: .nan}\n", "default_risk.risk_percent: nan is not finite"),
    "infinity": (GOOD + "default_risk: {risk_percent: .inf}\n", "inf is not finite"),
    "10^400": (GOOD + "default_risk: {risk_percent: 1e400}\n", "not finite"),
    "10^400 as an integer": (
        GOOD + f"default_risk: {{max_positions: 1{'0' * 400}}}\n",
        "must be at most",
    ),
    "a login of 400 digits": (GOOD.replace("5001", "1" + "0" * 400), "must be at most"),
    "leading zero": (GOOD.replace("5001", "0123"), 'write 123 for the number, "0123" for the text'),
    "two documents": (GOOD + "---\n" + GOOD, "a second document begins here"),
    "empty": ("", "is empty: was it only half written?"),
    "only a comment": ("# nothing yet\n", "is empty"),
    "half written": (GOOD.replace("  - symbol: EURUSD\n", "  - {symbol: EURU"), "is not valid YAML"),
    "a list": ("- a\n- b\n", "is not a mapping"),
    "a word": ("hello\n", "is not a mapping"),
    "NUL": (GOOD + "path: a\0b\n", "control character 0x0"),
    "deep flow nesting": (GOOD + "options: " + "[" * 100_000 + "\n", "nested deeper than"),
    "deep block nesting": ("- " * 100_000 + "x\n", "nested deeper than"),
    "deep question marks": ("? " * 100_000 + "x\n", "nested deeper than"),
    "a key that is a number": (GOOD + "7: x\n", "7"),
    "a key that is null": (GOOD + "~: x\n", "is not a text"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_is_refused_quickly_and_named(directory: Directory, name: str) -> None:
    text, expected = HOSTILE[name]
    began = time.process_time()
    errors = directory.errors_of(text)
    assert time.process_time() - began < 2.0
    assert any(expected in error for error in errors), errors
    assert all(error.startswith("accounts/a.yaml") for error in errors)
    with pytest.raises(InvalidConfigError, match=r"accounts/a\.yaml"):
        directory.service.load_account_config("a")


def test_a_file_of_a_hundred_megabytes_is_refused_unread(directory: Directory) -> None:
    path = directory.root / "accounts" / "a.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    (error,) = directory.check().errors
    assert error == "accounts/a.yaml: is longer than the 262,144 bytes that are allowed"


def test_a_directory_where_a_file_should_be(directory: Directory) -> None:
    (directory.root / "accounts" / "a.yaml").mkdir()
    assert directory.check().errors == ("accounts/a.yaml: is a directory; it must be a file",)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFOs in directories")
def test_a_fifo_is_refused_and_never_waited_for(directory: Directory) -> None:
    if sys.platform != "win32":
        os.mkfifo(directory.root / "accounts" / "a.yaml")
    assert directory.check().errors == ("accounts/a.yaml: is not a regular file",)


def test_a_dangling_link(directory: Directory) -> None:
    (directory.root / "accounts" / "a.yaml").symlink_to(directory.root / "nowhere")
    (error,) = directory.check().errors
    assert "accounts/a.yaml: cannot be read: No such file" in error


def test_a_broken_defaults_file_is_named_for_every_account(directory: Directory) -> None:
    directory.write("a", GOOD)
    directory.defaults("default_risk: [\n")
    (error,) = directory.check().errors
    assert error.startswith("defaults.yaml:")


@pytest.mark.parametrize(
    "account_id",
    [
        "../../etc/passwd",
        "a/b",
        "a\\b",
        "a\0b",
        "",
        ".",
        "..",
        ".hidden",
        "-option",
        "x" * 300,
        "CON",
        "nul",
        "com1.backup",
        "a.",
        "a b",
        "ä",
        "a\n",
        "a%2fb",
    ],
)
def test_a_hostile_account_id_is_refused_before_any_file_is_looked_at(
    directory: Directory, account_id: str
) -> None:
    for call in (
        directory.service.load_account_config,
        directory.service.account_path,
        directory.validator.validate_account,
    ):
        with pytest.raises(InvalidAccountIdError) as caught:
            call(account_id)
        assert len(str(caught.value)) < 300
        assert "\0" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_absent_account_names_the_file_and_the_likely_one(directory: Directory) -> None:
    directory.write("account-001", GOOD)
    with pytest.raises(AccountNotFoundError) as caught:
        directory.service.load_account_config("acount-001")
    assert f"{directory.root / 'accounts' / 'acount-001.yaml'} does not exist" in str(caught.value)
    assert "did you mean account-001?" in str(caught.value)


def test_files_whose_names_are_no_ids_are_reported_and_not_listed(directory: Directory) -> None:
    directory.write("good", GOOD)
    directory.write("con", GOOD)
    directory.write("white space", GOOD)
    (directory.root / "accounts" / "other.yml").write_text(GOOD)
    (directory.root / "accounts" / ".good.yaml.swp").write_text("junk")
    (directory.root / "accounts" / "good.yaml~").write_text("junk")
    assert directory.service.list_accounts() == ["good"]
    results = directory.validator.validate_all()
    assert set(results) == {"good", "con", "white space", "other.yml"}
    assert results["good"].valid
    assert "Windows reserves" in results["con"].errors[0]
    assert "rename it to end in .yaml" in results["other.yml"].errors[0]


def test_names_that_differ_only_in_case_are_one_file_on_windows(directory: Directory) -> None:
    directory.write("Gold", GOOD)
    directory.write("gold", GOOD.replace("5001", "5002"))
    results = directory.validator.validate_all()
    assert sum(result.has_errors for result in results.values()) == 1
    assert "only in case" in results["gold"].errors[0]


def test_an_unreadable_accounts_directory_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "accounts").write_text("a file")
    with pytest.raises(InvalidConfigError, match="set MANAGER_CONFIG_DIR to the configuration directory"):
        ConfigurationService(tmp_path).list_accounts()


def test_a_syntax_error_does_not_quote_the_password(directory: Directory) -> None:
    for text in (
        GOOD.replace("env:SOME_PASSWORD", '"hunter2-hunter2'),
        GOOD.replace("env:SOME_PASSWORD", "[hunter2-hunter2]"),
        GOOD.replace("env:SOME_PASSWORD", "{hunter2-hunter2: 1}"),
        GOOD.replace("env:SOME_PASSWORD", "*hunter2-hunter2"),
        GOOD.replace("password: env:SOME_PASSWORD", "pasword: hunter2-hunter2"),
        GOOD.replace("password: env:SOME_PASSWORD", "password:hunter2-hunter2"),
    ):
        errors = directory.errors_of(text)
        assert errors
        assert not any("hunter2" in error for error in errors), errors
