"""One process that `manager up` owns: found again after a killed `up`, restarted when it dies, ended with it."""

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

#: Bytes of a log that are looked at for its last line.
_TAIL: Final = 4_096
#: Seconds within which a killed process must be gone.
_KILL_SECONDS: Final = 5.0


class Component:
    """A child process in a session of its own: Ctrl-C in the terminal reaches `up` alone, which ends things in order.

    Its pid and start time are kept in a file, so that the next `up` takes over what a killed one left instead of
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
        #: Whether the next `up` would find the process that runs now.
        self.recorded = False
        #: Known once it was stopped; None also where another `up` had started it.
        self.exit_code: int | None = None
        #: Whether it had to be killed when it was asked to stop.
        self.forced = False

    def adopt(self) -> bool:
        """Take over the process that an earlier `up` started, if it still lives; True if it does."""
        with contextlib.suppress(OSError, ValueError):
            process = ProcessRef.from_dict(json.loads(self._record.read_text()))
            if process is not None and process.alive():
                self.process, self.recorded = process, True
                return True
        return False

    def start(self) -> None:
        """Start it. Raises ComponentError if the system refuses, SettingsError if the state directory cannot be used."""
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
        """Write down again which process it is, if somebody has removed that. Raises nothing; call it again."""
        if self.process is not None and not self._record.exists():
            self.recorded = False
            with contextlib.suppress(SettingsError):
                self._paths.create()
        self.record()

    def record(self) -> None:
        """Write the pid down for the next `up`, if that is still to be done. A disk that refuses is tried again later."""
        if self.process is None or self.recorded:
            return
        try:
            # Whole: a reader of half a record would take the process for none.
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
            return Path(os.devnull).open("wb")  # without a log it still does its work

    @property
    def alive(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            return False
        return self.process is not None and self.process.alive()

    def exit_reason(self) -> str:
        """Say how it ended: its exit code, if known, and the last line of its log."""
        code = self._child.poll() if self._child is not None else None
        words = _last_line(self.log_file)
        how = f"{self.name} ended" + (f" with code {code}" if code is not None else "")
        return f"{how}: {words} (log: {self.log_file})" if words else f"{how} (log: {self.log_file})"

    def stop(self, seconds: float) -> bool:
        """Ask it to end, kill it after `seconds`; True once it has provably ended. Idempotent."""
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
        with contextlib.suppress(OSError):  # what it names has ended, and is known by its start time
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
