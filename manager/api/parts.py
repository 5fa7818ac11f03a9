"""What the API is made of: handed in by whoever builds the app, so that tests can hand in parts in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from manager.aio import AsyncWorkerManagerService
from manager.api.auth import Authenticator, Principal
from manager.api.limits import RateLimiter
from manager.client.hosts import FleetHosts
from manager.config import ConfigurationService
from manager.doctor import Check
from manager.fleet.audit import AuditTrail
from manager.fleet.batches import BatchRecord
from manager.fleet.config_versions import ConfigStore
from manager.models import BatchResult, WorkerInfo
from manager.service import WorkerManagerService
from manager.telemetry.fleet_reader import AccountFile, FleetReader, FleetState


class Batches(Protocol):
    """What is known of batches; `CeleryWorkerPool` has it."""

    def batch_result(self, batch_id: str) -> tuple[BatchRecord, BatchResult]: ...

    def batches(self, count: int) -> Sequence[BatchRecord]: ...


class Doctor(Protocol):
    """Runs the checks of `manager doctor`."""

    def __call__(self) -> Sequence[Check]: ...


class Readiness(Protocol):
    """Raises FleetUnavailableError unless Redis answers on a new connection."""

    def __call__(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ApiParts:
    """Everything that routes use. `service` and `aio` command the same fleet."""

    service: WorkerManagerService
    aio: AsyncWorkerManagerService
    reader: FleetReader
    authenticator: Authenticator
    hosts: FleetHosts
    audit: AuditTrail
    batches: Batches
    versions: ConfigStore
    doctor: Doctor
    ready: Readiness
    limiter: RateLimiter = field(default_factory=RateLimiter)
    #: Names in a Host header that this server answers for, beside loopback.
    host_names: frozenset[str] = frozenset()
    #: Whether cookies need TLS.
    secure_cookies: bool = False

    async def state(self) -> FleetState:
        """Return the fleet as it is now. Raises FleetUnavailableError."""
        return await run_in_threadpool(self.reader.read)

    async def worker(self, account_id: str) -> WorkerInfo | None:
        return await self.aio.get_worker_info(account_id)


def parts_of(request: Request) -> ApiParts:
    """Return the parts of the app that answers a request."""
    parts: ApiParts = request.app.state.parts
    return parts


async def _parts(request: Request) -> ApiParts:
    return parts_of(request)


Parts = Annotated[ApiParts, Depends(_parts)]


def principal_of(request: Request) -> Principal:
    """Return who sent a request that the gate let through."""
    principal: Principal = request.state.principal
    return principal


def account_files(service: WorkerManagerService) -> Mapping[str, AccountFile]:
    """Return what the account files on this machine say."""
    found: dict[str, AccountFile] = {}
    for account_id, loaded in service.select().items():
        config = None if loaded is None else loaded.repaired
        if loaded is None or config is None:
            found[account_id] = AccountFile(enabled=None, readable=False)
            continue
        found[account_id] = AccountFile(
            enabled=config.enabled if loaded.config is not None else None,
            gateway=config.gateway,
            groups=config.groups,
            labels=config.labels,
        )
    return found


def files_of(parts: ApiParts) -> ConfigurationService | None:
    """Return the account files as this machine has them; None where something else knows the accounts."""
    configs = parts.service.config_service
    return configs if isinstance(configs, ConfigurationService) else None
