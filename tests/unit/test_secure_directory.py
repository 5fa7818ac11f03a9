"""`manager secure init` run again keeps or renews what exists."""

import re
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from manager.cli.main import cli
from manager.errors import SettingsError
from manager.secure import certificates
from manager.secure.certificates import certificate_names
from manager.secure.fleet import PreviousSetup, SecureDirectory


def init(directory: Path, **changes: object) -> SecureDirectory:
    where = SecureDirectory(directory)
    options = {
        "hosts": ["one"],
        "redis_names": ["redis.desk", "10.0.0.5"],
        "port": 6390,
        "days": 30,
        "tls": True,
    }
    where.init(**{**options, **changes})  # type: ignore[arg-type]
    return where


def url(directory: Path, user: str) -> str:
    return (directory / f"{user}.url").read_text().strip()


def test_what_is_not_said_again_stays_as_it_was(tmp_path: Path) -> None:
    where = init(tmp_path)
    assert where.previous_setup() == PreviousSetup(("redis.desk", "10.0.0.5"), 6390, True)
    before = {path.name: path.read_text() for path in tmp_path.glob("*.url")}
    done = CliRunner().invoke(cli, ["secure", "init", "--dir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert certificate_names(tmp_path) == ("redis.desk", "10.0.0.5")
    assert "tls-port 6390" in (tmp_path / "redis.conf").read_text()
    assert {path.name: path.read_text() for path in tmp_path.glob("*.url")} == before
    plain = tmp_path / "plain"
    assert init(plain, tls=False).previous_setup() == PreviousSetup(("redis.desk",), 6390, False)


def test_urls_follow_redis_to_another_place_and_keep_their_passwords(tmp_path: Path) -> None:
    init(tmp_path)
    before = url(tmp_path, "host-one")
    init(tmp_path, redis_names=["::1"], port=7000)
    after = url(tmp_path, "host-one")
    assert "@[::1]:7000/0?" in after
    assert before.partition("@")[0] == after.partition("@")[0]


def test_users_keep_their_passwords_and_get_the_rights_of_this_version(tmp_path: Path) -> None:
    where = init(tmp_path)
    acl = tmp_path / "users.acl"
    right = acl.read_text()
    mine = "user backup on >secret ~* +@read"
    acl.write_text(re.sub(r"(user flower on #\w+) .*", r"\1 ~* +@all", right) + mine + "\n\n")
    init(tmp_path)
    assert acl.read_text() == right + mine + "\n"
    # An empty file, which Redis would read as: everybody may do everything.
    acl.write_text("")
    init(tmp_path)
    assert acl.read_text().startswith("user default off resetpass ")
    assert where.add_host("two").users == ("host-two",)
    with pytest.raises(SettingsError, match="already"):
        where.add_host("two")


def test_an_authority_that_is_half_gone_foreign_or_over_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init(tmp_path)
    other = tmp_path / "other"
    init(other)
    good = (tmp_path / "ca.crt").read_bytes()
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(SettingsError, match=r"ca\.key exists but ca\.crt is missing"):
        init(tmp_path)
    (tmp_path / "ca.crt").write_bytes((other / "ca.crt").read_bytes())
    with pytest.raises(SettingsError, match="do not belong together"):
        init(tmp_path)
    (tmp_path / "ca.crt").write_bytes(good)
    init(tmp_path)
    monkeypatch.setattr(certificates, "_CA_DAYS", 0)
    monkeypatch.setattr(certificates, "_EARLIER", timedelta(days=2))
    old = tmp_path / "old"
    with pytest.raises(SettingsError, match="move it and"):
        init(old)
        init(old)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "user@host", "{", "r\u00e9dis", "x" * 300, 'a"b'])
def test_an_invalid_name_of_redis_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="not a valid host name or address"):
        init(tmp_path, redis_names=[name])


def test_a_long_name_and_a_directory_with_a_space_are_no_trouble(tmp_path: Path) -> None:
    directory = tmp_path / 'a "fleet" of mine'
    init(directory, redis_names=["x" * 60 + ".desk.example"])
    conf = (directory / "redis.conf").read_text()
    assert 'aclfile "' in conf
    assert '\\"fleet\\"' in conf


def redis_line(path: Path, *options: str) -> list[str]:
    done = CliRunner().invoke(cli, ["secure", "init", "--dir", str(path / "created"), *options])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("next: "))
    return lines[first : first + 4]


@pytest.mark.skipif(sys.platform == "win32", reason="a program of a shell")
def test_it_names_a_redis_that_can_be_used_or_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin dir"))
    (tmp_path / "bin dir").mkdir()
    text = "\n".join(redis_line(tmp_path))
    assert "no Redis 7 or later with TLS is on PATH of this machine: install " in text
    server = tmp_path / "bin dir" / "redis-server"
    server.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo v=6.2.14\n'
        'else echo "No tls-cert-file configured!"; fi\n'
    )
    server.chmod(0o755)
    assert f"  not used: {server} (version 6.2) is too old" in redis_line(tmp_path)
    server.write_text(server.read_text().replace("6.2.14", "7.0.15"))
    assert redis_line(tmp_path)[0] == f"next: '{server}' {tmp_path / 'created' / 'redis.conf'} --dir DATA"
