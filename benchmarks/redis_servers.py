"""Runs a fleet through outages on each of several Redis or Valkey servers.

    python benchmarks/redis_servers.py [PATH_OF_A_SERVER_PROGRAM ...]

The default is the server that the tests use. On each server three accounts start, a worker is killed, the
server is restarted, killed, and emptied while everything runs, and all accounts stop. Prints the seconds
until the fleet was in its desired state, and the venue's counts. Exits with an error at the first failure.
"""

import argparse
import time
from collections.abc import Callable

from common import fleet, machine, sessions_of, table
from support.fleet import Fleet
from support.servers import redis_binary
from support.waiting import eventually


def seconds(act: Callable[[], object], settled: Callable[[], object], what: str) -> str:
    """Return the seconds from `act` until `settled` is true, as text."""
    act()
    began = time.perf_counter()
    eventually(settled, within=60, what=what)
    return f"{time.perf_counter() - began:.1f}"


def command(found: Fleet, *arguments: str) -> str:
    """Run a command that must succeed.

    Return its duration in seconds, as text.
    """
    began = time.perf_counter()
    done = found.run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{time.perf_counter() - began:.1f}"


def life(found: Fleet) -> list[str]:
    """Return the cells of one server's row."""
    accounts = found.add_accounts(3)
    started = command(found, "start-all")
    killed = accounts[0]
    before = found.workers()

    def all_run() -> bool:
        """Return whether every account runs in Redis with its recorded pid."""
        live = any(state.live for state in found.store.hosts())
        refs = found.workers()
        infos = [found.store.get_worker(account_id) for account_id in accounts]
        return live and all(
            info is not None
            and info.status == "running"
            and account_id in refs
            and info.metadata.get("pid") == refs[account_id].pid
            and refs[account_id].alive()
            for account_id, info in zip(accounts, infos, strict=True)
        )

    def replaced() -> bool:
        return all_run() and found.workers()[killed] != before[killed]

    back = seconds(before[killed].kill, replaced, "the killed worker is replaced")
    kept = found.workers()
    assert {account: ref for account, ref in kept.items() if account != killed} == {
        account: ref for account, ref in before.items() if account != killed
    }
    outages = []
    for outage in (found.redis.restart, lambda: kill(found), lambda: empty(found)):
        outages.append(seconds(outage, lambda: _quiet(all_run), "the fleet is known again"))
        assert found.workers() == kept, "an outage of Redis replaced a worker"
    assert found.agent is not None
    assert found.agent.poll() is None, "an outage of Redis ended the host agent"
    stopped = command(found, "stop-all")
    assert not found.workers()
    counted = sessions_of(found)
    # Three started sessions, and the one of the killed worker's successor.
    assert counted == (4, 0, 0), counted
    return [started, back, *outages, stopped, "{}, {} left, {} overlaps".format(*counted)]


def kill(found: Fleet) -> None:
    found.redis.process.kill()
    found.redis.process.wait(timeout=20)
    found.redis.start()


def empty(found: Fleet) -> None:
    found.redis.process.kill()
    found.redis.process.wait(timeout=20)
    found.redis.empty()
    found.redis.start()


def _quiet(probe: Callable[[], bool]) -> bool:
    """Call `probe`; return False while the server is loading."""
    try:
        return probe()
    except (OSError, RuntimeError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("servers", nargs="*", default=[redis_binary()], help="server programs")
    rows = []
    for path in parser.parse_args().servers:
        with fleet(server=path) as found:
            with found.redis.client() as client:
                details = client.info("server")
            valkey = details.get("valkey_version")
            name = f"Valkey {valkey}" if valkey else f"Redis {details['redis_version']}"
            rows.append([name, *life(found)])
    print(f"{machine()}\n")
    print(
        table(
            [
                "server",
                "start-all s",
                "kill -9 of a worker s",
                "restart s",
                "kill -9 of Redis s",
                "emptied s",
                "stop-all s",
                "sessions",
            ],
            rows,
        )
    )


if __name__ == "__main__":
    main()
