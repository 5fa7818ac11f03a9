"""The start of Celery's processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from manager.errors import SettingsError
from manager.local.agent import agent_environment, run_agent, shared_settings
from manager.local.flower import run_flower
from manager.local.scheduler import run_scheduler
from manager.settings import Settings, load_settings


@pytest.mark.parametrize("run", [run_agent, run_scheduler, lambda settings: run_flower(settings, 0)])
def test_an_invalid_url_is_rejected_before_celery_starts(
    run: Callable[[Settings], int], short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the error, Celery would replace the process of the test.
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("Celery is started"))
    settings = Settings(redis_url=SecretStr("redis://a:1/0;redis://b:1/0"), state_dir=short_dir)
    with pytest.raises(SettingsError, match="several servers"):
        run(settings)


def test_only_the_agent_gets_the_log_file(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGER_LOG_FILE", str(short_dir / "agent.log"))
    settings = load_settings()
    assert agent_environment(settings)["MANAGER_LOG_FILE"] == str(short_dir / "agent.log")
    assert "MANAGER_LOG_FILE" not in shared_settings(settings), "Flower and the scheduler do not"


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be moved on Windows")
def test_the_agents_log_is_rotated_and_recreated_and_an_error_names_it(short_dir: Path) -> None:
    program = (
        "import logging, sys\nfrom pathlib import Path\nfrom manager.system import logs\n"
        "from tasks.app import _configure_logging\n"
        "log = Path(sys.argv[1])\n_configure_logging()\nsaid = logging.getLogger('manager.x')\n"
        "said.warning('one')\nlogs.flush()\nlog.unlink()\n"
        "for number in range(200): said.warning('%d %s', number, 'x' * 100)\nlogs.flush()\n"
    )
    log = short_dir / "logs" / "agent.log"
    environment = {
        **os.environ,
        "MANAGER_LOG_FILE": str(log),
        "MANAGER_LOG_FILE_BYTES": "10000",
        "MANAGER_LOG_FILES": "2",
    }
    environment["MANAGER_STATE_DIR"] = environment["MANAGER_CONFIG_DIR"] = str(short_dir)
    argv = [sys.executable, "-c", program, str(log)]
    subprocess.run(argv, env=environment, check=True)
    assert sorted(path.name for path in log.parent.iterdir()) == ["agent.log", "agent.log.1"]
    assert "199 x" in log.read_text().splitlines()[-1]

    (short_dir / "file").write_text("in the way")
    environment["MANAGER_LOG_FILE"] = str(short_dir / "file" / "agent.log")
    refused = subprocess.run(argv, env=environment, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert f"MANAGER_LOG_FILE: {short_dir / 'file'}" in refused.stderr
    assert "Traceback" not in refused.stderr
