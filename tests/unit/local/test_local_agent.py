"""What starts Celery's own processes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from manager.errors import SettingsError
from manager.local.agent import run_agent
from manager.local.flower import run_flower
from manager.local.scheduler import run_scheduler
from manager.settings import Settings


@pytest.mark.parametrize("run", [run_agent, run_scheduler, lambda settings: run_flower(settings, 0)])
def test_a_url_that_cannot_be_used_is_refused_before_celery_starts(
    run: Callable[[Settings], int], short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the refusal the test's process would become Celery's.
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("Celery is started"))
    settings = Settings(redis_url=SecretStr("redis://a:1/0;redis://b:1/0"), state_dir=short_dir)
    with pytest.raises(SettingsError, match="several servers"):
        run(settings)
