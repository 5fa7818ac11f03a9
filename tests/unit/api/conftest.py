from collections.abc import Iterator
from pathlib import Path

import pytest
from support.api import Api
from support.servers import RedisServer


@pytest.fixture(scope="module")
def api_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for a module: each test creates its tokens."""
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="wm-"))
    server = RedisServer(directory)
    yield server
    server.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def api(api_redis: RedisServer) -> Api:
    return Api(
        api_redis, {"account-001": {"groups": ["fx"]}, "account-002": {}, "account-003": {"enabled": False}}
    )
