"""Fixtures of all tests. Directories have short paths, because Unix sockets are in them."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import RedisServer
from support.venue import VenueProcess

from manager.system.log_writer import WriterHandler


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests see none of the developer's own fleet."""
    import os

    for name in [name for name in os.environ if name.startswith("MANAGER_")]:
        monkeypatch.delenv(name)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A test that configures the log in this process leaves no level and no handler to the next one."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    for one in [one for one in root.handlers if isinstance(one, WriterHandler) and one not in handlers]:
        root.removeHandler(one)
        one.close()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A private directory whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="wm-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def redis_server(short_dir: Path) -> Iterator[RedisServer]:
    directory = short_dir / "redis"
    directory.mkdir()
    server = RedisServer(directory)
    yield server
    server.close()


@pytest.fixture
def venue(short_dir: Path) -> Iterator[VenueProcess]:
    process = VenueProcess(short_dir)
    yield process
    process.close()
