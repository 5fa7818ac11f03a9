"""Where things are in the state directory, and its making: private to its owner, refused if it cannot be."""

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from manager.errors import SettingsError
from manager.system import atomic_file
from manager.system.storage import disk_refuses, explain

#: A Unix socket's path is at most 107 bytes on Linux and 103 on macOS; the longest name below the state directory
#: is `run/<24 characters>.sock`.
_MAX_STATE_DIR_BYTES = 70


@dataclass(frozen=True)
class StatePaths:
    """Every path below the state directory that more than one part of the project uses."""

    root: Path

    @property
    def redis_dir(self) -> Path:
        """Data, socket and log of the Redis that `manager up` started."""
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
        """A file that holds the venue's address where it is no Unix socket (Windows)."""
        return self.venue_dir / "address"

    @property
    def run_dir(self) -> Path:
        """Sockets, process records and private files of what runs now."""
        return self.root / "run"

    @property
    def workers_dir(self) -> Path:
        """One record for each worker on this host, by which a new host agent finds those that run."""
        return self.root / "workers"

    @property
    def stops_dir(self) -> Path:
        """Stops that were asked for on this machine while no host agent answered; see `manager.host.reconcile.stop_notes`."""
        return self.root / "stops"

    @property
    def agent_lock(self) -> Path:
        """Locked by the host agent for as long as it runs."""
        return self.run_dir / "agent.lock"

    @property
    def agent_socket(self) -> Path:
        return self.run_dir / "agent-control.sock"

    @property
    def agent_control(self) -> Path:
        """How commands of this machine reach the host agent without Redis. Holds a token, mode 0600."""
        return self.run_dir / "agent-control.json"

    @property
    def logs_dir(self) -> Path:
        return self.root / "logs"

    @property
    def config_dir(self) -> Path:
        """Account files that were read from the fleet, a directory for each version."""
        return self.root / "config"

    @property
    def accounts_dir(self) -> Path:
        """Directories of the accounts' programs for files of their own; nothing of ours is in them."""
        return self.root / "accounts"

    def account_dir(self, account_id: str) -> Path:
        """Return what `{state_dir}` is in an account's file; made when its program starts."""
        return self.accounts_dir / account_id

    @property
    def home(self) -> str:
        """What tells this state directory from every other, for as long as it exists; made with it."""
        return (self.root / "id").read_text().strip()

    def worker_log(self, account_id: str) -> Path:
        return self.logs_dir / "accounts" / f"{account_id}.log"

    def component_log(self, name: str) -> Path:
        return self.logs_dir / f"{name}.log"

    def create(self, home: str = "") -> None:
        """Make the directories, mode 0700. Idempotent. Raises SettingsError with what is wrong and what to do.

        `home` is the id that the state directory has had, for one whose file was removed while it is in use.
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
        """Let other users pass through to their own files in the state directory: for programs that run as them.

        Mode 0711: they can list nothing, and each file of ours stays private by its own mode. Raises OSError.
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
            # A program that runs as another user may be using what `open_for_users` opened.
            if stat.S_IMODE(found.st_mode) & (0o066 if passable else 0o077):
                directory.chmod(0o700)
