"""A host agent without free file descriptors.

Stops still work, and unreadable processes do not count as ended.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.venue import VenueProcess

from manager.gateways.command.program import MARK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of files are set with RLIMIT_NOFILE")

#: Opens files until only `left` descriptors are free.
EXHAUST = """
import os, resource
from manager.system.spare_files import reserve_files

def exhaust(left=0):
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for fd in held[:left]:
        os.close(fd)
    return held[left:]
"""


def run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXHAUST + textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_process_is_inspected_signalled_and_awaited_without_a_free_file() -> None:
    run("""
        import signal, subprocess
        from manager.system.processes import ProcessRef

        children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
        refs = [ProcessRef.of(child.pid) for child in children]
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        reserve_files()
        exhaust()
        assert all(ref.alive() for ref in refs)
        assert not ProcessRef(refs[0].pid, "another boot:1").kill()
        assert refs[0].alive()
        for ref in refs:
            assert ref.signal(signal.SIGTERM)
            assert ref.wait(10)
        assert not any(ref.alive() for ref in refs)
        for child in children:
            assert child.wait() == -signal.SIGTERM
        # The reserve is refilled each time.
        try:
            os.open("/dev/null", os.O_RDONLY)
        except OSError:
            pass
        else:
            raise AssertionError("the reserve is lost")
    """)


def test_one_file_is_enough_to_signal_a_process() -> None:
    """Without a reserve, the pid is signalled after a check of its start time."""
    run("""
        import signal, subprocess
        from manager.system.processes import ProcessRef

        child = subprocess.Popen(["sleep", "60"])
        ref = ProcessRef.of(child.pid)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        held = exhaust(left=1)
        assert not ProcessRef(ref.pid, "another boot:1").signal(signal.SIGTERM)
        assert ref.signal(signal.SIGTERM)
        assert ref.wait(10)
    """)


def test_a_search_for_orphans_fails_without_free_files(tmp_path: Path) -> None:
    run(
        f"""
        import subprocess, sys
        from pathlib import Path
        from manager.gateways.command.cgroups import members
        from manager.gateways.command.program_guard import descendants
        from manager.gateways.command.program import marked

        stray = subprocess.Popen(["sleep", "60"], env={{"{MARK}": "w-1"}})
        group = Path(sys.argv[1])
        (group / "cgroup.procs").write_text(str(stray.pid))
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        held = exhaust(left=1)  # enough to list /proc, but not to read from it
        searches = {{
            "marked": lambda: marked("w-1")[1],
            "descendants": lambda: descendants(os.getpid()),
            "members": lambda: members(group),
        }}
        found = {{}}
        for name, search in searches.items():
            try:
                found[name] = search()
            except OSError as error:
                found[name] = error.errno
        os.close(held.pop())
        os.close(held.pop())
        stray.kill()
        pid = stray.pid
        assert all(one in (24, [pid]) for one in found.values()), found
        assert 24 in found.values(), found
    """,
        str(tmp_path),
    )


@pytest.mark.parametrize("gateway", ["paper", "command"])
def test_a_stop_works_while_no_file_can_be_opened(short_dir: Path, gateway: str) -> None:
    venue = VenueProcess(short_dir)
    try:
        run(
            """
            import json, sys
            from pathlib import Path
            from manager import WorkerManagerService
            from manager.config import ConfigurationService
            from manager.host import build_pool
            from manager.system.state_dir import StatePaths
            from manager.system.processes import ProcessRef, raise_file_limit
            from manager.settings import Settings

            directory, address, gateway = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
            accounts = directory / "config" / "accounts"
            accounts.mkdir(parents=True)
            account = {"execution": {"stop_timeout_seconds": 5}, "timeout": 5000, "gateway": gateway}
            if gateway == "paper":
                account |= {"login": 1, "server": "Paper-1", "password": "p-p-p-p",
                            "currencies": [{"symbol": "EURUSD"}]}
            else:
                account |= {"command": ["sh", "-c", "echo up; sleep 60 & wait"], "ready": {"line": "up"}}
            (accounts / "a.yaml").write_text(json.dumps(account))
            settings = Settings(config_dir=directory / "config", state_dir=directory / "state", host="h",
                                venue_url=address, heartbeat_interval_seconds=0.1)
            StatePaths(settings.state_dir).create()
            resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
            raise_file_limit()
            configs = ConfigurationService(settings.config_dir)
            pool = build_pool(settings, configs)
            info = WorkerManagerService(configs, pool).start_worker_from_config("a")
            worker = ProcessRef.of(info.metadata["pid"])
            held = exhaust()
            assert pool.stop_worker("a")
            assert not worker.alive()
            info = pool.get_worker_info("a")
            assert (info.status, info.error) == ("stopped", None), info
            for fd in held:
                os.close(fd)
            pool.close()
            """,
            str(short_dir),
            venue.address,
            gateway,
        )
    finally:
        venue.close()
