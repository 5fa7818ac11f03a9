"""What the watch of limits asks and changes of desired state."""

from manager.errors import FleetUnavailableError, ManagerError
from manager.fleet.desired import DesiredState
from manager.fleet.desired_store import DesiredStore
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.drain_state import DrainState
from manager.host.reconcile.recovery import Restarts
from manager.states import TradingMode


class LimitControl:
    """See `manager.host.limits.watch.AccountControl`. Thread-safe."""

    def __init__(
        self,
        host: str,
        desired: DesiredStore,
        desired_cache: DesiredStateCache,
        drain_state: DrainState,
        restarts: Restarts,
    ) -> None:
        self._host = host
        self._desired = desired
        self._desired_cache = desired_cache
        self._drain_state = drain_state
        self._restarts = restarts

    def why_not_end(self, account_id: str, *, restarts: bool) -> str | None:
        """See `AccountControl.why_not_end`."""
        known = self._desired_cache.get(account_id)
        if known is None or not known.running or known.host != self._host:
            return "a command stops or moves it"
        if not restarts:
            return None
        if self._drain_state.active:
            return f"host {self._host} is drained, so it would not start again"
        try:
            now = self._desired.read(account_id)
            if now is None or now.generation != known.generation:
                return "a later command arrives"
        except FleetUnavailableError:
            # Without failover, recovery keeps the account's lease and needs no Redis.
            if known.failover:
                return "Redis cannot be reached, so with failover it could not start again"
        try:
            self._restarts.check(account_id, known.apply_defaults, known.validate)
        except ManagerError as error:
            return f"it could not start again: {error}"
        return None

    def pause(self, account_id: str, *, token: str, by: str) -> DesiredState | None:
        """See `AccountControl.pause`."""
        return self._desired_cache.set_mode(account_id, TradingMode.PAUSED, token=token, by=by, what="pause")


__all__ = ["LimitControl"]
