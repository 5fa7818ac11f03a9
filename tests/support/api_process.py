"""`manager api` as a process of a test's fleet."""

import sys
from typing import Any

import httpx2

from manager.fleet.tokens import SCOPES, TokenStore
from support.fleet import Fleet
from support.waiting import eventually


class ApiProcess:
    """Started at once on a free port; `kill` and `start` again as a crash and a supervisor would."""

    def __init__(self, fleet: Fleet, **environment: str) -> None:
        self._fleet = fleet
        fleet.extra_environment |= environment
        self.token = TokenStore(fleet.redis_url).create("tester", tuple(SCOPES), by="test")[1]
        self.start()

    def start(self) -> None:
        log = self._fleet.paths.component_log("api")
        before = log.stat().st_size if log.exists() else 0
        self.process = self._fleet.spawn(sys.executable, "-m", "manager.cli", "api", "--port", "0", log="api")

        def first_line() -> str | None:
            text = log.read_text()[before:]
            return next((line for line in text.splitlines() if line.startswith("API on ")), None)

        eventually(
            lambda: first_line() is not None or self.process.poll() is not None, within=30, what="the API"
        )
        line = first_line()
        assert line is not None, log.read_text()
        self.url = line.removeprefix("API on ").removesuffix("/api/v1")
        eventually(self._ready, within=30, what="the API is ready")

    def _ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def client(self, token: str | None = None, **options: Any) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx2.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=90, **options)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)

    def log(self) -> str:
        return self._fleet.paths.component_log("api").read_text()
