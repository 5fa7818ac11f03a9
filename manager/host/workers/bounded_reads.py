"""Reads of account files, with a deadline.

A file on a hung share must delay no other account.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from pydantic import SecretStr

from manager.config import AccountConfig, ConfigurationService
from manager.config.loaded import LoadedAccount
from manager.config.references import Resolved
from manager.config.schedule_file import ScheduleFile
from manager.config.service import Snapshot
from manager.errors import SlowFilesError

T = TypeVar("T")

#: What a read of all account files is called in errors.
_ALL_ACCOUNTS: Final = "all accounts"
#: Maximum age of the snapshot of all account files.
_SNAPSHOT_SECONDS: Final = 1.0

#: Deadline on a thread that serves other accounts too, in seconds.
_SECONDS: Final = 2.0
#: The deadline once the files of `_SHORT_FROM` accounts hang at the same time.
_SHORT_SECONDS: Final = 0.1
_SHORT_FROM: Final = 3
#: Deadline on a thread that serves one account alone, in seconds. The check of an account may read every file
#: of a large fleet, and a keyring or another store of secrets may be on a network.
PATIENT_SECONDS: Final = 60.0
#: Accounts whose files may hang at once; each holds a thread until its read returns.
_MAX_HANGING: Final = 256


class BoundedReads:
    """Runs reads of an account's files with a deadline. Thread-safe.

    While a read of an account hangs, further reads of the same account fail at once and start no thread.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._may_shorten = seconds <= _SECONDS
        self._lock = threading.Lock()
        self._hanging: set[str] = set()

    def run(self, account_id: str, read: Callable[[], T], seconds: float | None = None) -> T:
        """Return what `read` returns, or raise what it raises.

        Raises SlowFilesError after the deadline.
        """
        with self._lock:
            if account_id in self._hanging or len(self._hanging) >= _MAX_HANGING:
                raise self._slow(account_id)
            limit = self._seconds if seconds is None else seconds
            if self._may_shorten and seconds is None and len(self._hanging) >= _SHORT_FROM:
                limit = min(limit, _SHORT_SECONDS)
        #: A list, emptied below, so that the error's traceback does not refer to the error through this
        #: frame.
        outcome: list[Future[T]] = []
        answered = threading.Event()

        def work() -> None:
            answer: Future[T] = Future()
            try:
                answer.set_result(read())
            except BaseException as error:
                answer.set_exception(error)
            outcome.append(answer)
            del answer  # else this frame and the error's traceback would be a reference cycle
            with self._lock:
                answered.set()
                self._hanging.discard(account_id)

        try:
            threading.Thread(target=work, name=f"read-{account_id}", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            raise SlowFilesError(f"{account_id}: no thread to read its files ({error}); try again") from None
        if not answered.wait(limit):
            with self._lock:
                if not answered.is_set():
                    self._hanging.add(account_id)
                    raise self._slow(account_id)
        try:
            return outcome.pop().result()
        finally:
            outcome.clear()

    @staticmethod
    def _slow(account_id: str) -> SlowFilesError:
        return SlowFilesError(
            f"{account_id}: reading its files takes too long: check the disk or share that holds them and "
            "its password; if the account should run, its host tries again"
        )


class BoundedConfiguration:
    """A ConfigurationService with a deadline on every read.

    Raises SlowFilesError after the deadline.
    """

    def __init__(self, service: ConfigurationService, reads: BoundedReads | None = None) -> None:
        self._service = service
        self._reads = reads or BoundedReads()

    @property
    def config_dir(self) -> Path:
        return self._service.config_dir

    def load_account_config(self, account_id: str, apply_defaults: bool = True) -> AccountConfig:
        """See `ConfigurationService.load_account_config`."""
        return self.run(account_id, lambda: self._service.load_account_config(account_id, apply_defaults))

    def read_account(self, account_id: str) -> LoadedAccount:
        """See `ConfigurationService.read_account`."""
        return self.run(account_id, lambda: self._service.read_account(account_id))

    def snapshot(self) -> Snapshot:
        """See `ConfigurationService.snapshot`; up to one second old."""
        return self.run(_ALL_ACCOUNTS, lambda: self._service.snapshot(_SNAPSHOT_SECONDS))

    def schedules(self) -> ScheduleFile:
        """See `ConfigurationService.schedules`. The caller bounds it by `run`."""
        return self._service.schedules()

    def resolve_password(self, config: AccountConfig) -> SecretStr | None:
        """See `ConfigurationService.resolve_password`."""
        return self.run(config.account_id, lambda: self._service.resolve_password(config))

    def resolve_values(self, config: AccountConfig) -> Resolved:
        """See `ConfigurationService.resolve_values`."""
        return self.run(config.account_id, lambda: self._service.resolve_values(config))

    def run(self, account_id: str, read: Callable[[], T], seconds: float | None = None) -> T:
        """Run any other read of the account's files.

        `seconds` replaces the usual deadline.
        """
        return self._reads.run(account_id, read, seconds)
