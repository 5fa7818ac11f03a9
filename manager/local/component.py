"""One child process of `manager up`, which the next `up` can adopt."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from manager.errors import ComponentError, SettingsError
from manager.system import atomic_file
from manager.system.child_process import open_log, start_detached
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths
from manager.system.storage import disk_refuses

#: Bytes at the end of a log that are searched for its last line.
_TAIL: Final = 4_096
#: Seconds in which a killed process must end.
_KILL_SECONDS: Final = 5.0


class Component:
    """A child process in its own session.

    Ctrl-C in the terminal therefore reaches only `up`, which stops its components one after the other. A file
    stores the child's pid and start time, so that the next `up` adopts the child of a killed `up` instead of
    starting a second one.
    """

    def __init__(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], paths: StatePaths
    ) -> None:
        self.name = name
        self.log_file = paths.component_log(name)
        self._argv = list(argv)
        self._environment = dict(environment)
        self._record = paths.run_dir / f"{name}.json"
        self._paths = paths
        self._child: subprocess.Popen[bytes] | None = None
        self.process: ProcessRef | None = None
        #: Whether the record names the present process, so that the next `up` can adopt it.
        self.recorded = False
        #: Set by `stop`; None for an adopted process.
        self.exit_code: int | None = None
        #: Whether `stop` had to kill it.
        self.forced = False

    def adopt(self) -> bool:
        """Adopt the live process of an earlier `up`; return whether there is one."""
        with contextlib.suppress(OSError, ValueError):
            process = ProcessRef.from_dict(json.loads(self._record.read_text()))
            if process is not None and process.alive():
                self.process, self.recorded = process, True
                return True
        return False

    def start(self) -> None:
        """Start the process.

        Raises:
            ComponentError: the system cannot start the program.
            SettingsError: the state directory cannot be used.
        """
        self._paths.create()
        try:
            with self._open_log() as log:
                self._child = start_detached(
                    self._argv,
                    environment=self._environment,
                    directory=self._paths.root,
                    stdout=log,
                    stderr=log,
                    umask=0o077,
                )
        except OSError as error:
            raise ComponentError(f"{self.name} cannot be started ({self._argv[0]}): {error}") from None
        self.process = ProcessRef.of(self._child.pid)
        self.recorded = False
        self.record()

    def restore_record(self) -> None:
        """Write the record again if it was removed.

        Raises nothing; the next call tries again.
        """
        if self.process is not None and not self._record.exists():
            self.recorded = False
            with contextlib.suppress(SettingsError):
                self._paths.create()
        self.record()

    def record(self) -> None:
        """Write the record for the next `up`, unless it is written already.

        After an error of the disk, the next call tries again.
        """
        if self.process is None or self.recorded:
            return
        try:
            # Atomically: with half a record the next `up` would start a second process.
            atomic_file.write(self._record, json.dumps(self.process.to_dict()))
        except OSError:
            return
        self.recorded = True

    def _open_log(self) -> BinaryIO:
        try:
            return open_log(self.log_file)
        except OSError as error:
            if not disk_refuses(error):
                raise
            return Path(os.devnull).open("wb")  # the component works without a log

    @property
    def alive(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            return False
        return self.process is not None and self.process.alive()

    def exit_reason(self) -> str:
        """Return how it ended: its exit code, if known, and its last log line."""
        code = self._child.poll() if self._child is not None else None
        last = _last_line(self.log_file)
        how = f"{self.name} ended" + (f" with code {code}" if code is not None else "")
        return f"{how}: {last} (log: {self.log_file})" if last else f"{how} (log: {self.log_file})"

    def stop(self, seconds: float) -> bool:
        """Send SIGTERM, then SIGKILL after `seconds`; return whether it ended.

        Blocks. Idempotent.
        """
        process = self.process
        if process is not None:
            if seconds > 0 and sys.platform != "win32":
                process.signal(signal.SIGTERM)
                process.wait(seconds)
            if process.alive():
                self.forced = seconds > 0
                process.kill()
                if not process.wait(_KILL_SECONDS):
                    return False
            if self._child is not None:
                self.exit_code = self._child.wait()
        self.process = self._child = None
        with contextlib.suppress(
            OSError
        ):  # a record that stays is harmless: its start time matches no live process
            self._record.unlink(missing_ok=True)
        return True


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip()[:160] if lines else ""
