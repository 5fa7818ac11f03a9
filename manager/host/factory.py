"""A pool of workers from settings: for the host agent, and for a script that wants one without Redis."""

from manager.config import ConfigurationService
from manager.host.held_files import HeldFiles
from manager.host.launcher import make_launcher
from manager.host.leasing import Leases, LocalLeases
from manager.host.pool import OnUnexpectedExit, WorkerPoolManager
from manager.host.reads import PATIENT_SECONDS, BoundedConfiguration, BoundedReads
from manager.host.records import RecordFiles
from manager.host.sinks import RecordSink
from manager.host.starting import Starter, WorkerSurroundings
from manager.host.unrecorded import UnrecordedWorkers
from manager.paths import StatePaths
from manager.settings import Settings
from manager.venue.address import venue_address


def build_pool(
    settings: Settings,
    config_service: ConfigurationService,
    *,
    redis_url: str | None = None,
    sink: RecordSink | None = None,
    leases: Leases | None = None,
    on_unexpected_exit: OnUnexpectedExit | None = None,
    unrecorded: UnrecordedWorkers | None = None,
) -> WorkerPoolManager:
    """Return this machine's pool; without `redis_url` and `sink` its workers report to nobody but the pool itself.

    The state directory must exist (`StatePaths.create`), and nobody else may use it at the same time.
    """
    paths = StatePaths(settings.state_dir)
    records = RecordFiles(paths.workers_dir, HeldFiles(paths.run_dir, paths.home))
    starter = Starter(
        make_launcher(settings.start_method, paths.component_log("launcher")),
        records,
        BoundedConfiguration(config_service, BoundedReads(PATIENT_SECONDS)),
        WorkerSurroundings(
            host=settings.host,
            paths=paths,
            redis_url=redis_url,
            venue_address=lambda: venue_address(settings),
            heartbeat_interval_seconds=settings.heartbeat_interval_seconds,
            log_level=settings.log_level,
            log_json=settings.log_json,
        ),
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
    )
