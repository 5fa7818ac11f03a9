"""Programs of another user: their access, and that no process outlives the worker."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from support.configs import Directory
from support.programs import last_line
from support.waiting import eventually

from manager.config.models import ReadyConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.base import ForcedEnd, InvalidRequest, VenueNotFound
from manager.gateways.command.gateway import CommandGateway
from manager.gateways.command.program import marked
from manager.gateways.command.program_user import ProgramUserError, program_user
from manager.system.processes import ProcessRef

if sys.platform == "win32":
    pytest.skip("Windows has no such users", allow_module_level=True)
assert sys.platform != "win32"

import grp  # noqa: E402
import pwd  # noqa: E402

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="only root can run a program as another user"
)
NOBODY = pwd.getpwnam("nobody")
#: The program's interpreter. The tests' own may be in a directory that only root can enter.
PYTHON = "/usr/bin/python3"


@pytest.fixture
def place(short_dir: Path) -> Path:
    """Return a directory that all users may enter, such as /var/lib."""
    short_dir.chmod(0o755)
    return short_dir


@pytest.fixture
def make(place: Path) -> Iterator[Callable[..., CommandGateway]]:
    made: list[CommandGateway] = []

    def maker(command: tuple[str, ...], **changes: Any) -> CommandGateway:
        data: dict[str, Any] = {
            "account_id": "a",
            "worker_id": f"w-user-{os.getpid()}-{len(made)}",
            "private_dir": place / "private",
            "directory": place,
            "command": command,
            "user": "nobody",
            "ready": ReadyConfig(line="ready"),
            "stop": StopConfig(deadline_seconds=5),
        }
        made.append(CommandGateway(GatewayOptions(**{**data, **changes})))
        return made[-1]

    yield maker
    for gateway in made:
        with contextlib.suppress(ForcedEnd):
            gateway.disconnect()


Make = Callable[..., CommandGateway]


def soon() -> float:
    return time.monotonic() + 15


@as_root
def test_the_program_is_that_user_with_its_groups_and_home(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    monkeypatch.setenv("TMPDIR", "/var/root-tmp")
    show = (
        "echo $(id -u) $(id -g) $(id -G) $HOME $USER $LOGNAME ${XDG_RUNTIME_DIR-no} ${TMPDIR-no} "
        "$(umask) ready; sleep 60"
    )
    gateway = make(("/bin/sh", "-c", show), umask=0o027)
    gateway.connect(soon())
    groups = " ".join(map(str, os.getgrouplist("nobody", NOBODY.pw_gid)))
    expected = f"{NOBODY.pw_uid} {NOBODY.pw_gid} {groups} {NOBODY.pw_dir} nobody nobody no no 0027 ready"
    assert last_line(gateway) == expected
    assert gateway._program is not None
    status = Path(f"/proc/{gateway._program.pid}/status").read_text()
    assert f"Uid:\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}" in status


@as_root
def test_a_group_alone_and_an_own_home_in_the_environment(make: Make) -> None:
    group = grp.getgrnam("daemon")
    show = "echo $(id -u) $(id -g) $HOME ready; sleep 60"
    gateway = make(("/bin/sh", "-c", show), user=None, group="daemon", environment={"HOME": "/own"})
    gateway.connect(soon())
    assert last_line(gateway) == f"0 {group.gr_gid} /own ready"


@as_root
def test_with_failover_it_cannot_become_root_again(make: Make) -> None:
    show = "grep -c 'NoNewPrivs:.1' /proc/self/status; echo $(id -u) ready; sleep 60"
    gateway = make(("/bin/sh", "-c", show), failover=True)
    gateway.connect(soon())
    assert last_line(gateway) == f"{NOBODY.pw_uid} ready"
    assert gateway._program is not None
    status = Path(f"/proc/{gateway._program.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status


@as_root
def test_only_the_program_can_read_its_credentials_and_write_its_state(make: Make, place: Path) -> None:
    state = place / "accounts" / "a"
    place.joinpath("accounts").mkdir(mode=0o711)
    place.joinpath("accounts").chmod(0o711)
    read = (
        "import json, os, socket\n"
        "print(json.load(open(os.environ['MANAGER_CREDENTIALS_FILE']))['login'], os.getcwd())\n"
        "open('note', 'w').write('x')\n"
        "open('/dev/stdout', 'w').write('opened again\\n')\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.connect(os.environ['NOTIFY_SOCKET'])\n"
        "s.send(b'READY=1')\nimport time\ntime.sleep(60)\n"
    )
    gateway = make(
        (PYTHON, "-c", read),
        directory=state / "data" / "deep",
        state_dir=state,
        login=5001,
        password=SecretStr("hunter22"),
        ready=ReadyConfig(notify=True),
    )
    gateway.connect(soon())
    note = state / "data" / "deep" / "note"
    assert note.stat().st_uid == NOBODY.pw_uid
    assert (state.stat().st_uid, stat.S_IMODE(state.stat().st_mode)) == (NOBODY.pw_uid, 0o700)
    private = place / "private"
    assert private.stat().st_uid == 0
    for name in ("credentials.json", "notify"):
        found = (private / name).stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (NOBODY.pw_uid, 0o600)


@as_root
def test_what_it_made_root_do_it_could_do_itself(make: Make, place: Path) -> None:
    """A link in the program's directory must not make root create or chown another directory."""
    accounts = place / "accounts"
    accounts.mkdir(mode=0o711)
    state, target = accounts / "a", place / "root-only"
    target.mkdir(mode=0o700)
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY.pw_uid, -1)
    (state / "data").symlink_to(target)
    accounts.chmod(0o711)
    gateway = make(("/bin/sleep", "60"), directory=state / "data" / "new", state_dir=state)
    with pytest.raises(VenueNotFound, match="user nobody may not use it"):
        gateway.connect(soon())
    assert target.stat().st_uid == 0
    assert list(target.iterdir()) == []


