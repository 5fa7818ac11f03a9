"""Starts the scheduler: Celery beat, which sends housekeeping tasks."""

from manager.local.agent import shared_settings
from manager.settings import Settings
from manager.system.child_process import celery_argv, run_in_place
from manager.system.environment import clean_environment
from manager.system.state_dir import StatePaths


def run_scheduler(settings: Settings) -> int:
    """Run the scheduler in the foreground, in place of this process where possible.

    Two schedulers are harmless, because the tasks that they send are idempotent.
    """
    paths = StatePaths(settings.state_dir)
    paths.create()
    argv = celery_argv(
        *("beat", "--pidfile="),
        *("--schedule", str(paths.root / "schedule"), "--loglevel", settings.log_level),
    )
    return run_in_place(argv, clean_environment(shared_settings(settings)))
