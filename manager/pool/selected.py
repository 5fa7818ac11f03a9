"""Selects accounts and workers by groups and labels.

The account's file decides. Without a readable file, the groups and labels of the account's last start decide.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from manager.config import LoadedAccount
from manager.config.check_progress import CheckProgress
from manager.errors import ManagerError
from manager.models import ValidationResult, WorkerInfo
from manager.placement.engine import Needs
from manager.placement.labels import Selection
from manager.pool.protocol import WorkerPool
from manager.validation.accounts import Accounts


class SelectedAccounts:
    """Selects among the accounts that have a file, and the workers of a pool."""

    def __init__(self, accounts: Accounts, pool: WorkerPool) -> None:
        self._accounts = accounts
        self._pool = pool

    def read(self, selection: Selection | None = None) -> dict[str, LoadedAccount | None]:
        """Return the selected accounts as loaded from their files.

        None for an unreadable file.
        """
        found: dict[str, LoadedAccount | None] = {}
        for account_id in self._accounts.ids():
            try:
                loaded = self._accounts.read(account_id)
            except ManagerError:
                continue  # deleted since it was listed
            config = loaded.repaired
            if config is None:
                found[account_id] = None
            elif not selection or selection.matches(config.groups, config.labels):
                found[account_id] = loaded
        return found

    def workers(self, selection: Selection | None) -> list[WorkerInfo]:
        """Return the pool's selected workers, sorted by account id.

        An account with an unreadable file and without recorded groups and labels counts as selected.
        """
        found = self._pool.list_workers()
        if not selection:
            return found
        read, known = self.read(selection), set(self._accounts.ids())

        def takes(info: WorkerInfo) -> bool:
            loaded = read.get(info.account_id)
            if loaded is not None or (info.account_id in known and info.account_id not in read):
                return loaded is not None
            unrecorded = not (info.groups or info.labels)
            return selection.matches(info.groups, info.labels) or (unrecorded and info.account_id in read)

        return [info for info in found if takes(info)]

    def stoppable(self, selection: Selection | None) -> tuple[list[str], dict[str, tuple[str, str]]]:
        """Return the selected accounts that a stop of all must stop.

        Also returns the outcome `failed` of each account for which neither a file nor a record says whether
        it is selected.
        """
        stoppable = self._pool.stoppable()
        settled: dict[str, tuple[str, str]] = {}
        if not selection:
            return stoppable, settled
        read = self.read(selection)
        chosen = {account_id for account_id, loaded in read.items() if loaded is not None}
        known = set(self._accounts.ids())
        unread = [one for one in stoppable if one not in known or (one in read and read[one] is None)]
        recorded = self._pool.recorded_needs(unread) if unread else {}
        for account_id in unread:
            needs = recorded.get(account_id)
            if needs is None or needs.groups is None:
                settled[account_id] = (
                    "failed",
                    f"{account_id}: its file cannot be read, and no record says whether it belongs to "
                    f"{selection}: `manager stop {account_id}` stops it",
                )
            elif selection.matches(needs.groups, needs.labels):
                chosen.add(account_id)
        return [one for one in stoppable if one in chosen], settled

    def check(
        self, selection: Selection | None, progress: CheckProgress | None = None
    ) -> dict[str, ValidationResult]:
        """Check the files of the selected accounts, and all files that are not read."""
        results = self._accounts.check_all(progress)
        if not selection:
            return results
        selected = {*self.read(selection), *self._accounts.not_read()}
        return {account_id: result for account_id, result in results.items() if account_id in selected}

    def check_on_hosts(
        self, local: Mapping[str, ValidationResult], progress: CheckProgress | None = None
    ) -> dict[str, tuple[str, ValidationResult]]:
        """Check accounts on the hosts that would run them; return account id → (host, result).

        `local` are the results of this machine. They are returned, with the host "", for accounts that no
        host checks.
        """
        needs = self._needs(local)
        # A pool that a caller brings may not know the second argument.
        validate = self._pool.validate_many
        found = (validate(needs) if progress is None else validate(needs, progress)) or {}
        return {account_id: found.get(account_id, ("", result)) for account_id, result in local.items()}

    def _needs(self, account_ids: Iterable[str]) -> dict[str, Needs]:
        """Return what these accounts require of a host; without those whose file is unreadable."""
        found: dict[str, Needs] = {}
        for account_id in account_ids:
            with suppress(ManagerError):
                config = self._accounts.read(account_id).repaired
                if config is not None:
                    found[account_id] = config.needs()
        return found
