"""Checks credentials of requests, and limits how many unknown ones an address may try.

A credential that turns out to be valid does not count. After a restart of the API every client is unknown
and reconnects at once: a limit that counted them would lock out fleets of clients behind one address.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.concurrency import run_in_threadpool

from manager.api.auth import Authenticator, Principal
from manager.api.limits import RateLimiter
from manager.api.problems import ProblemError

#: Seconds between two attempts to begin the check of a credential while its address is at its limit.
_AGAIN_SECONDS: Final = 0.05


class Admission:
    """Checks credentials. Used from one event loop."""

    def __init__(self, authenticator: Authenticator, limiter: RateLimiter) -> None:
        self._authenticator = authenticator
        self._limiter = limiter
        #: Checks of unknown credentials that run now. Clients with the same credential share one.
        self._running: dict[tuple[bool, str], asyncio.Task[Principal]] = {}

    async def principal(
        self, credential: str, *, session: bool, address: str, wait_seconds: float = 0.0
    ) -> Principal:
        """Return the principal of a bearer token, or of a session's cookie if `session`.

        Waits up to `wait_seconds` if the address has tried too many unknown credentials.

        Raises:
            ProblemError: The credential is not valid, or `rate_limited`.
            FleetUnavailableError: Redis cannot be used.
        """
        found = self._authenticator.trusted(credential)
        if found is not None:
            return found
        check = self._authenticator.by_session if session else self._authenticator.by_token
        if self._authenticator.known(credential):
            return await run_in_threadpool(check, credential)
        key = (session, credential)
        running = self._running.get(key)
        if running is None:
            running = asyncio.create_task(self._check_unknown(check, credential, address, wait_seconds))
            self._running[key] = running
            running.add_done_callback(lambda task: self._ended(key, task))
        # A client that leaves must not end the check for the others.
        return await asyncio.shield(running)

    async def _check_unknown(
        self, check: Callable[[str], Principal], credential: str, address: str, wait_seconds: float
    ) -> Principal:
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        while True:
            try:
                # Counted before the check, so that guesses at the same time count too.
                self._limiter.take("address", address)
                break
            except ProblemError:
                if clock() >= deadline:
                    raise
            await asyncio.sleep(_AGAIN_SECONDS)
        principal = await run_in_threadpool(check, credential)
        self._limiter.give_back("address", address)
        return principal

    def _ended(self, key: tuple[bool, str], task: asyncio.Task[Principal]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # every client that waited may have left
