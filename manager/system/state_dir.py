"""The paths in the state directory, and its creation."""

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from manager.errors import SettingsError
from manager.system import atomic_file
from manager.system.storage import disk_refuses, explain

#: A Unix socket's path is at most 107 bytes on Linux and 103 on macOS; the longest name below the state
#: directory is `run/<24 characters>.sock`.
_MAX_STATE_DIR_BYTES = 70


@dataclass(frozen=True)
class StatePaths:
    """Every path in the state directory that more than one package uses."""

    root: Path

    @property
    def redis_dir(self) -> Path:
        """Data, socket and log of the Redis of `manager up`."""
        return self.root / "redis"

    @property
    def redis_socket(self) -> Path:
        return self.redis_dir / "redis.sock"

    @property
    def venue_dir(self) -> Path:
        """Database and socket of the paper venue."""
        return self.root / "venue"

    @property
    def venue_socket(self) -> Path:
        return self.venue_dir / "venue.sock"

    @property
    def venue_address(self) -> Path:
        """File with the venue's address if that is not a Unix socket (Windows)."""
        return self.venue_dir / "address"

    @property
    def run_dir(self) -> Path:
        """Sockets, process records and private files of running components."""
        return self.root / "run"

    @property
    def workers_dir(self) -> Path:
        """One record per worker, by which a new host agent adopts workers."""
        return self.root / "workers"

    @property
    def running_dir(self) -> Path:
        """The configurations that workers run with; see `manager.host.workers.kept_configs`."""
        return self.root / "running"

    @property
    def previous_dir(self) -> Path:
        """The configurations to return to; see `manager.host.reconcile.config_rollbacks`."""
        return self.root / "previous"

    @property
    def reload_file(self) -> Path:
        """The accounts that wait for a restart; see `manager.host.reconcile.reload_restarts`."""
        return self.root / "reload.json"

    @property
    def stops_dir(self) -> Path:
        """Local stop requests without a host agent.

        See `manager.host.reconcile.stop_notes`.
        """
        return self.root / "stops"

    @property
    def runs_dir(self) -> Path:
        """Runs that have ended and are not safely in Redis yet."""
        return self.root / "runs"

    @property
    def agent_lock(self) -> Path:
        """Lock file that the running host agent holds."""
        return self.run_dir / "agent.lock"

    @property
    def agent_socket(self) -> Path:
        return self.run_dir / "agent-control.sock"

    @property
    def agent_control(self) -> Path:
        """Address and token (mode 0600) for local commands without Redis."""
        return self.run_dir / "agent-control.json"

    @property
    def logs_dir(self) -> Path:
        return self.root / "logs"

    @property
    def config_dir(self) -> Path:
        """Account files read from the fleet, one directory per version."""
        return self.root / "config"

    @property
    def accounts_dir(self) -> Path:
        """Directories for files of the accounts' programs.

        The manager writes nothing there.
        """
        return self.root / "accounts"

    def account_dir(self, account_id: str) -> Path:
        """Return the value of `{state_dir}` in an account's file.

        Created when its program starts.
        """
        return self.accounts_dir / account_id

    @property
    def home(self) -> str:
        """The unique id of this state directory, created with it."""
        return (self.root / "id").read_text().strip()

    def worker_log(self, account_id: str) -> Path:
        return self.logs_dir / "accounts" / f"{account_id}.log"

    def component_log(self, name: str) -> Path:
        return self.logs_dir / f"{name}.log"

    def create(self, home: str = "") -> None:
        """Create the directories, mode 0700. Idempotent.

        `home` restores the directory's id if its file was removed while in use. Raises SettingsError that
        names the problem and the remedy.
        """
        length = len(os.fsencode(self.root))
        if sys.platform != "win32" and length > _MAX_STATE_DIR_BYTES:
            raise SettingsError(
                f"state directory {self.root}: its path is {length} bytes long and Unix sockets in it allow "
                f"{_MAX_STATE_DIR_BYTES}: set MANAGER_STATE_DIR to a shorter one"
            )
        try:
            for directory in (
                self.root,
                self.redis_dir,
                self.venue_dir,
                self.run_dir,
                self.workers_dir,
                self.stops_dir,
                self.runs_dir,
                self.running_dir,
                self.config_dir,
                self.logs_dir,
                self.logs_dir / "accounts",
            ):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                atomic_file.remove_left_drafts(directory)
                if sys.platform != "win32":
                    self._make_private(directory, passable=directory in (self.root, self.run_dir))
            self._make_id(home)
        except OSError as error:
            if disk_refuses(error):
                raise SettingsError(
                    f"state directory: {explain(error, Path(error.filename or self.root))}"
                ) from error
            raise SettingsError(
                f"state directory {self.root}: {error.strerror} ({error.filename}): "
                "make it writable, or set MANAGER_STATE_DIR to one that is"
            ) from error

    def open_for_users(self) -> None:
        """Let other users reach their own files, for programs with `user`.

        With mode 0711 they cannot list it, and the manager's files stay private by their modes. Raises
        OSError.
        """
        self.accounts_dir.mkdir(mode=0o711, exist_ok=True)
        for directory in (self.root, self.run_dir, self.accounts_dir):
            directory.chmod(0o711)

    def _make_id(self, home: str) -> None:
        path = self.root / "id"
        if not path.exists() or not path.read_text().strip():
            atomic_file.write(path, home or uuid4().hex)

    if sys.platform != "win32":

        @staticmethod
        def _make_private(directory: Path, *, passable: bool) -> None:
            found = directory.stat()
            if found.st_uid != os.geteuid():
                raise SettingsError(
                    f"state directory {directory} belongs to another user (uid {found.st_uid}): "
                    "set MANAGER_STATE_DIR to one of your own"
                )
            # A program of another user may be using a directory that `open_for_users` opened.
            if stat.S_IMODE(found.st_mode) & (0o066 if passable else 0o077):
                directory.chmod(0o700)
