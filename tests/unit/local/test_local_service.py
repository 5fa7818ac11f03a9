"""Files of the service: what systemd and a shell read, and what the documentation shows."""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from manager.errors import ComponentError, SettingsError
from manager.local import service
from manager.local.service import (
    ServiceFile,
    ServicePlan,
    install,
    require_paths,
    systemd_plan,
    uninstall,
    windows_plan,
)
from manager.local.service_unit import Runs, UnitPlan, environment_text, unit_text
from manager.settings import load_settings

DOCS = Path(__file__).parents[3] / "docs" / "howto" / "service.md"
ODD = ["plain", "with space", "100% real", "a$b", "semi;colon", "zürich"]


def unit(
    program: str, environment_file: str = "/etc/w.env", runs: Runs = "host", user: str = "trading"
) -> str:
    return unit_text(
        UnitPlan(
            name="worker-manager",
            runs=runs,
            argv=[program, runs],
            environment_file=Path(environment_file),
            user=user,
        )
    )


def test_the_documentation_shows_what_the_command_prints() -> None:
    text = unit("/opt/worker-manager/.venv/bin/manager", "/etc/worker-manager.env")
    assert f"```ini\n# /etc/systemd/system/worker-manager.service\n{text}```" in DOCS.read_text()


def test_a_restart_of_the_agent_stops_no_worker() -> None:
    lines = unit("/m").splitlines()
    for line in ("KillMode=process", "Delegate=yes", "OOMPolicy=continue", "Restart=always"):
        assert line in lines
    assert "StartLimitIntervalSec=0" in lines[: lines.index("[Service]")], "systemd reads it only in [Unit]"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
