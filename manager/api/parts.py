"""The dependencies of the API, which tests replace by parts in memory."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Final, ParamSpec, Protocol, TypeVar

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from manager.aio import AsyncWorkerManagerService
from manager.api.admission import Admission
from manager.api.auth import Authenticator, Principal
from manager.api.commands import CommandRunner
from manager.api.limits import OpenStreams, RateLimiter
from manager.api.metrics_page import MetricsPage
from manager.api.problems import ProblemError
from manager.api.stream.connection import StreamTimes
from manager.api.stream.hub import Hub
from manager.client.approvals import FleetApprovals
from manager.client.caller import Request as Behalf
from manager.client.caller import on_behalf_of
from manager.client.hosts import FleetHosts
from manager.client.rollouts import FleetRollouts
from manager.client.schedules import FleetSchedules
from manager.config import ConfigurationService
from manager.doctor import Check
from manager.fleet.audit import AuditTrail
from manager.fleet.batches import BatchRecord
from manager.fleet.config_versions import ConfigStore
from manager.fleet.events import EventStream
from manager.models import BatchResult, ValidationResult
from manager.service import WorkerManagerService
from manager.telemetry.fleet_reader import FleetListing, FleetReader

#: Names of the loopback interface.
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

P = ParamSpec("P")
T = TypeVar("T")


class Batches(Protocol):
    """Reads batches; `CeleryWorkerPool` implements it."""

    def batch_result(self, batch_id: str) -> tuple[BatchRecord, BatchResult]: ...

    def batches(self, count: int) -> Sequence[BatchRecord]: ...


class Checks(Protocol):
    """Records batches that validate accounts; `manager.client.batch_checks.BatchChecks` implements it."""

    def begin(self, batch_id: str, account_ids: Sequence[str]) -> None: ...

    def settle(self, batch_id: str, found: Mapping[str, ValidationResult]) -> None: ...


class Doctor(Protocol):
    """Runs the checks of `manager doctor`."""

    def __call__(self) -> Sequence[Check]: ...


class Readiness(Protocol):
    """Raises FleetUnavailableError unless Redis answers on a new connection."""

    def __call__(self) -> None: ...


class SharedChecks:
    """Runs `manager doctor` once for all requests that come meanwhile. Used from one event loop.

    The checks take seconds and ask every host: a client that asks often must not keep others waiting.
    """

    def __init__(self) -> None:
        self._running: asyncio.Task[Sequence[Check]] | None = None

    async def run(self, doctor: Doctor) -> Sequence[Check]:
        """Return the findings of the run that goes on, or of a new one."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(run_in_threadpool(doctor))
        return await asyncio.shield(self._running)


@dataclass(frozen=True, kw_only=True)
class ApiParts:
    """Everything that routes use.

    `service` and `aio` send commands to the same fleet.
    """

    service: WorkerManagerService
    aio: AsyncWorkerManagerService
    reader: FleetReader
    authenticator: Authenticator
    hosts: FleetHosts
    audit: AuditTrail
    batches: Batches
    checks: Checks
    versions: ConfigStore
    doctor: Doctor
    ready: Readiness
    shared_checks: SharedChecks = field(default_factory=SharedChecks)
    commands: CommandRunner
    limiter: RateLimiter = field(default_factory=RateLimiter)
    #: None: this server has no streams.
    hub: Hub | None = None
    events: EventStream | None = None
    metrics: MetricsPage | None = None
    #: None: this server reads no account files.
    schedules: FleetSchedules | None = None
    rollouts: FleetRollouts | None = None
    approvals: FleetApprovals | None = None
    streams: OpenStreams = field(default_factory=OpenStreams)
    stream_times: StreamTimes = field(default_factory=StreamTimes)
    #: Names that a Host header may have, in addition to loopback.
    host_names: frozenset[str] = frozenset()
    #: Origins of other sites whose scripts may use the API with a token.
    origins: tuple[str, ...] = ()
    #: Whether browsers send cookies only over TLS.
    secure_cookies: bool = False

    @cached_property
    def admission(self) -> Admission:
        """Checks credentials with this server's authenticator and limits."""
        return Admission(self.authenticator, self.limiter)

    def require_hub(self) -> Hub:
        """Return the hub. Raises ProblemError `fleet_unavailable` if None."""
        if self.hub is None:
            raise ProblemError("fleet_unavailable", "this server has no streams")
        return self.hub

    def require_events(self) -> EventStream:
        """Return the events. Raises ProblemError `fleet_unavailable` if None."""
        if self.events is None:
            raise ProblemError("fleet_unavailable", "this server reads no events")
        return self.events

    def require_schedules(self) -> FleetSchedules:
        """Return the schedules. Raises ProblemError `not_found` if None."""
        if self.schedules is None:
            raise ProblemError("not_found", "this server reads no account files")
        return self.schedules

    def require_rollouts(self) -> FleetRollouts:
        """Return the rollouts. Raises ProblemError `not_found` if None."""
        if self.rollouts is None:
            raise ProblemError("not_found", "this server reads no rollouts")
        return self.rollouts

    def require_approvals(self) -> FleetApprovals:
        """Return what approves held changes. Raises ProblemError `not_found` if None."""
        if self.approvals is None:
            raise ProblemError("not_found", "this server approves no changes")
        return self.approvals

    def host_allowed(self, name: str) -> bool:
        """Return whether the server answers for the name in a Host header."""
        return name in LOOPBACK or name in {one.lower() for one in self.host_names}

    async def state(self) -> FleetListing:
        """Return the current state of the fleet.

        Raises FleetUnavailableError.
        """
        known = self.reader.known()
        return known if known is not None else await run_in_threadpool(self.reader.read)

    async def on_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call on a thread, with the caller's context variables."""
        return await run_in_threadpool(call, *args, **kwargs)

    async def on_behalf(self, by: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call on a thread, with `by` as the sender."""
        with on_behalf_of(Behalf(by=by)):
            return await run_in_threadpool(call, *args, **kwargs)


def parts_of(request: Request) -> ApiParts:
    """Return the parts of the request's app."""
    parts: ApiParts = request.app.state.parts
    return parts


async def _parts(request: Request) -> ApiParts:
    return parts_of(request)


Parts = Annotated[ApiParts, Depends(_parts)]


def principal_of(request: Request) -> Principal:
    """Return the principal that the gate found for the request."""
    principal: Principal = request.state.principal
    return principal


def files_of(parts: ApiParts) -> ConfigurationService | None:
    """Return the account files, or None if the service reads no files."""
    configs = parts.service.config_service
    return configs if isinstance(configs, ConfigurationService) else None
