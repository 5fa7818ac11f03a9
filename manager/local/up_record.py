"""The record of a running `manager up`, and the stop requests for it."""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from manager.system import atomic_file
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths

#: Seconds between checks for a request.
_POLL_SECONDS: Final = 0.2

Phase = Literal["starting", "up", "ending", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpRecord:
    """One `manager up`: its process and its phase."""

    process: ProcessRef
    phase: Phase
    #: The exit code of the start (phase `up`), or of the whole run (phase `ended`).
    code: int = 0
    #: The systemd service that runs it (MANAGER_SERVICE) and would restart it; empty for none.
    service: str = ""
    #: Lines that its shutdown has printed.
    lines: tuple[str, ...] = ()


class UpFiles:
    """The files that `up`, `up --detach` and `down` of a state directory share."""

    def __init__(self, paths: StatePaths) -> None:
        self.lock = paths.run_dir / "up.lock"
        self.log = paths.component_log("up")
        self._record = paths.run_dir / "up.json"
        self._request = paths.run_dir / "up.end"

    def write(self, phase: Phase, code: int = 0, lines: tuple[str, ...] = ()) -> None:
        """Write the phase of this process. Raises OSError."""
        data = {**ProcessRef.me().to_dict(), "phase": phase, "code": code, "lines": list(lines)}
        data["service"] = os.environ.get("MANAGER_SERVICE", "")
        _replace(self._record, data)

    def read(self) -> UpRecord | None:
        """Return the record of the last `up`, or None if it is missing or unreadable."""
        data = _read(self._record)
        process = ProcessRef.from_dict(data)
        if process is None or data.get("phase") not in get_args(Phase):
            return None
        code, lines = data.get("code"), data.get("lines")
        return UpRecord(
            process=process,
            phase=data["phase"],
            code=code if isinstance(code, int) else 1,
            service=str(data.get("service") or ""),
            lines=tuple(map(str, lines)) if isinstance(lines, list) else (),
        )

    def request_shutdown(self, process: ProcessRef) -> None:
        """Request a graceful shutdown of exactly this process.

        Idempotent. Raises OSError.
        """
        _replace(self._request, process.to_dict())

    def take_request(self) -> bool:
        """Return whether there was a request for this process, and remove it.

        A request for another process is removed too.
        """
        if not self._request.exists():
            return False
        asked = ProcessRef.from_dict(_read(self._request))
        with contextlib.suppress(OSError):
            self._request.unlink()
        return asked == ProcessRef.me()


class RequestWatch:
    """Context manager with a thread that checks for requests."""

    def __init__(self, files: UpFiles, on_request: Callable[[], None]) -> None:
        self._files = files
        self._on_request = on_request
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="down-requests", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            with contextlib.suppress(OSError):
                if self._files.take_request():
                    self._on_request()


def _replace(path: Path, data: dict[str, Any]) -> None:
    atomic_file.write(path, json.dumps(data))


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(path.read_text())
        if isinstance(data, dict):
            return data
    return {}
