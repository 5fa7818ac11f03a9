"""Approves changes of account files that wait for a person."""

from manager.client.caller import caller
from manager.errors import NothingHeldError
from manager.fleet import FleetStore
from manager.fleet.approvals import ApprovalStore
from manager.fleet.audit import AuditTrail
from manager.fleet.event_types import Notice


class FleetApprovals:
    """Approves held changes of a fleet's accounts.

    Methods raise FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, store: FleetStore, approvals: ApprovalStore, audit: AuditTrail) -> None:
        self._store = store
        self._approvals = approvals
        self._audit = audit

    def approve(self, account_id: str, version: str | None = None) -> str:
        """Approve the changes that the account holds; return the version of its file.

        The account's host applies them within a few seconds. `version` is the one that was looked at; None:
        the present one. Raises NothingHeldError if no change waits, or if the file has another version.
        """
        me = caller()
        with self._audit.refusals("approve", by=me, account_id=account_id):
            info = self._store.get_worker(account_id)
            state = (None if info is None else info.placement.config) or {}
            file = str(state.get("file") or "")
            if state.get("state") != "held" or not file:
                raise NothingHeldError(
                    f"{account_id} has no change that waits for approval: `manager reload` shows what waits"
                )
            if version is not None and version != file:
                raise NothingHeldError(
                    f"{account_id}: its file now has version {file} and not {version}: look at it again with "
                    f"`manager reload {account_id}`"
                )
            self._approvals.approve(account_id, file, by=me)
        self._store.note(Notice(type="config.approved", account_id=account_id, by=me, data={"to": file}))
        self._audit.note("approve", by=me, account_id=account_id, text=f"version {file}")
        return file
