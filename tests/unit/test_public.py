"""The public interface: names, start-up of the CLI, settings, the gate."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import manager
from manager.errors import SettingsError
from manager.settings import load_settings
from manager.system.state_dir import StatePaths

ROOT = Path(__file__).resolve().parents[2]

NAMES = [
    "__version__",
    "get_worker_manager_service",
    "WorkerManagerService",
    "WorkerPoolManager",
    "WorkerCreationRequest",
    "WorkerInfo",
    "ValidationResult",
    "BatchResult",
    "WorkerLifecycleStatus",
    "WorkerHealth",
    "Selection",
    "AccountConfig",
    "ConfigurationService",
    "AccountConfigurationValidator",
    "ManagerError",
    "AccountNotFoundError",
    "InvalidConfigError",
    "NoWorkerError",
    "StartFailedError",
    "StopFailedError",
    "HostUnavailableError",
    "FleetUnavailableError",
    "CommandTimeoutError",
]


def test_the_public_names_are_pinned_and_exist() -> None:
    assert manager.__all__ == NAMES
    for name in NAMES:
        assert getattr(manager, name) is not None
    assert set(NAMES) <= set(dir(manager))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = manager.nope


def test_the_tasks_and_their_names_are_pinned() -> None:
    from tasks.app import app

    app.loader.import_default_modules()
    assert sorted(name for name in app.tasks if name.startswith("tasks.")) == [
        "tasks.get_worker_info",
        "tasks.pause_all_workers",
        "tasks.pause_worker",
        "tasks.restart_all_workers",
        "tasks.restart_worker",
        "tasks.resume_all_workers",
        "tasks.resume_worker",
        "tasks.self_test",
        "tasks.start_all_enabled_workers",
        "tasks.start_worker",
        "tasks.stop_all_workers",
        "tasks.stop_worker",
        "tasks.tidy",
        "tasks.validate_all_configs",
        "tasks.validate_config",
        "tasks.validate_configs",
    ]


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "HOME": "/nonexistent", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["start", "--help"], ["up", "--help"], ["token", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from manager.cli import main\n"
        f"sys.argv = ['manager', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'celery', 'kombu', 'redis', 'pydantic', 'flower', 'rich', 'ruamel', 'yaml_rs',\n"
        " 'fastapi', 'starlette', 'uvicorn', 'msgspec'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert "manager" in python(code)


def test_every_command_of_the_contract_is_there() -> None:
    text = python("import sys; from manager.cli import main; sys.argv = ['manager', '--help']; main()")
    for command in (
        *("up", "init", "host", "start", "stop", "restart", "start-all", "stop-all"),
        *("validate", "ps", "info", "events", "logs", "doctor"),
    ):
        assert re.search(rf"^  {command}\s", text, re.MULTILINE), command


def test_wrong_usage_is_exit_code_2() -> None:
    for arguments in (["nope"], ["start"], ["stop", "a", "--timeout", "soon"]):
        done = subprocess.run(
            [sys.executable, "-m", "manager.cli", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, arguments
        assert "Usage:" in done.stderr


def test_shell_completion_offers_accounts(tmp_path: Path) -> None:
    (tmp_path / "accounts").mkdir()
    for name in ("gold-1", "gold-2", "fx"):
        (tmp_path / "accounts" / f"{name}.yaml").write_text("")
    done = python(
        "from manager.cli.main import cli; cli.main(prog_name='manager')",
        _MANAGER_COMPLETE="bash_complete",
        COMP_WORDS="manager start go",
        COMP_CWORD="2",
        MANAGER_CONFIG_DIR=str(tmp_path),
        MANAGER_STATE_DIR=str(tmp_path / "s"),
    )
    assert [line.partition(",")[2] for line in done.split()] == ["gold-1", "gold-2"]


def test_a_bad_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGER_AGENT_THREADS", "4")
    monkeypatch.setenv("MANAGER_HOST", "a b")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "MANAGER_AGENT_THREADS" in str(caught.value)
    assert "MANAGER_HOST: a host's name is 1 to 63" in str(caught.value)


def test_a_state_directory_that_leaves_no_room_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="set MANAGER_STATE_DIR to a shorter one"):
        StatePaths(tmp_path / ("x" * 100)).create()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_the_state_directory_is_made_private(short_dir: Path) -> None:
    (short_dir / "s").mkdir(mode=0o755)
    paths = StatePaths(short_dir / "s")
    paths.create()
    assert {
        (p.stat().st_mode & 0o777) for p in (paths.root, paths.run_dir, paths.logs_dir, paths.redis_dir)
    } == {0o700}


def test_the_readme_has_the_two_commands_that_the_gate_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(re.findall(r"^python3 -m venv .*/manager up --demo$", readme, re.MULTILINE)) == 1
    assert len(re.findall(r"^python3 -m venv .* -m pytest -n 3$", readme, re.MULTILINE)) == 1


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "benchmarks/README.md",
    ]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} → {target}"
