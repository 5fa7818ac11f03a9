"""The program settings of an account file reach the program."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.pool_host import Host
from support.waiting import eventually

from manager.errors import InvalidConfigError, StartFailedError

if sys.platform == "win32":
    pytest.skip("shell programs", allow_module_level=True)

DEFAULTS = """\
gateway: command
command: [/bin/sh, -c, 'env >env; umask >umask; id -u >uid; echo "$@" >arguments; echo "key $API_KEY"; echo
"up $1"; exec sleep 60',
  bot, "{account_id}", "{server} x", '{"login": {login}, "rate": 0.50}', 8080]
directory: "{state_dir}/work"
ready: {line: "up {account_id}"}
stop: {deadline_seconds: 5}
environment: {LEVEL: 5, WHERE: "{state_dir}"}
environment_file: "secrets/{account_id}.env"
umask: "027"
"""


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    found.settings.config_dir.joinpath("defaults.yaml").write_text(DEFAULTS)
    found.settings.config_dir.joinpath("secrets").mkdir()
    yield found
    found.close()


def bot(host: Host, account_id: str, login: int, text: str = "") -> Path:
    """Write an account file of three lines.

    Returns the account's state directory.
    """
    config_dir = host.settings.config_dir
    (config_dir / "accounts" / f"{account_id}.yaml").write_text(f"login: {login}\nserver: Demo 1\n{text}")
    secrets = config_dir / "secrets" / f"{account_id}.env"
    secrets.write_text(f"API_KEY=the-key-of-{account_id}\nLEVEL=1\n")
    secrets.chmod(0o600)
    return host.paths.root / "accounts" / account_id


def holds(path: Path, text: str) -> bool:
    return text in path.read_text()


def environment(state: Path) -> dict[str, str]:
    lines = (state / "work" / "env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_two_bots_of_one_defaults_file_are_two_programs(host: Host) -> None:
    for number in (1, 2):
        account_id = f"bot-{number}"
        state = bot(host, account_id, 5000 + number)
        assert host.service.validate_config(account_id).errors == ()
        info = host.start(account_id)
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        arguments = (state / "work" / "arguments").read_text()
        assert arguments == f'{account_id} Demo 1 x {{"login": {5000 + number}, "rate": 0.50}} 8080\n'
        assert (state / "work" / "umask").read_text() == "0027\n"
        found = environment(state)
        assert (found["LEVEL"], found["WHERE"]) == ("5", str(state))
        assert found["API_KEY"] == f"the-key-of-{account_id}"
        # Only the file and the program have its value.
        log = host.paths.worker_log(account_id)
        eventually(partial(holds, log, "key ***"), what="the line is in the log")
        assert "the-key-of" not in log.read_text() + json.dumps(info.to_dict())
        for path in (*host.paths.workers_dir.iterdir(), *host.paths.run_dir.iterdir()):
            if path.is_file():
                assert "the-key-of" not in path.read_text(errors="replace")
    # A deleted state directory is created again at the next start; an existing one keeps its files.
    (host.paths.root / "accounts" / "bot-1" / "kept").touch()
    shutil.rmtree(host.paths.root / "accounts" / "bot-2")
    for account_id in ("bot-1", "bot-2"):
        host.process(host.service.restart_worker(account_id))
    assert (host.paths.root / "accounts" / "bot-1" / "kept").exists()
    assert (host.paths.root / "accounts" / "bot-2" / "work" / "env").exists()
    assert host.service.stop_all_workers() == 2


def test_without_the_placeholder_no_directory_is_created(host: Host) -> None:
    bot(host, "a", 1, "directory: .\nenvironment: {WHERE: x}\n")
    host.start()
    assert not host.paths.accounts_dir.exists()


def test_a_start_without_validation_is_rejected_with_the_same_text(host: Host) -> None:
    bot(host, "a", 1, "environment: {WHERE: '{password}'}\n")
    with pytest.raises(InvalidConfigError, match=r"environment\.WHERE: a password is never filled in"):
        host.service.start_worker_from_config("a", validate=False)
    bot(host, "a", 1, "user: no-such-user\n")
    with pytest.raises(StartFailedError, match="'no-such-user' is not a user of this host"):
        host.service.start_worker_from_config("a", validate=False)
    (host.settings.config_dir / "secrets" / "a.env").write_text("A='\n")
    with pytest.raises(ValueError, match=r"environment_file: .*a\.env:1: A: the quote ' is not closed"):
        host.service.start_worker_from_config("a", validate=False)
    assert list(host.paths.run_dir.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as another user")
def test_a_program_of_another_user_can_read_only_its_own_files(host: Host, short_dir: Path) -> None:
    import pwd

    for directory in (short_dir, host.settings.config_dir):
        directory.chmod(0o755)
    nobody = pwd.getpwnam("nobody")
    script = (
        'cat "$MANAGER_CREDENTIALS_FILE" >credentials; for d in "$1" "$1/run" "$1/workers" '
        '"$1/logs"; do ls "$d"; done; '
        'cat "$1/id" "$1"/run/*.note; echo "over"; exec sleep 60'
    )
    state = bot(
        host,
        "a",
        1,
        f"user: nobody\npassword: hunter2-hunter2\nready: {{line: over}}\n"
        f"command: [/bin/sh, -c, '{script}', bot, '{host.paths.root}']\n",
    )
    host.start()
    assert (state.stat().st_uid, (state / "work").stat().st_uid) == (nobody.pw_uid, nobody.pw_uid)
    assert json.loads((state / "work" / "credentials").read_text())["password"] == "hunter2-hunter2"
    log = host.paths.worker_log("a")
    assert log.stat().st_uid == 0
    # The program's errors come by another pipe than its line "over".
    eventually(lambda: "/id: Permission denied" in log.read_text(), what="the errors are logged")
    for name in ("", "/run", "/workers", "/logs"):
        assert f"'{host.paths.root}{name}': Permission denied" in log.read_text()
    # An agent that starts meanwhile keeps the directories of that user accessible, and all others closed.
    host.paths.create()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (host.paths.root, host.paths.run_dir, log.parent)]
    assert modes == [0o711, 0o711, 0o700]
    host.paths.root.chmod(0o755)
    host.paths.create()
    assert stat.S_IMODE(host.paths.root.stat().st_mode) == 0o700
    host.service.stop_worker("a")
    assert list(host.paths.run_dir.iterdir()) == []
