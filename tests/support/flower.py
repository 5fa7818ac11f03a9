"""A real Flower for a test."""

import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from support.fleet import Fleet
from support.ports import free_port
from support.waiting import eventually


class Flower:
    """A Flower started with `manager flower`, as an operator would."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        users = directory / "users"
        users.write_text("desk:looking-only\n")
        users.chmod(0o600)
        self.port = free_port()
        fleet.extra_environment["MANAGER_FLOWER_AUTH_FILE"] = str(users)
        fleet.spawn(sys.executable, "-m", "manager.cli", "flower", "--port", str(self.port), log="flower")
        eventually(
            lambda: self.status("/api/workers") == 200,
            within=30,
            what=f"Flower answers {fleet.log('flower')}",
        )

    def ask(self, path: str, *, auth: bool = True, data: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data)
        if auth:
            request.add_header("Authorization", "Basic " + base64.b64encode(b"desk:looking-only").decode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def status(self, path: str, *, auth: bool = True, data: bytes | None = None) -> int:
        try:
            self.ask(path, auth=auth, data=data)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0
        return 200

    def tasks(self) -> list[dict[str, Any]]:
        return list(json.loads(self.ask("/api/tasks")).values())
