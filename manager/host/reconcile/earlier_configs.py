"""Returns accounts to their earlier configuration if a restart for a change fails."""

import contextlib
import logging

from manager.config import AccountConfig
from manager.errors import ManagerError
from manager.fleet.desired import ROLLOUT, DesiredState
from manager.host.reconcile.config_rollbacks import ConfigRollbacks
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.pool import WorkerPoolManager
from manager.system import logs

logger = logging.getLogger(__name__)


class EarlierConfigs:
    """Decides with which configuration an account starts after a failed restart. Thread-safe."""

    def __init__(
        self, pool: WorkerPoolManager, config_service: BoundedConfiguration, rollbacks: ConfigRollbacks
    ) -> None:
        self._pool = pool
        self._config_service = config_service
        self._rollbacks = rollbacks

    def keep(self, desired: DesiredState) -> None:
        """Record the running configuration before a rollout's restart, to return to it if that fails."""
        account_id = desired.account_id
        record = self._pool.config_changes.record(account_id) if desired.why == ROLLOUT else None
        if record is None:
            return
        kept = self._pool.config_changes.kept.load(account_id, record.worker_id)
        if kept is not None and kept.confirmed:
            with contextlib.suppress(ManagerError):  # the restart reports it
                self._rollbacks.begin(account_id, kept, self._load(desired), desired.generation)

    def take_back(self, desired: DesiredState, reason: str, *, final: bool) -> bool:
        """Count a failed start; return whether it is taken back.

        Then the next start uses the earlier configuration. `final`: another attempt would fail in the same
        way. A failure does not count while the venue is away.
        """
        account_id = desired.account_id
        if not final and self._pool.queries.venue_is_away(account_id):
            return False
        back = self._rollbacks.failed(
            account_id, desired.generation, reason, lambda: self._load(desired), final=final
        )
        if back:
            text = f"{reason}; it starts with the configuration that it had before its file changed"
            logs.event(logger, logging.ERROR, "config_rolled_back", text, account=account_id)
        return back

    def to_start(self, desired: DesiredState) -> AccountConfig | None:
        """Return the earlier configuration if a start must use it, else None; see `ConfigRollbacks`."""
        return self._rollbacks.config_to_start(
            desired.account_id, desired.generation, lambda: self._load(desired)
        )

    def _load(self, desired: DesiredState) -> AccountConfig:
        return self._config_service.load_account_config(desired.account_id, desired.apply_defaults)
