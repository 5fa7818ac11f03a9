"""The host agent.

It is the pool, the reconciler and the publisher inside a host's Celery worker.
"""

import logging
import os
import threading
from collections.abc import Callable

from manager.change.rollout_store import RolloutStore
from manager.config import ConfigurationService
from manager.config.exchanges import ExchangeCalendars
from manager.errors import FleetUnavailableError, HostAgentError
from manager.fleet import FleetStore, fleet_url
from manager.fleet.approvals import ApprovalStore
from manager.fleet.audit import AuditTrail
from manager.fleet.desired import DRAIN
from manager.fleet.desired_store import DesiredStore
from manager.fleet.event_types import Cause
from manager.fleet.host_events import HostAnnouncer
from manager.fleet.leases import LeaseStore
from manager.fleet.overrides import OverrideStore
from manager.fleet.run_types import SHUTDOWN, RunCause
from manager.fleet.runs import RunStore
from manager.host.agent_report import AgentReport, machine_id
from manager.host.commands import HostCommands
from manager.host.exits import exit_name_lost, exit_out_of_files, exit_self_test_failed, exit_thread_lost
from manager.host.factory import build_pool
from manager.host.limits.enforcement import Enforcement, find_mechanism
from manager.host.local_control import LocalControl
from manager.host.name_claim import NameClaim, refuse_live_namesake
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.reconcile.drain_state import DrainState
from manager.host.reconcile.factory import build_reconciler
from manager.host.reconcile.overrides import OverrideCache
from manager.host.reconcile.reconciler import Reconciler, ReportStop
from manager.host.reconcile.stop_notes import PendingStops, StopNotes
from manager.host.reporting.audit_writer import AuditWriter
from manager.host.reporting.publisher import Publisher
from manager.host.reporting.run_spool import RunSpool
from manager.host.reporting.run_writer import RunWriter
from manager.host.reporting.self_test import SelfTest, SelfTestSender
from manager.host.reporting.upkeep import StateUpkeep
from manager.host.routing import Router
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.held_files import HeldFiles
from manager.host.workers.pool import WorkerPoolManager
from manager.host.workers.runs import RunRecorder
from manager.host.workers.unrecorded import UnrecordedWorkers
from manager.models import WorkerInfo
from manager.pool.start_requests import StartRequestFactory
from manager.settings import Settings
from manager.system import logs
from manager.system.essential_threads import EssentialThread, ThreadGuard
from manager.system.file_lock import FileLock
from manager.system.state_dir import StatePaths
from manager.system.storage import explain
from manager.validation import AccountConfigurationValidator
from manager.versions import __version__

logger = logging.getLogger(__name__)


