"""The host agent: what a Celery worker on a trading host holds besides Celery."""

import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from manager.config import ConfigurationService
from manager.errors import FleetUnavailableError, HostAgentError
from manager.fleet import FleetStore, fleet_url
from manager.fleet.audit import AuditTrail
from manager.fleet.desired_store import DesiredStore
from manager.fleet.host_report import HostReport
from manager.fleet.leases import LeaseStore
from manager.host.commands import HostCommands
from manager.host.factory import build_pool
from manager.host.local_control import LocalControl
from manager.host.name_claim import NameClaim
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.reconcile.drain_state import DrainState
from manager.host.reconcile.factory import build_reconciler
from manager.host.reconcile.reconciler import Reconciler, ReportStop
from manager.host.reconcile.stop_notes import PendingStops, StopNotes
from manager.host.reporting.audit_writer import AuditWriter
from manager.host.reporting.publisher import Publisher
from manager.host.reporting.self_test import SelfTest
from manager.host.reporting.upkeep import StateUpkeep
from manager.host.routing import Router
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.held_files import HeldFiles
from manager.host.workers.pool import WorkerPoolManager
from manager.host.workers.unrecorded import UnrecordedWorkers
from manager.models import WorkerInfo, utc_now
from manager.placement.engine import HostFacts
from manager.pool.commands import COMMANDS
from manager.pool.start_requests import StartRequestFactory
from manager.settings import Settings
from manager.system import logs
from manager.system.essential_threads import EssentialThread, ThreadGuard, log_lost
from manager.system.file_lock import FileLock
from manager.system.machine import load, memory_mb
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths
from manager.system.storage import explain
from manager.validation import AccountConfigurationValidator
from manager.versions import __version__

logger = logging.getLogger(__name__)

#: The exit code of an agent that gives its place to a new one.
_DEAF_EXIT = 75


