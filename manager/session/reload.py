"""Hands a changed configuration from the control channel to the worker's loop."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from manager.config import AccountConfig
from manager.gateways.base import Gateway, GatewayError, NotSupported

#: Seconds that the control channel waits for the loop. A loop inside a longer call refuses the change.
WAIT_SECONDS: Final = 2.0
#: Keys that a session uses at its start only. A change of the running configuration does not carry them: they
#: may hold secrets.
SECTIONS_OF_START: Final = frozenset({"password", "environment", "options", "command", "ready"})


class SessionBusyError(Exception):
    """Raised when the loop did not take a configuration. Nothing has changed, and nothing will."""


class Offer:
    """A configuration that the loop has taken. It answers once, with None or why nothing was applied."""

    def __init__(self, config: AccountConfig) -> None:
        self.config = config
        self.answered = threading.Event()
        self.error: str | None = None

    def answer(self, error: str | None) -> None:
        self.error = error
        self.answered.set()


class ConfigHandover:
    """One configuration on its way to the loop. Thread-safe.

    The loop takes it between two cycles, applies all of it or nothing, and answers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Offer | None = None

    def ask(self, request: Mapping[str, Any], phase: str, wake: Callable[[], None]) -> Mapping[str, Any]:
        """Answer the operation `reload` of the control channel. Waits for the loop."""
        try:
            config = AccountConfig.model_validate(request.get("config"))
        except ValueError:
            return {"ok": False, "error": "this version of the worker cannot read the configuration"}
        if phase != "connected":
            return {"ok": False, "busy": True, "error": f"the session is {phase}"}
        try:
            error = self.offer(config, wake)
        except SessionBusyError as busy:
            return {"ok": False, "busy": True, "error": str(busy)}
        return {"ok": error is None, "error": error}

    def offer(
        self, config: AccountConfig, wake: Callable[[], None], seconds: float = WAIT_SECONDS
    ) -> str | None:
        """Offer a configuration and wait until the loop has applied it.

        Returns None, or why it was refused. After `seconds` the loop can no longer take it; one that it has
        taken is waited for. `wake` wakes the loop. Raises SessionBusyError.
        """
        offer = Offer(config)
        with self._lock:
            if self._waiting is not None:
                raise SessionBusyError("another change of the configuration is under way; try again")
            self._waiting = offer
        wake()
        if not offer.answered.wait(seconds):
            with self._lock:
                if self._waiting is offer:
                    self._waiting = None
                    raise SessionBusyError(
                        f"the session is inside a call and did not take it within {seconds:g} s; try again"
                    )
            offer.answered.wait()
        return offer.error

    def take(self) -> Offer | None:
        """Return the offered configuration, if there is one. The caller must answer it."""
        with self._lock:
            offer, self._waiting = self._waiting, None
            return offer


def with_own_start(own: AccountConfig, config: AccountConfig) -> AccountConfig:
    """Return a received configuration with the session's own values of what is used at its start only."""
    health = config.health.model_copy(update={"probe": own.health.probe})
    kept = {name: getattr(own, name) for name in SECTIONS_OF_START}
    return config.model_copy(update={**kept, "health": health})


def refused(gateway: Gateway, old: AccountConfig, new: AccountConfig) -> str | None:
    """Return why a session cannot take a configuration, such as a symbol that cannot be traded; else None.

    Raises GatewayError if the session is lost.
    """
    if new.execution.interval_seconds <= 0:
        return "execution.interval_seconds: must be above 0"
    for symbol in sorted(set(new.enabled_symbols()) - set(old.enabled_symbols())):
        try:
            gateway.tick(symbol)
        except NotSupported:
            return None
        except GatewayError as error:
            if error.ends_session:
                raise
            return f"currencies: {symbol}: {error.code}: {error}"
    return None