class HostAgent:
    """Owns the host's pool between `start` and `close`.

    Running workers are adopted and left running.
    """

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
        self._guard = ThreadGuard(self._threads, exit_thread_lost)
        self._report = AgentReport(settings, config_service, self.self_test, self._guard)
        self._self_test_sender: SelfTestSender | None = None
        self._answer: ReportStop = answer or (lambda _token, _outcome: None)
        self.paths = StatePaths(settings.state_dir)
        self.config_service = config_service
        self.validator = AccountConfigurationValidator(self.config_service)
        self.store = FleetStore(fleet_url(settings), stale_after_seconds=settings.stale_after_seconds)
        self.audit_writer = AuditWriter(AuditTrail(self.store.url), settings.host)
        self._runs: RunWriter | None = None
        self._run_recorder: RunRecorder | None = None
        self._lock = FileLock(self.paths.agent_lock)
        self._name: NameClaim | None = None
        self._pool: WorkerPoolManager | None = None
        self._publisher: Publisher | None = None
        self._reconciler: Reconciler | None = None
        self._leases: FleetLeases | None = None
        self._commands: HostCommands | None = None
        self._local: LocalControl | None = None

    @property
    def commands(self) -> HostCommands:
        """The commands that tasks call.

        Raises HostAgentError before `start` and after `close`.
        """
        if self._commands is None:
            raise HostAgentError("this host agent is not started and carries out no commands")
        return self._commands

    @property
    def pool(self) -> WorkerPoolManager:
        """The pool. Raises HostAgentError before `start` and after `close`."""
        if self._pool is None:
            raise HostAgentError("this host agent is not started and has no pool of workers yet")
        return self._pool

    def start(self) -> None:
        """Become this host's agent and adopt running workers.

        Raises HostAgentError if the host has another agent.
        """
        settings = self.settings
        self._take_state_dir()
        try:
            self._name = name = NameClaim(
                self.store.url, settings.host, self.paths.home, machine_id(), self._on_name_lost
            )
            name.take()
            refuse_live_namesake(self.store, settings.host, machine_id())
            name.start()
            self._publisher = Publisher(
                self.store,
                settings.host,
                self._report.describe,
                self._all_records,
                self._settle,
                cause=self._cause,
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
            self._runs = RunWriter(RunStore(self.store.url), settings.host, RunSpool(self.paths.runs_dir))
            self._run_recorder = RunRecorder(self._runs, settings.host, self._end_cause)
            self._report.mechanism = mechanism = find_mechanism(settings.limits)
            enforcement = Enforcement(mechanism)
            self._pool = self._report.pool = pool = build_pool(
                settings,
                self.config_service,
                redis_url=self.store.url,
                sink=self._publisher,
                leases=leases,
                on_unexpected_exit=self._on_unexpected_exit,
                unrecorded=unrecorded,
                runs=self._run_recorder,
                enforcement=enforcement,
            )
            desired = DesiredStore(self.store.url)
            desired_state_file = DesiredStateFile(self.paths.root / "desired.json")
            account_files = BoundedConfiguration(self.config_service)
            pending_stops = PendingStops(StopNotes(self.paths.stops_dir))
            self._reconciler = self._report.reconciler = reconciler = build_reconciler(
                host=settings.host,
                pool=pool,
                start_requests=StartRequestFactory(self.config_service, self.validator),
                config_service=account_files,
                desired=desired,
                desired_cache=DesiredStateCache(settings.host, desired, desired_state_file),
                store=self.store,
                leases=leases,
                drain_state=DrainState(settings.host, self.store, self.paths.root / "drain.json"),
                overrides=OverrideCache(OverrideStore(self.store.url), self.paths.root / "overrides.json"),
                approvals=ApprovalStore(self.store.url),
                rollouts=RolloutStore(self.store.url),
                reload_seconds=settings.reload_seconds,
                calendars=ExchangeCalendars(self.paths.root / "calendars"),
                pending_stops=pending_stops,
                enforcement=enforcement,
                facts=self._report.facts,
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
                announcer=HostAnnouncer(self.store),
                ready=name.ensure,
            )
            restorers = (
                pool.restore_records,
                reconciler.desired_cache.restore_file,
                reconciler.drain_state.restore_file,
            )
            self._report.upkeep = upkeep = StateUpkeep(self.paths, self._lock, restorers, self._on_name_lost)
            self._local = local = LocalControl(
                settings.host,
                self.paths,
                pool,
                reconciler,
                pending_stops,
                self.audit_writer.note,
                upkeep.check,
            )
            upkeep.add(local.restore_files)
            # Before adoption: a worker that ended while there was no agent may have ended by a stop, which is
            # not a failure.
            reconciler.desired_cache.read()
            noted = pending_stops.accounts()
            adopted = pool.adopt(lambda key: key in noted or reconciler.desired_cache.should_be_stopped(key))
            self._publisher.start()
            self.audit_writer.start()
            self._runs.start()
            local.take_notes()  # before any worker is started
            reconciler.start()
            local.start()
            self._publisher.announce()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._preload, name="preload", daemon=True).start()
        if self._send_self_test is not None:
            self._self_test_sender = SelfTestSender(
                self.self_test,
                self._send_self_test,
                on_failed=exit_self_test_failed,
                on_out_of_files=exit_out_of_files,
            )
            self._self_test_sender.start()
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

    def _take_state_dir(self) -> None:
        """Become the only agent of the state directory. Raises HostAgentError."""
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

    def close(self, *, clean: bool = False) -> None:
        """Stop being the agent.

        Workers keep trading, and the next agent adopts them. Idempotent. Workers are stopped first only if
        `stop_workers_on_exit` is set and the exit is `clean`. Desired state does not change, so the next
        agent starts them again.
        """
        self._commands = None
        if self._self_test_sender is not None:
            self._self_test_sender.close()
        self._guard.close()
        if self._local is not None:
            self._local.close()
            self._local = None
        if self._reconciler is not None:
            self._reconciler.close()  # no worker is restarted after this
            self._reconciler = None
        if self._pool is not None and clean and self.settings.stop_workers_on_exit:
            self._stop_workers(self._pool)
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
            logs.event(logger, logging.INFO, "agent_stopped", host=self.settings.host)
        self.audit_writer.close()
        if self._runs is not None:
            self._runs.close()
            self._runs = None
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

    def _on_name_lost(self, reason: str) -> None:
        self._commands = None
        exit_name_lost(reason)

    def _settle(self) -> None:
        """Correct records in Redis of workers that this host no longer has.

        Raises FleetUnavailableError.
        """
        pool, reconciler = self._pool, self._reconciler
        if pool is not None and reconciler is not None:
            pool.detect_unrecorded()
            known = {info.account_id for info in pool.queries.records()}
            stopped = reconciler.desired_cache.should_be_stopped
            for info in self.store.settle(self.settings.host, known, stopped):
                if self._run_recorder is not None:
                    self._run_recorder.ended_without_record(info, observed=False)

    def _cause(self, info: WorkerInfo) -> Cause:
        """Return the command that led to a worker's record."""
        reconciler = self._reconciler
        desired = None if reconciler is None else reconciler.desired_cache.get(info.account_id)
        return Cause() if desired is None else desired.cause_of(info)

    def _end_cause(self, account_id: str, generation: int) -> RunCause:
        """Return who asked that the worker of this generation ends, and why."""
        reconciler = self._reconciler
        if reconciler is None:
            return RunCause(why=SHUTDOWN)  # `stop_workers_on_exit`
        desired, drain = reconciler.desired_cache.get(account_id), reconciler.drain_state.request
        if desired is not None and not (desired.running and desired.generation <= generation):
            return RunCause(desired.by, desired.why, desired.token, desired.at)
        return RunCause(drain.by, DRAIN) if drain is not None and drain.active else RunCause()

    def _note_unrecorded(self) -> bool:
        """Record workers that run without a record.

        Returns whether none is left to check again.
        """
        try:
            return self._pool is None or not self._pool.detect_unrecorded()
        except FleetUnavailableError:
            return False

    def _all_records(self) -> list[WorkerInfo]:
        """Return every record, for a Redis that lost some.

        Before that it releases again the leases that Redis may have restored.
        """
        if self._leases is not None:
            self._leases.repeat_releases()
        return [] if self._pool is None else self._pool.queries.records()

    def _preload(self) -> None:
        if self._pool is not None:
            self._pool.preload()

    def _threads(self) -> list[EssentialThread]:
        """Return every thread whose death makes this agent useless."""
        found = [self.audit_writer.thread]
        if self._publisher is not None:
            found.append(self._publisher.thread)
        if self._runs is not None:
            found.append(self._runs.thread)
        if self._pool is not None:
            found += self._pool.threads
        if self._reconciler is not None:
            found += self._reconciler.threads
        if self._self_test_sender is not None:
            found.append(self._self_test_sender.thread)
        return found

    def _on_unexpected_exit(self, info: WorkerInfo, reason: str) -> Callable[[], None] | None:
        """Log a worker that exited unexpectedly.

        Returns what schedules its restart, or None.
        """
        if info.placement.ended_by_limit is None:
            logs.event(
                logger, logging.ERROR, "worker_lost", reason, account=info.account_id, worker=info.worker_id
            )
        return self._reconciler.restarts.on_exit(info, reason) if self._reconciler is not None else None
