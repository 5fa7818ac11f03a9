"""The asyncio service has the service's methods and never blocks the loop."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.configs import GOOD, Directory

from manager.aio import AsyncWorkerManagerService
from manager.errors import AccountNotFoundError, StartFailedError
from manager.fleet import Event
from manager.models import WorkerInfo
from manager.pool.protocol import StartRequest
from manager.service import WorkerManagerService
from manager.states import WorkerLifecycleStatus


class SlowPool:
    """A pool whose starts wait for an event; only what these tests need."""

    def __init__(self) -> None:
        self.door = threading.Event()
        self.started: list[str] = []
        self.followed = 0
        self.lock = threading.Lock()

    def watch(self, after: str = "$", *, closed: Callable[[], bool], **_: object) -> Iterator[Event]:
        """Yield no event before the door opens, then one after the other until the watch is closed."""
        with self.lock:
            self.followed += 1
        assert self.door.wait(30)
        for number in count(int(after) + 1):
            yield Event(str(number), datetime.now(UTC), "h", "a", "w", "running", None)
            if closed():
                return

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        self.door.wait(30)
        self.started.append(request.account_id)
        if request.account_id == "bad":
            raise StartFailedError("bad: the venue is closed")
        return WorkerInfo(
            worker_id=f"w-{request.account_id}",
            account_id=request.account_id,
            status=WorkerLifecycleStatus.RUNNING,
        )

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        del account_id, timeout
        return True

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        del account_id
        return None


@pytest.fixture
def pool() -> SlowPool:
    return SlowPool()


@pytest.fixture
def service(tmp_path: Path, pool: Any) -> WorkerManagerService:
    directory = Directory(tmp_path)
    directory.write("a", GOOD)
    return WorkerManagerService(directory.service, pool)


def methods(of: type) -> dict[str, Callable[..., Any]]:
    return {name: found for name, found in vars(of).items() if callable(found) and not name.startswith("_")}


def test_every_method_of_the_service_is_there_with_its_arguments() -> None:
    awaitable, blocking = methods(AsyncWorkerManagerService), methods(WorkerManagerService)
    assert inspect.isasyncgenfunction(awaitable["watch"])
    del blocking["watch"]  # an iterator, not a call
    for name, method in blocking.items():
        assert name in awaitable, f"manager.aio lacks {name}"
        assert inspect.iscoroutinefunction(awaitable[name])
        assert inspect.signature(awaitable[name]) == inspect.signature(method), name
    assert set(awaitable) - set(methods(WorkerManagerService)) == {"aclose", "events", "watch_workers"}


def test_the_loop_turns_while_fifty_commands_wait(service: WorkerManagerService, pool: SlowPool) -> None:
    async def main() -> list[WorkerInfo]:
        async with AsyncWorkerManagerService(service, threads=4) as fleet:
            commands = [asyncio.create_task(fleet.start_worker_from_config(f"a{n}")) for n in range(50)]
            # A hundred turns of the loop, while no command can end: were one of them on the loop, there would
            # be none.
            for _ in range(100):
                await asyncio.sleep(0)
            assert not any(command.done() for command in commands)
            assert pool.started == []
            pool.door.set()
            return await asyncio.gather(*commands)

    infos = asyncio.run(main())
    assert sorted(info.account_id for info in infos) == sorted(f"a{n}" for n in range(50))


def test_errors_are_the_services_own(service: WorkerManagerService, pool: SlowPool) -> None:
    pool.door.set()

    async def main() -> None:
        async with AsyncWorkerManagerService(service) as fleet:
            with pytest.raises(StartFailedError, match="venue is closed"):
                await fleet.start_worker_from_config("bad")
            with pytest.raises(AccountNotFoundError):
                await fleet.validate_config("nobody")

    asyncio.run(main())


def test_a_cancelled_await_loses_its_answer_and_nothing_else(
    service: WorkerManagerService, pool: SlowPool
) -> None:
    async def main() -> None:
        async with AsyncWorkerManagerService(service, threads=2) as fleet:
            command = asyncio.create_task(fleet.start_worker_from_config("a"))
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(command, 0.01)
            pool.door.set()
            assert (await fleet.start_worker_from_config("b")).account_id == "b"
        assert sorted(pool.started) == ["a", "b"]

    asyncio.run(main())


def test_a_stop_and_a_read_wait_for_no_start(service: WorkerManagerService, pool: SlowPool) -> None:
    async def main() -> None:
        async with AsyncWorkerManagerService(service) as fleet:
            starts = [asyncio.create_task(fleet.start_worker_from_config(f"a{n}")) for n in range(200)]
            await asyncio.sleep(0)
            assert await fleet.stop_worker("a1") is True
            assert await fleet.get_worker_info("a1") is None
            assert (await fleet.validate_config("a")).account_id == "a"
            assert await fleet.enabled_accounts() == {"a": True}
            assert not any(start.done() for start in starts), "none of them has ended"
            pool.door.set()
            await asyncio.gather(*starts)

    asyncio.run(asyncio.wait_for(main(), 25))


def test_followers_of_events_delay_no_call(service: WorkerManagerService, pool: SlowPool) -> None:
    async def follow(fleet: AsyncWorkerManagerService) -> list[str]:
        found: list[str] = []
        async for event in fleet.watch("0"):
            found.append(event.id)
            if len(found) == 3:
                break
        return found

    async def main() -> None:
        async with AsyncWorkerManagerService(service, threads=4) as fleet:
            followers = [asyncio.create_task(follow(fleet)) for _ in range(40)]
            while pool.followed < 40:  # all of them wait for events now
                await asyncio.sleep(0)
            assert await fleet.stop_worker("a") is True
            assert await fleet.get_worker_info("a") is None
            pool.door.set()
            assert (await fleet.start_worker_from_config("a")).account_id == "a"
            assert await asyncio.gather(*followers) == [["1", "2", "3"]] * 40

    asyncio.run(asyncio.wait_for(main(), 25))


def test_closing_ends_the_followers_of_events(service: WorkerManagerService, pool: SlowPool) -> None:

    async def main() -> int:
        fleet = AsyncWorkerManagerService(service)

        async def follow() -> int:
            return len([event async for event in fleet.watch("0")])

        follower = asyncio.create_task(follow())
        while not pool.followed:
            await asyncio.sleep(0)
        await fleet.aclose()
        pool.door.set()
        return await follower

    assert asyncio.run(asyncio.wait_for(main(), 25)) == 1


def test_events_still_works_and_names_its_successor(service: WorkerManagerService, pool: SlowPool) -> None:
    pool.door.set()

    async def main() -> str:
        async with AsyncWorkerManagerService(service) as fleet:
            async for event in fleet.events("0"):
                return event.id
        return ""

    with pytest.warns(DeprecationWarning, match="use watch"):
        assert asyncio.run(asyncio.wait_for(main(), 25)) == "1"
