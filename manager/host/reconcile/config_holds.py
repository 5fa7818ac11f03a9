"""Changes of real accounts that wait for approval on this host."""

import contextlib
import threading
from collections.abc import Callable, Set

from manager.config import AccountConfig, config_version
from manager.errors import FleetUnavailableError
from manager.fleet.approvals import ApprovalStore
from manager.host.reconcile.config_rollbacks import ConfigRollbacks
from manager.host.workers.kept_configs import KeptConfig
from manager.models import WorkerInfo

#: The environment of a session that trades real money, as the venue reports it.
_REAL = "real"


class ConfigHolds:
    """Knows which files wait for approval, and which are approved. Thread-safe."""

    def __init__(
        self,
        approvals: ApprovalStore,
        rollbacks: ConfigRollbacks,
        worker: Callable[[str], WorkerInfo | None],
    ) -> None:
        """`worker` returns the account's worker."""
        self._approvals = approvals
        self._rollbacks = rollbacks
        self._worker = worker
        self._lock = threading.Lock()
        #: Versions of files that wait, and that are approved.
        self._held: dict[str, str] = {}
        self._approved: dict[str, str] = {}

    def applies(self, account_id: str, config: AccountConfig) -> bool:
        """Return whether changes of the account's file need approval: it is real, and not approved."""
        info = self._worker(account_id)
        if info is None or info.metrics.environment != _REAL:
            return False
        with self._lock:
            return self._approved.get(account_id) != config_version(config)

    def hold(self, account_id: str, kept: KeptConfig, config: AccountConfig, generation: int) -> None:
        """Let a file wait: until then, starts without a command use `kept`."""
        with self._lock:
            self._held[account_id] = config_version(config)
        self._rollbacks.hold(account_id, kept, config, generation)

    def release(self, account_id: str) -> None:
        """End the hold of the account's file: it is approved, or equals what runs."""
        with self._lock:
            self._held.pop(account_id, None)
        self._rollbacks.release(account_id)

    def settle(self, account_id: str) -> None:
        """Remove the account's approval: the account runs what its file says. Redis may be away."""
        with self._lock:
            if self._approved.pop(account_id, None) is None:
                return
        with contextlib.suppress(FleetUnavailableError):  # it is for one version, so it may stay
            self._approvals.remove(account_id)

    def read(self) -> list[str]:
        """Read approvals if a file waits; return the accounts whose file has just been approved."""
        with self._lock:
            if not self._held:
                return []
        try:
            versions = self._approvals.versions()
        except FleetUnavailableError:
            return []
        with self._lock:
            found = [key for key, version in self._held.items() if versions.get(key) == version]
            new = [key for key in found if self._approved.get(key) != versions[key]]
            self._approved.update({key: versions[key] for key in found})
        return new

    def forget_others(self, account_ids: Set[str]) -> None:
        """Forget the accounts that do not run here any more; what starts without a command stays known."""
        with self._lock:
            for key in self._held.keys() - account_ids:
                del self._held[key]
