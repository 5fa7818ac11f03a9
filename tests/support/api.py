"""The HTTP API over a fleet in memory, with tokens in the test's Redis."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import httpx2
from starlette.testclient import TestClient

from manager.aio import AsyncWorkerManagerService
from manager.api.app import create_app
from manager.api.auth import Authenticator
from manager.api.commands import CommandRunner
from manager.api.limits import RATES, Rate, RateLimiter
from manager.api.parts import ApiParts
from manager.change.rollout_store import RolloutStore
from manager.client.approvals import FleetApprovals
from manager.client.caller import caller
from manager.client.hosts import FleetHosts
from manager.client.rollouts import FleetRollouts
from manager.errors import NoBatchError
from manager.factory import account_files
from manager.fleet import FleetStore
from manager.fleet.api_commands import CommandRecords
from manager.fleet.api_sessions import SessionStore
from manager.fleet.approvals import ApprovalStore
from manager.fleet.audit import AuditTrail
from manager.fleet.batches import BatchRecord
from manager.fleet.config_versions import ConfigStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.hosts import HostState
from manager.fleet.leases import LeaseStore
from manager.fleet.tokens import SCOPES, TokenStore
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.pool.commands import CommandSpec
from manager.service import WorkerManagerService
from manager.states import WorkerLifecycleStatus
from manager.telemetry.fleet_reader import AccountRow, FleetListing
from manager.testing import fake_service
from support.servers import RedisServer

#: So many that no test of something else meets them.
MANY = {name: Rate(1e6, 1_000_000) for name in RATES}


class MemoryReader:
    """The fleet of a service in memory; each read is a new state."""

    def __init__(self, service: WorkerManagerService) -> None:
        self.service = service
        self.versions = count(1)
        #: Changes to an account's state, by its id.
        self.changed: dict[str, AccountRow] = {}
        self.hosts = {"fake-host": HostState("fake-host", True, 0.1, {"version": "0.2.0", "workers": 1})}
        self._lock = threading.Lock()
        #: While set, every read is this one.
        self.fixed: FleetListing | None = None
        self.error: Exception | None = None

    def known(self) -> FleetListing | None:
        return None

    def read(self) -> FleetListing:
        if self.error is not None:
            raise self.error
        if self.fixed is not None:
            return self.fixed
        with self._lock:
            files = account_files(self.service)
            workers = {info.account_id: info for info in self.service.list_workers()}
            accounts = {
                one: AccountRow(one, workers.get(one), None, files.get(one))
                for one in sorted({*files, *workers})
            }
            accounts |= self.changed
            return FleetListing(
                as_of=datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC),
                cursor="1-0",
                version=str(next(self.versions)),
                accounts={one: accounts[one] for one in sorted(accounts)},
                hosts=self.hosts,
            )


class MemoryBatches(AsyncWorkerManagerService):
    """The service in memory, and the batches that it was given."""

    def __init__(self, service: WorkerManagerService) -> None:
        super().__init__(service)
        self.found: dict[str, tuple[BatchRecord, BatchResult]] = {}
        self.begun = 0

    async def run_many(
        self, command: CommandSpec, account_ids: Sequence[str], *, batch_id: str | None = None, **options: Any
    ) -> BatchResult:
        self.begun += 1
        assert batch_id is not None
        result = await super().run_many(command, account_ids, batch_id=batch_id, **options)
        tasks = {account_id: f"task-{account_id}" for account_id in account_ids}
        record = BatchRecord(batch_id, command.name, caller(), datetime.now(UTC), tasks, {})
        self.found[batch_id] = (record, result)
        return result

    def batch_result(self, batch_id: str) -> tuple[BatchRecord, BatchResult]:
        if batch_id not in self.found:
            raise NoBatchError(f"no batch {batch_id}")
        return self.found[batch_id]

    def begin(self, batch_id: str, account_ids: Sequence[str]) -> None:
        record = BatchRecord(batch_id, "validate", caller(), datetime.now(UTC), {}, {})
        self.found[batch_id] = (record, BatchResult(pending=dict.fromkeys(account_ids, "t")))

    def settle(self, batch_id: str, found: Mapping[str, ValidationResult]) -> None:
        stopped = WorkerLifecycleStatus.STOPPED
        done = {
            one: WorkerInfo(worker_id="", account_id=one, status=stopped)
            for one, result in found.items()
            if result.valid
        }
        failed = {one: "; ".join(result.errors) for one, result in found.items() if not result.valid}
        self.found[batch_id] = (self.found[batch_id][0], BatchResult(done=done, failed=failed))

    def batches(self, count: int) -> list[BatchRecord]:
        return [record for record, _ in self.found.values()][:count]


class Api:
    """An app, its parts, and clients with tokens."""

    def __init__(
        self,
        server: RedisServer,
        accounts: Mapping[str, Mapping[str, Any]] | None = None,
        service: WorkerManagerService | None = None,
        **changes: Any,
    ) -> None:
        self.service = service or fake_service(accounts if accounts is not None else {"account-001": {}})
        self.reader = MemoryReader(self.service)
        self.tokens = TokenStore(server.url)
        self.sessions = SessionStore(server.url)
        self.aio = MemoryBatches(self.service)
        audit = AuditTrail(server.url)
        desired = DesiredStore(server.url)
        parts = ApiParts(
            service=self.service,
            aio=self.aio,
            reader=self.reader,
            authenticator=Authenticator(self.tokens, self.sessions),
            hosts=FleetHosts(FleetStore(server.url), desired, audit, LeaseStore(server.url)),
            audit=audit,
            batches=self.aio,
            checks=self.aio,
            versions=ConfigStore(server.url),
            doctor=list,
            ready=lambda: None,
            commands=CommandRunner(CommandRecords(server.url)),
            rollouts=FleetRollouts(RolloutStore(server.url), FleetStore(server.url), desired, audit),
            approvals=FleetApprovals(FleetStore(server.url), ApprovalStore(server.url), audit),
            limiter=RateLimiter(MANY),
        )
        self.parts = replace(parts, **changes)
        self.app = create_app(self.parts)

    def token(self, *scopes: str, **options: Any) -> str:
        """Return the text of a new token; without scopes it has every one."""
        return self.tokens.create("tester", scopes or tuple(SCOPES), by="test", **options)[1]

    def client(self, *scopes: str, **options: Any) -> TestClient:
        """Return a client with a new token of these scopes."""
        return self.anonymous({"Authorization": f"Bearer {self.token(*scopes, **options)}"})

    def anonymous(self, headers: Mapping[str, str] | None = None) -> TestClient:
        """Return a client with these headers alone."""
        return TestClient(
            self.app,
            base_url="http://localhost:8700",
            headers=dict(headers or {}),
            raise_server_exceptions=False,
        )


def problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Return the members of a problem, after checking that it is a whole one."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), (
        response.text
    )
    found: dict[str, Any] = response.json()
    assert set(found) >= {
        *(
            "type",
            "title",
            "status",
            "code",
            "detail",
            "retryable",
            "instance",
            "request_id",
            "errors",
            "docs",
        )
    }
    assert (found["code"], found["status"]) == (code, status)
    assert found["request_id"] == response.headers["x-request-id"]
    assert found["detail"]
    return found
