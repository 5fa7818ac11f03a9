"""Reads of account files that may hang (a share, a FIFO), so that one account's file delays no other account."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from pydantic import SecretStr

from manager.config import AccountConfig, ConfigurationService
from manager.config.references import Resolved
from manager.errors import SlowFilesError

T = TypeVar("T")

#: Seconds that a thread waits for one account's files which serves other accounts too; less once several accounts' files
#: hang at the same time.
_SECONDS: Final = 2.0
_HURRIED_SECONDS: Final = 0.1
_HURRIED_FROM: Final = 3
#: Seconds for a thread that serves one account alone. A check of an account may read every file of a large fleet, and a
#: keyring or another store of secrets may be asked over a network.
PATIENT_SECONDS: Final = 60.0
#: Accounts whose files may hang at once; each holds a thread until its file answers.
_MAX_HANGING: Final = 256


class BoundedReads:
    """Runs reads of one account's files with a deadline. Thread-safe.

    While a read of an account hangs, further reads of this account fail at once and hold no further thread.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._hurried = seconds <= _SECONDS
        self._lock = threading.Lock()
        self._hanging: set[str] = set()

    def run(self, account_id: str, read: Callable[[], T], seconds: float | None = None) -> T:
        """Return what `read` returns, or raise what it raises. Raises SlowFilesError after the deadline."""
        with self._lock:
            if account_id in self._hanging or len(self._hanging) >= _MAX_HANGING:
                raise self._slow(account_id)
            limit = self._seconds if seconds is None else seconds
            if self._hurried and seconds is None and len(self._hanging) >= _HURRIED_FROM:
                limit = min(limit, _HURRIED_SECONDS)
        #: A list, so that the error's traceback does not refer to the error by way of this frame.
        outcome: list[Future[T]] = []
        answered = threading.Event()

        def work() -> None:
            answer: Future[T] = Future()
            try:
                answer.set_result(read())
            except BaseException as error:
                answer.set_exception(error)
            outcome.append(answer)
            del answer  # this frame is in the error's traceback: together they would be garbage for the collector alone
            with self._lock:
                answered.set()
                self._hanging.discard(account_id)

        try:
            threading.Thread(target=work, name=f"read-{account_id}", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            raise SlowFilesError(f"{account_id}: its files cannot be read now ({error})") from None
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
            f"{account_id}: reading its files takes too long: check the disk or share that holds them and its password; "
            "an account that should run is tried again by its host"
        )


class BoundedConfiguration:
    """A ConfigurationService whose reads of one account end in time. Raises SlowFilesError where they do not."""

    def __init__(self, service: ConfigurationService, reads: BoundedReads | None = None) -> None:
        self._service = service
        self._reads = reads or BoundedReads()

    @property
    def config_dir(self) -> Path:
        return self._service.config_dir

    def load_account_config(self, account_id: str, apply_defaults: bool = True) -> AccountConfig:
        """See `ConfigurationService.load_account_config`."""
        return self.run(account_id, lambda: self._service.load_account_config(account_id, apply_defaults))

    def resolve_password(self, config: AccountConfig) -> SecretStr | None:
        """See `ConfigurationService.resolve_password`."""
        return self.run(config.account_id, lambda: self._service.resolve_password(config))

    def resolve_values(self, config: AccountConfig) -> Resolved:
        """See `ConfigurationService.resolve_values`."""
        return self.run(config.account_id, lambda: self._service.resolve_values(config))

    def run(self, account_id: str, read: Callable[[], T], seconds: float | None = None) -> T:
        """Run another read of the account's files, within `seconds` instead of the usual limit."""
        return self._reads.run(account_id, read, seconds)
