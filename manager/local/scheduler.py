"""How the scheduler is started: Celery's own, which sends what is due and does nothing itself."""

from manager.local.agent import shared_settings
from manager.settings import Settings
from manager.system.child_process import celery_argv, run_in_place
from manager.system.environment import clean_environment
from manager.system.state_dir import StatePaths


def run_scheduler(settings: Settings) -> int:
    """Run the scheduler in the foreground, in this process's place where the system allows that.

    Two of them do no harm: what they send may be done twice.
    """
    paths = StatePaths(settings.state_dir)
    paths.create()
    argv = celery_argv(
        *("beat", "--pidfile="),
        *("--schedule", str(paths.root / "schedule"), "--loglevel", settings.log_level),
    )
    return run_in_place(argv, clean_environment(shared_settings(settings)))