@pytest.mark.parametrize("runs", ["host", "up"])
@pytest.mark.parametrize("user", ["root", ""])
def test_systemd_accepts_the_unit(tmp_path: Path, runs: Runs, user: str) -> None:
    for name in ODD:
        program = tmp_path / name / "manager"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        (program.parent / "w.env").write_text("")
        file = tmp_path / "worker-manager.service"
        file.write_text(unit(str(program), str(program.parent / "w.env"), runs, user))
        done = subprocess.run(
            ["systemd-analyze", "verify", *([] if user else ["--user"]), str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            check=False,
        )
        # Systemd before 254 does not know this key, and ignores it.
    warnings = [line for line in done.stderr.splitlines() if "Unknown key 'DelegateSubgroup'" not in line]
    assert (done.returncode, warnings) == (0, [])


def test_words_that_systemd_would_expand() -> None:
    argv = ["/a b/100%/$x/manager", "up", "--name=$HOME 5%", 'say "hi"\\']
    text = unit_text(UnitPlan(name="w", runs="up", argv=argv, environment_file=Path("/e 5%/w.env")))
    assert 'ExecStart="/a b/100%%/$x/manager" up "--name=$$HOME 5%%" "say \\"hi\\"\\\\"\n' in text
    assert "EnvironmentFile=/e 5%%/w.env\n" in text
    for bad in ('/do"uble/m', "/b\\ack/m", "/s'ingle/m", "/new\nline/m", "relative/m"):
        with pytest.raises(SettingsError):
            unit(bad)
    with pytest.raises(SettingsError, match="service name"):
        unit_text(UnitPlan(name="../x", runs="host", argv=["/m"], environment_file=Path("/e")))


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_a_shell_reads_the_environment_file(tmp_path: Path) -> None:
    values = {"A": 'redis://:p"w$HOME`id`\\@h/0', "B": "a b'c #d", "C": "100%"}
    file = tmp_path / "w.env"
    file.write_text(environment_text(values))
    done = subprocess.run(
        ["/bin/sh", "-ac", '. "$0"; printf "%s\\n" "$A" "$B" "$C"', str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == list(values.values())


def test_a_dry_run_masks_the_password_that_the_file_contains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANAGER_REDIS_URL", "redis://trading:hunter2@127.0.0.1:7000/0")
    monkeypatch.setenv("MANAGER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("MANAGER_FLOWER_AUTH_FILE", "users")
    monkeypatch.setenv("MANAGER_CORE_LIMIT", "0")
    plans = [
        systemd_plan(load_settings(), ["/m", "host"], "host", "w", "user", None),
        windows_plan(load_settings(), ["C:\\m.exe", "host"], "w", "trading"),
    ]
    for plan in plans:
        assert any("hunter2" in file.text for file in plan.files)
        assert not any("hunter2" in (file.shown or file.text) for file in plan.files)
        (environment,) = [file.text for file in plan.files if "hunter2" in file.text]
        assert str(Path("users").absolute()) in environment, "the service runs in another directory"
        assert "MANAGER_CORE_LIMIT" not in environment


def test_user_unit_and_system_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGER_STATE_DIR", str(tmp_path))
    mine = systemd_plan(load_settings(), ["/m", "host"], "host", "w", "user", None)
    assert mine.install[-1] == ["systemctl", "--user", "enable", "--now", "w.service"]
    assert "User=" not in mine.files[1].text
    assert "WantedBy=default.target" in mine.files[1].text
    assert any("loginctl enable-linger" in hint for hint in mine.hints)
    system = systemd_plan(load_settings(), ["/m", "host"], "host", "w", "system", "trading")
    assert system.files[1].path == Path("/etc/systemd/system/w.service")
    assert "User=trading\n" in system.files[1].text
    monkeypatch.delenv("MANAGER_STATE_DIR")
    with pytest.raises(SettingsError, match="set MANAGER_CONFIG_DIR and MANAGER_STATE_DIR"):
        require_paths(system.user)
    require_paths(mine.user)


def a_plan(tmp_path: Path) -> ServicePlan:
    return ServicePlan(
        "w",
        [
            ServiceFile(tmp_path / "etc" / "w.env", "A=1\n", keep=True),
            ServiceFile(tmp_path / "units" / "w.service", "unit\n"),
        ],
        [["true"], ["true", "enable"]],
        [["true", "disable"], ["true"]],
        ["true"],
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a program `true`")
def test_an_edited_environment_file_is_kept(tmp_path: Path) -> None:
    plan = a_plan(tmp_path)
    assert install(plan) == [
        f"wrote {plan.files[0].path}",
        f"wrote {plan.files[1].path}",
        "ran true",
        "ran true enable",
    ]
    environment = plan.files[0].path
    assert environment.stat().st_mode & 0o777 == 0o600
    environment.write_text("A=2\n")
    assert install(plan)[0] == f"kept {environment}, which already exists"
    assert uninstall(plan) == ["ran true disable", f"removed {plan.files[1].path}", "ran true"]
    assert environment.read_text() == "A=2\n"
    assert uninstall(plan) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a program `false`")
def test_a_command_that_fails_or_is_missing_is_one_error(tmp_path: Path) -> None:
    plan = a_plan(tmp_path)
    failing = ServicePlan("w", plan.files, [["false", "x"]], [], [])
    with pytest.raises(ComponentError, match="false x ended with code 1"):
        install(failing)
    missing = ServicePlan("w", [ServiceFile(tmp_path / "no", "x")], [["no-such-systemctl"]], [], [])
    with pytest.raises(ComponentError, match="no-such-systemctl is not installed"):
        install(missing)
    assert not (tmp_path / "no").exists(), "nothing is written before the check"


def test_the_windows_task_restarts_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("MANAGER_NOTE", "100%")
    plan = windows_plan(load_settings(), ["C:\\Program Files\\m.exe", "host"], "w", "DESK\\a & b")
    script, task = plan.files
    lines = script.text.split("\r\n")
    assert 'set "MANAGER_NOTE=100%%"' in lines
    again = lines.index(":again")
    assert lines[again + 1].startswith('"C:\\Program Files\\m.exe" host >> ')
    assert lines[-2] == "goto again"
    root = ET.fromstring(task.text.partition("\n")[2])
    found = {element.tag.partition("}")[2]: element.text for element in root.iter()}
    assert found["UserId"] == "DESK\\a & b"
    assert found["ExecutionTimeLimit"] == "PT0S"
    assert found["Arguments"] == f'/d /c ""{script.path}""'
    assert plan.install[0][:3] == ["schtasks", "/Create", "/TN"]
    assert service.shown_command(plan.uninstall[0]) == "schtasks /Delete /TN w /F"
    monkeypatch.setenv("MANAGER_NOTE", 'x="y')
    with pytest.raises(SettingsError):
        windows_plan(load_settings(), ["m"], "w", "u")