@as_root
def test_a_state_directory_that_the_user_cannot_reach_is_reported(make: Make, place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    gateway = make(("/bin/sleep", "60"), state_dir=place / "closed" / "accounts" / "a")
    with pytest.raises(
        InvalidRequest, match=r"nobody may not enter .*closed \(mode 0700\).*MANAGER_STATE_DIR"
    ):
        gateway.connect(soon())
    program = place / "bot"
    program.write_text("#!/bin/sh\nsleep 60\n")
    program.chmod(0o700)
    with pytest.raises(VenueNotFound, match="bot: user nobody may not use it"):
        make((str(program),)).connect(soon())


#: A minimal worker process.
WORKER = """
import sys, time
from pathlib import Path
from manager.config.models import ReadyConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.command import cgroups
from manager.gateways.command.gateway import CommandGateway
cgroups._own_cgroup = lambda: None
gateway = CommandGateway(GatewayOptions(
    account_id="a", worker_id=sys.argv[1], private_dir=Path(sys.argv[2]) / "p",
    directory=Path(sys.argv[2]), command=("/bin/sh", "-c", sys.argv[3]), ready=ReadyConfig(line="ready"),
    stop=StopConfig(deadline_seconds=0.3), user="nobody"))
gateway.connect(time.monotonic() + 20)
print("connected", flush=True)
time.sleep(600)
"""
#: Leaves its session, parent and environment, and ignores stop signals.
ESCAPES = (
    "trap '' TERM HUP; "
    "(setsid env -i /bin/sh -c 'trap \"\" TERM HUP; echo $$ >escaped; while :; do sleep 1; done' &) ; "
    "while [ ! -s escaped ]; do :; done; echo $$ >main; echo ready; while :; do sleep 1; done"
)


@as_root
@pytest.mark.parametrize("victims", ["worker", "guard", "worker and guard"])
def test_a_killed_worker_or_guard_leaves_nothing_of_another_user_alive(place: Path, victims: str) -> None:
    """Without a control group, the guard and the parent-death signal remain.

    The kernel clears the signal at a change of user.
    """
    place.chmod(0o777)
    worker_id = f"w-user-{os.getpid()}-{victims.replace(' ', '-')}"
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, worker_id, str(place), ESCAPES], stdout=subprocess.PIPE, cwd=place
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"connected\n"
        pids = [int((place / name).read_text()) for name in ("escaped", "main")]
        refs = [ref for pid in pids if (ref := ProcessRef.of(pid)) is not None]
        assert [Path(f"/proc/{pid}").stat().st_uid for pid in pids] == [NOBODY.pw_uid] * 2
        (guard,), _ = marked(worker_id)
        found = ProcessRef.of(guard)
        assert found is not None
        escaped, main = refs
        if victims == "worker":
            process.kill()
            assert escaped.wait(10)
        elif victims == "guard":
            found.signal(signal.SIGKILL)
        else:
            found.signal(signal.SIGSTOP)  # it cannot react to the worker's end
            process.kill()
            process.wait()
            found.signal(signal.SIGKILL)
        assert main.wait(10), "the program itself ends with its guard, whatever the guard could still do"
        assert found.wait(10)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for ref in refs:
            ref.kill()