class HostAgent:
    """Owns the host's pool from `start` to `close`. Neither touches a worker that runs."""

    def __init__(
        self,
        settings: Settings,
        config_service: ConfigurationService,
        answer: ReportStop | None = None,
        send_self_test: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.self_test = SelfTest(settings.self_test_seconds)
        self._send_self_test = send_self_test
        self._closed = threading.Event()
        self._guard = ThreadGuard(self._essential, _end)
        self._self_test_thread: EssentialThread | None = None
        self._answer: ReportStop = answer or (lambda _token, _outcome: None)
        self.paths = StatePaths(settings.state_dir)
        self.config_service = config_service
        self.validator = AccountConfigurationValidator(self.config_service)
        self.store = FleetStore(fleet_url(settings), stale_after_seconds=settings.stale_after_seconds)
        self.audit_writer = AuditWriter(AuditTrail(self.store.url), settings.host)
        self._lock = FileLock(self.paths.agent_lock)
        self._name: NameClaim | None = None
        self._process = ProcessRef.me()
        self._started_at = utc_now()
        self._pool: WorkerPoolManager | None = None
        self._publisher: Publisher | None = None
        self._reconciler: Reconciler | None = None
        self._leases: FleetLeases | None = None
        self._commands: HostCommands | None = None
        self._local: LocalControl | None = None
        self._upkeep: StateUpkeep | None = None

    @property
    def commands(self) -> HostCommands:
        """What tasks call. Raises HostAgentError before `start` and after `close`."""
        if self._commands is None:
            raise HostAgentError("this host agent is not started: it carries out no commands")
        return self._commands

    @property
    def pool(self) -> WorkerPoolManager:
        """The pool. Raises HostAgentError before `start` and after `close`."""
        if self._pool is None:
            raise HostAgentError("this host agent is not started: its pool of workers is not there yet")
        return self._pool

    def start(self) -> None:
        """Become this host's agent and adopt the workers that run. Raises HostAgentError if another one is."""
        settings = self.settings
        self.paths.create()
        try:
            locked = self._lock.acquire()
        except OSError as error:
            raise HostAgentError(explain(error, self.paths.agent_lock)) from None
        if not locked:
            raise HostAgentError(
                f"another host agent already runs on {self.paths.root} (pid {self._lock.holder()}): "
                "stop it first, or give this one its own MANAGER_STATE_DIR and MANAGER_HOST"
            )
        try:
            self._name = name = NameClaim(
                self.store.url, settings.host, self.paths.home, _machine(), self._stand_down
            )
            name.take()
            self._refuse_a_second()
            name.start()
            self._publisher = Publisher(
                self.store,
                settings.host,
                self._describe,
                self._everything,
                self._settle,
            )
            lease_store = LeaseStore(self.store.url)
            unrecorded = UnrecordedWorkers(
                self.store,
                lease_store,
                HeldFiles(self.paths.run_dir, self.paths.home),
                settings.host,
                settings.stale_after_seconds,
            )
            self._leases = leases = FleetLeases(
                lease_store,
                settings.host,
                settings.lease_seconds,
                settings.heartbeat_interval_seconds,
                self.paths.home,
                unrecorded.holds,
                name.ensure,
            )
            self._pool = pool = build_pool(
                settings,
                self.config_service,
                redis_url=self.store.url,
                sink=self._publisher,
                leases=leases,
                on_unexpected_exit=self._on_unexpected_exit,
                unrecorded=unrecorded,
            )
            desired = DesiredStore(self.store.url)
            desired_state_file = self.paths.root / "desired.json"
            account_files = BoundedConfiguration(self.config_service)
            pending_stops = PendingStops(StopNotes(self.paths.stops_dir))
            self._reconciler = reconciler = build_reconciler(
                host=settings.host,
                pool=pool,
                start_requests=StartRequestFactory(self.config_service, self.validator),
                config_service=account_files,
                desired=desired,
                desired_cache=DesiredStateCache(settings.host, desired, DesiredStateFile(desired_state_file)),
                store=self.store,
                leases=leases,
                drain_state=DrainState(settings.host, self.store, self.paths.root / "drain.json"),
                pending_stops=pending_stops,
                facts=self._facts,
                report_stop=self._answer,
                record_removed=self._publisher.forget,
                settle=self._note_unrecorded,
            )
            self._commands = HostCommands(
                host=settings.host,
                pool=pool,
                reconciler=reconciler,
                router=Router(settings.host, pool, reconciler, desired),
                config_service=self.config_service,
                account_files=account_files,
                desired=desired,
                leases=leases,
                ready=name.ensure,
            )
            self._local = local = LocalControl(
                settings.host, self.paths, pool, reconciler, pending_stops, self.audit_writer.note
            )
            menders = (
                pool.restore_records,
                lambda: None if desired_state_file.exists() else reconciler.desired_cache.save(),
                reconciler.drain_state.restore_file,
                local.mend,
            )
            self._upkeep = StateUpkeep(self.paths, self._lock, menders, self._stand_down)
            local.upkeep = self._upkeep.look
            # Before the workers are adopted: one that has ended since may be one that a stop was to end.
            reconciler.desired_cache.read()
            noted = pending_stops.accounts()
            adopted = pool.adopt(lambda key: key in noted or reconciler.desired_cache.should_be_stopped(key))
            self._publisher.start()
            self.audit_writer.start()
            local.take_notes()  # before anything is started
            reconciler.start()
            local.start()
            self._publisher.announce()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._preload, name="preload", daemon=True).start()
        if self._send_self_test is not None:
            send = self._send_self_test
            self._self_test_thread = EssentialThread("self-test", lambda: self._test_self(send))
            self._self_test_thread.start()
        self._guard.start()
        logs.event(
            logger,
            logging.INFO,
            "agent_started",
            host=settings.host,
            pid=os.getpid(),
            version=__version__,
            adopted=len(adopted),
        )

    def close(self, *, in_order: bool = False) -> None:
        """Stop being the agent. Workers go on trading; a later agent adopts them. Idempotent.

        Only where the settings say so, and the end is `in_order`, are they stopped before; what is wanted stays as it is.
        """
        self._commands = None
        self._closed.set()
        self._guard.close()
        if self._local is not None:
            self._local.close()
            self._local = None
        if self._reconciler is not None:
            self._reconciler.close()  # from here on nothing is started again
            self._reconciler = None
        if self._pool is not None and in_order and self.settings.stop_workers_on_exit:
            self._stop_workers(self._pool)
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
            logs.event(logger, logging.INFO, "agent_stopped", host=self.settings.host)
        self.audit_writer.close()
        if self._name is not None:
            self._name.close()
            self._name = None
        self._lock.release()

    @staticmethod
    def _stop_workers(pool: WorkerPoolManager) -> None:
        accounts = pool.queries.live_accounts()
        result = pool.stop_many(accounts)
        logs.event(
            logger,
            logging.ERROR if result.failed else logging.INFO,
            "stopped_on_exit",
            "; ".join(result.failed.values()),
            stopped=len(result.done),
            failed=len(result.failed),
        )

    def _refuse_a_second(self) -> None:
        """Refuse to run beside a live agent of the same name elsewhere that claims no name (version 0.2)."""
        try:
            hosts = self.store.hosts()
        except FleetUnavailableError as error:
            # Not a reason to leave workers without an agent; Celery itself waits until Redis is back.
            logs.event(logger, logging.WARNING, "fleet_away", str(error))
            return
        for state in hosts:
            if state.name != self.settings.host or not state.live:
                continue
            if state.report.machine == _machine():
                other = ProcessRef.from_dict(dict(state.data))
                if other is None or not other.alive():
                    continue
            raise HostAgentError(
                f"a host agent named {state.name} is alive already (pid {state.report.pid} on machine "
                f"{state.report.machine}): every host needs its own MANAGER_HOST"
            )

    def _stand_down(self, why: str) -> None:
        """End this agent, as another one has its host's name: both would carry out commands for the same accounts."""
        self._commands = None
        logs.event(
            logger,
            logging.CRITICAL,
            "name_taken",
            f"{why}. This agent ends and carries out no more commands; the workers that it started go on",
        )
        logging.shutdown()
        os._exit(_DEAF_EXIT)

    def _settle(self) -> None:
        """Correct what Redis says of workers that this host has no longer.

        Raises FleetUnavailableError.
        """
        pool, reconciler = self._pool, self._reconciler
        if pool is not None and reconciler is not None:
            pool.detect_unrecorded()
            known = {info.account_id for info in pool.queries.records()}
            self.store.settle(self.settings.host, known, reconciler.desired_cache.should_be_stopped)

    def _note_unrecorded(self) -> bool:
        """Note workers that live without a record; returns whether none is left to look after."""
        try:
            return self._pool is None or not self._pool.detect_unrecorded()
        except FleetUnavailableError:
            return False

    def _everything(self) -> list[WorkerInfo]:
        """Return every record, for a Redis that lost some; what else it may have lost is done again."""
        if self._leases is not None:
            self._leases.repeat_releases()
        return [] if self._pool is None else self._pool.queries.records()

    def _preload(self) -> None:
        if self._pool is not None:
            self._pool.preload()

    def _test_self(self, send: Callable[[], None]) -> None:
        """See that this agent still consumes, and end it if not: a supervisor starts one that does."""
        while not self._closed.wait(self.self_test.interval):
            try:
                send()
            except Exception as error:
                logs.event(logger, logging.DEBUG, "self_test_unsent", str(error))
                self.self_test.unsent(error)
            else:
                self.self_test.sent()
            if self.self_test.short() and not self._closed.is_set():
                exit_out_of_files()
            if self.self_test.deaf() and not self._closed.is_set():
                logs.event(
                    logger,
                    logging.CRITICAL,
                    "deaf",
                    "this host agent consumes nothing any more, though Redis takes its messages: it ends, to be "
                    "started again; the workers go on",
                )
                _exit()

    def _essential(self) -> list[EssentialThread]:
        found = [self.audit_writer.thread]
        if self._publisher is not None:
            found.append(self._publisher.thread)
        if self._pool is not None:
            found += self._pool.threads
        if self._reconciler is not None:
            found += self._reconciler.threads
        if self._self_test_thread is not None:
            found.append(self._self_test_thread)
        return found

    def _trouble(self) -> str | None:
        stored = self._reconciler.desired_cache.trouble if self._reconciler else None
        files = self._upkeep.trouble if self._upkeep else None
        return stored or files or self._guard.trouble()

    def _describe(self) -> Mapping[str, Any]:
        self._guard.check()  # who watches the guard: the thread that publishes this
        pool = self._pool
        memory, available = memory_mb()
        return HostReport(
            pid=self._process.pid,
            start_time=self._process.start_time,
            machine=_machine(),
            version=__version__,
            python=sys.version.split()[0],
            started_at=self._started_at.isoformat(),
            workers=pool.queries.count_live() if pool else 0,
            states=pool.queries.states() if pool else {},
            heard_seconds_ago=_rounded(self.self_test.heard_seconds_ago),
            looks=self._reconciler.reconciliations if self._reconciler else 0,
            trouble=self._trouble(),
            clock_change=self._reconciler.clocks.explain() if self._reconciler else None,
            drain=self._reconciler.drain.explain() if self._reconciler else None,
            commands=sorted(COMMANDS),
            config_source=self.settings.config_source,
            config_version=self.config_service.version,
            labels=dict(self.settings.labels),
            capacity=self.settings.capacity,
            memory_mb=memory,
            available_mb=available,
            load=load(),
            time=time.time(),
        ).to_dict()

    def _facts(self) -> HostFacts:
        memory, available = memory_mb()
        return HostFacts(
            name=self.settings.host,
            labels=self.settings.labels,
            capacity=self.settings.capacity,
            memory_mb=memory,
            available_mb=available,
        )

    def _on_unexpected_exit(self, info: WorkerInfo, reason: str) -> Callable[[], None] | None:
        """The one place that hears of every worker that ended without being asked to: recovery starts here."""
        logs.event(
            logger, logging.ERROR, "worker_lost", reason, account=info.account_id, worker=info.worker_id
        )
        return self._reconciler.restarts.on_exit(info, reason) if self._reconciler is not None else None


def _end(thread: str) -> None:
    """End this agent, one of whose threads has died: the supervisor starts one that is whole."""
    log_lost(thread)
    _exit()


def exit_out_of_files() -> NoReturn:
    """End this agent, which may open no further file and cannot reach Redis for that reason."""
    logs.event(
        logger,
        logging.CRITICAL,
        "out_of_files",
        "this host agent has used up its open files and can reach Redis no more; exiting with code 75 so that the supervisor "
        "starts one with free files. Running workers are not affected. Raise its limit of open files (LimitNOFILE) if this "
        "happens again",
    )
    _exit()


def _exit() -> NoReturn:
    logs.flush()
    os._exit(_DEAF_EXIT)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _machine() -> str:
    """Return what tells this machine from every other, and stays over restarts of processes."""
    return ProcessRef.me().start_time.partition(":")[0] if sys.platform == "linux" else platform.node()
