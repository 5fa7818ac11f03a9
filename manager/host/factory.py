"""Builds a pool of workers from settings.

The host agent uses it, and scripts that run without Redis.
"""

from manager.config import ConfigurationService
from manager.gateways.paper.address import venue_address
from manager.host.limits.enforcement import Enforcement
from manager.host.reporting.record_sink import RecordSink
from manager.host.workers.bounded_reads import PATIENT_SECONDS, BoundedConfiguration, BoundedReads
from manager.host.workers.held_files import HeldFiles
from manager.host.workers.launch_builder import WorkerEnvironment
from manager.host.workers.launcher import make_launcher
from manager.host.workers.leases import Leases, LocalLeases
from manager.host.workers.limits import PoolLimits
from manager.host.workers.pool import OnUnexpectedExit, WorkerPoolManager
from manager.host.workers.records import RecordFiles
from manager.host.workers.runs import RunRecorder
from manager.host.workers.starter import Starter
from manager.host.workers.unrecorded import UnrecordedWorkers
from manager.settings import Settings
from manager.system.state_dir import StatePaths


def build_pool(
    settings: Settings,
    config_service: ConfigurationService,
    *,
    redis_url: str | None = None,
    sink: RecordSink | None = None,
    leases: Leases | None = None,
    on_unexpected_exit: OnUnexpectedExit | None = None,
    unrecorded: UnrecordedWorkers | None = None,
    limits: PoolLimits | None = None,
    runs: RunRecorder | None = None,
    enforcement: Enforcement | None = None,
) -> WorkerPoolManager:
    """Return this machine's pool of workers.

    Without `redis_url` and `sink` the workers report to the pool alone. The state directory must exist
    (`StatePaths.create`), and no other pool may use it at the same time.
    """
    paths = StatePaths(settings.state_dir)
    records = RecordFiles(paths.workers_dir, HeldFiles(paths.run_dir, paths.home))
    starter = Starter(
        make_launcher(settings.start_method, paths.component_log("launcher")),
        records,
        BoundedConfiguration(config_service, BoundedReads(PATIENT_SECONDS)),
        WorkerEnvironment(
            host=settings.host,
            paths=paths,
            redis_url=redis_url,
            venue_address=lambda: venue_address(settings),
            heartbeat_interval_seconds=settings.heartbeat_interval_seconds,
            log_level=settings.log_level,
            log_json=settings.log_json,
            log_file_bytes=settings.log_file_bytes,
            log_files=settings.log_files,
        ),
        limits,
        runs=runs,
        enforcement=enforcement,
    )
    return WorkerPoolManager(
        starter,
        records,
        sink=sink,
        stale_after_seconds=settings.stale_after_seconds,
        leases=leases or LocalLeases(settings.host),
        logins_per_second=settings.logins_per_second,
        on_unexpected_exit=on_unexpected_exit,
        unrecorded=unrecorded,
        limits=limits,
    )