@as_root
def test_a_program_that_has_the_users_port_and_stops_politely(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = (
        "import signal, socket, sys, time\nsignal.signal(15, lambda *_: sys.exit(0))\n"
        f"s = socket.create_server(('127.0.0.1', {port}))\nwhile True: time.sleep(60)\n"
    )
    gateway = make((PYTHON, "-c", script), ready=ReadyConfig(tcp=port))
    gateway.connect(soon())
    assert gateway.check().ipc_ok
    gateway.disconnect()  # raises ForcedEnd if root's signal did not reach the program


def test_unknown_users_and_groups_are_named() -> None:
    for user, group, key, says in (
        ("no-such-user", None, "user", "'no-such-user' is not a user of this host"),
        ("4242424", None, "user", "'4242424' is not a user of this host"),
        (None, "no-such-group", "group", "'no-such-group' is not a group of this host"),
        ("9" * 40, None, "user", "is not a user of this host"),
    ):
        with pytest.raises(ProgramUserError, match=says) as raised:
            program_user(user, group)
        assert raised.value.key == key


def test_without_root_only_the_own_user_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY.pw_uid)
    monkeypatch.setattr(os, "getegid", lambda: NOBODY.pw_gid)
    assert program_user("nobody", None) is None
    assert program_user(str(NOBODY.pw_uid), str(NOBODY.pw_gid)) is None
    with pytest.raises(
        ProgramUserError, match=r"runs as root .* runs as nobody: run the host agent as root, or as root"
    ):
        program_user("root", None)
    with pytest.raises(ProgramUserError, match="as another group") as raised:
        program_user(None, "daemon")
    assert raised.value.key == "group"


def test_validate_says_what_is_wrong_with_the_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(place)
    text = "gateway: command\ncommand: [/bin/sleep, 60]\nready: {after_seconds: 0}\n"
    (error,) = directory.errors_of(text + "user: no-such-user\n")
    assert error.startswith("accounts/a.yaml:4:7: user: 'no-such-user' is not a user of this host")
    (error,) = directory.errors_of(text + "user: nobody\ngroup: no-such-group\n")
    assert error.startswith("accounts/a.yaml:5:8: group: ")
    if os.geteuid() == 0:
        assert directory.errors_of(text + "user: nobody\numask: '077'\n") == ()
        place.chmod(0o700)
        (error,) = directory.errors_of(text + "user: nobody\n")
        assert f"directory: user nobody may not enter {place} (mode 0700)" in error
        assert directory.errors_of(text + "user: nobody\ndirectory: /\n") == ()
        assert directory.errors_of(text + "user: nobody\ndirectory: '{state_dir}'\n") == ()
        place.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY.pw_uid)
    (error,) = directory.errors_of(text + "user: root\n")
    assert "only a host agent that runs as root can run a program as another user" in error


def test_windows_has_no_users_and_no_umask(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from manager.gateways.command import executables
    from manager.gateways.command import program_user as module
    from manager.gateways.command import rules as command_rules

    directory = Directory(place)
    for one in (command_rules, executables):
        monkeypatch.setattr(one, "sys", type("sys", (), {"platform": "win32"}))
    monkeypatch.setattr(
        command_rules, "program_user", lambda user, group: _of_windows(module.ProgramUserError, user, group)
    )
    errors = directory.errors_of(
        "gateway: command\ncommand: [/bin/sleep, 60]\nready: {after_seconds: 0}\nuser: x\numask: '077'\n"
    )
    assert any("umask: is not supported on Windows" in error for error in errors)


def _of_windows(error: type[ProgramUserError], user: str | None, group: str | None) -> None:
    del group
    if user is not None:
        raise error("user", "is not supported on Windows: run the host agent as that user")


@as_root
def test_the_log_of_the_gateway_hides_what_the_user_prints(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="manager.program")
    gateway = make(
        ("/bin/sh", "-c", "echo key $API; echo ready; sleep 60"),
        environment={"API": "the-very-key"},
        secrets=("the-very-key",),
    )
    gateway.connect(soon())
    eventually(lambda: "key ***" in caplog.text, what="the line is in the log")
    assert "the-very-key" not in json.dumps(caplog.text)
