"""One fleet's life on each of several Redis or Valkey servers.

    python benchmarks/redis_servers.py [PATH_OF_A_SERVER_PROGRAM ...]

Without a path: the server that the tests use. On each of them: three accounts start, one worker is killed, the server
is restarted, killed, and emptied while everything runs, and all accounts stop. Prints seconds until the fleet was as
it was wanted, and what the paper venue counted. Exits with an error at the first thing that is wrong.
"""

import argparse
import time
from collections.abc import Callable

from common import fleet, machine, sessions_of, table
from support.fleet import Fleet
from support.servers import redis_binary
from support.waiting import eventually


def seconds(act: Callable[[], object], settled: Callable[[], object], what: str) -> str:
    """Return how long after `act` the fleet took to be settled, as text."""
    act()
    began = time.perf_counter()
    eventually(settled, within=60, what=what)
    return f"{time.perf_counter() - began:.1f}"


def command(found: Fleet, *arguments: str) -> str:
    """Run a command that must succeed; return its seconds, as text."""
    began = time.perf_counter()
    done = found.run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{time.perf_counter() - began:.1f}"


def life(found: Fleet) -> list[str]:
    """Return the cells of one server's line."""
    accounts = found.add_accounts(3)
    started = command(found, "start-all")
    killed = accounts[0]
    before = found.workers()

    def all_run() -> bool:
        """Whether Redis says that every account runs, as the process that the host has a record of."""
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
    # Three that were started, and the one that took the killed worker's place.
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
    """Ask a server that may still be loading."""
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
                told = client.info("server")
            valkey = told.get("valkey_version")
            name = f"Valkey {valkey}" if valkey else f"Redis {told['redis_version']}"
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
