"""`manager doctor` names secret files that others may read, and a URL that trusts any certificate."""

import sys
from pathlib import Path

import pytest
from support.configs import GOOD, Directory

from manager.doctor import run_checks
from manager.secure.exposed import open_files, url_problem
from manager.settings import Settings

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes of files are of POSIX")


@pytest.mark.parametrize(
    "query",
    [
        "ssl_cert_reqs=none",
        "ssl_cert_reqs=None",
        "ssl_cert_reqs=CERT_NONE",
        "SSL_CERT_REQS=cert_none",
        "ssl_ca_certs=/ca.crt&ssl_cert_reqs=NONE",
        "ssl_cert_reqs=0",
        "ssl_check_hostname=false",
    ],
)
def test_a_url_that_trusts_any_server_is_named(query: str) -> None:
    problem = url_problem(f"rediss://user:s3cret@redis:6379/0?{query}")
    assert problem is not None
    assert "can impersonate this Redis" in problem
    assert "s3cret" not in problem


@pytest.mark.parametrize(
    "url",
    [
        "rediss://u:p@h/0?ssl_cert_reqs=required&ssl_ca_certs=/none",
        "rediss://h/0",
        "redis://h/0",
        "unix:///x",
        "redis://[",
        "",
    ],
)
def test_a_url_that_checks_who_answers_is_not(url: str) -> None:
    assert url_problem(url) is None


@posix
def test_files_of_variables_and_references_with_placeholders_are_among_them(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "config")
    for name in ("bot.env", "bot.key"):
        (directory.root / name).write_text("A=s3cret")
        (directory.root / name).chmod(0o644)
    directory.defaults(
        "gateway: command\ncommand: [x]\nready: {line: x}\nenvironment_file: '{account_id}.env'\n"
        "environment: {KEY: 'file:{account_id}.key'}\n"
    )
    directory.write("bot", "login: 1\nserver: S\n")
    settings = Settings(config_dir=directory.root, state_dir=tmp_path / "state")
    assert open_files(settings) == [
        f"{directory.root / 'bot.env'} (mode 0644): variables of account bot",
        f"{directory.root / 'bot.key'} (mode 0644): a secret of account bot",
    ]


@posix
def test_files_with_secrets_that_others_may_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(tmp_path / "config")
    for name in ("password", "key", "shared"):
        (directory.root / name).write_text("s3cret")
        (directory.root / name).chmod(0o644)
    program = "gateway: command\ncommand: [x]\nready: {line: x}\n"
    directory.write("a", GOOD.replace("env:SOME_PASSWORD", "file:password")).chmod(0o644)
    directory.write("b", program + 'environment: {KEY: "file:key"}\n').chmod(0o644)
    directory.write("c", program + "environment: {KEY: s3cret}\n").chmod(0o640)
    directory.write("d", program + "environment: {LEVEL: info}\n").chmod(0o644)
    url_file, users = tmp_path / "redis.url", tmp_path / "users"
    url_file.write_text("rediss://:s3cret@127.0.0.1:1/0?ssl_cert_reqs=none")
    users.write_text("desk:s3cret")
    for path in (url_file, users):
        path.chmod(0o604)
    monkeypatch.delenv("MANAGER_REDIS_URL", raising=False)
    settings = Settings(
        redis_url_file=url_file,
        flower_auth_file=users,
        config_dir=directory.root,
        state_dir=tmp_path / "state",
    )
    assert open_files(settings) == [
        f"{url_file} (mode 0604): MANAGER_REDIS_URL_FILE",
        f"{users} (mode 0604): MANAGER_FLOWER_AUTH_FILE",
        f"{directory.root / 'password'} (mode 0644): a secret of account a",
        f"{directory.root / 'key'} (mode 0644): a secret of account b",
        f"{directory.root / 'accounts' / 'c.yaml'} (mode 0640): account c with secrets in plain text",
    ]
    found = [check for check in run_checks(settings) if check.code == "secrets"]
    assert [check.outcome for check in found] == ["warning", "warning"]
    assert "ssl_cert_reqs=none" in found[0].found
    assert "other users can read 5 files with secrets" in found[1].found
    assert "s3cret" not in str(found)
    for path in (url_file, users, directory.root / "password", directory.root / "key"):
        path.chmod(0o600)
    (directory.root / "accounts" / "c.yaml").chmod(0o600)
    url_file.write_text("redis://:s3cret@127.0.0.1:1/0")
    settings = Settings(redis_url_file=url_file, config_dir=directory.root, state_dir=tmp_path / "state")
    (check,) = [check for check in run_checks(settings) if check.code == "secrets"]
    assert check.outcome == "ok"
