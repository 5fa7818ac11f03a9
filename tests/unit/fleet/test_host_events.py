"""Events about hosts that no host writes itself, against a real Redis."""

from support.servers import RedisServer

from manager.fleet import FleetStore, HostState
from manager.fleet.host_events import HostAnnouncer
from manager.fleet.hosts import DrainRequest


def lost(name: str, word: int) -> HostState:
    data = {"started_at": "2026-11-30T10:00:00+00:00", "word": word, "workers": 3, "version": "0.3.0"}
    return HostState(name, live=False, age_seconds=9.0, data=data)


def types(store: FleetStore) -> list[tuple[str, str]]:
    return [(event.type, event.host) for event in store.events()]


def test_several_processes_write_one_event_for_a_lost_host(redis_server: RedisServer) -> None:
    store = FleetStore(redis_server.url)
    first, second = HostAnnouncer(store), HostAnnouncer(store)
    for announcer in (first, second, first):
        announcer.announce([lost("london", 7)])
    assert types(store) == [("host.lost", "london")]
    assert store.events()[0].data == {"workers": 3, "version": "0.3.0"}
    second.announce([lost("london", 9)])
    assert len(types(store)) == 2, "a host that returned and is lost again is lost a second time"
    store.close()


def test_live_and_ended_hosts_have_no_such_event(redis_server: RedisServer) -> None:
    store = FleetStore(redis_server.url)
    HostAnnouncer(store).announce(
        [
            HostState("a", live=True, age_seconds=0.1, data={}),
            HostState("b", live=False, age_seconds=None, data={}),
        ]
    )
    assert types(store) == []
    store.close()


def test_a_complete_drain_has_one_event_with_its_author(redis_server: RedisServer) -> None:
    store = FleetStore(redis_server.url)
    drained = HostState(
        "a", live=True, age_seconds=0.1, data={"workers": 0}, drain=DrainRequest(mode="move", by="ana@desk")
    )
    for _ in range(2):
        HostAnnouncer(store).announce([drained])
    (event,) = store.events()
    assert (event.type, event.host, event.by) == ("host.drained", "a", "ana@desk")
    store.close()


def test_a_user_without_the_right_writes_nothing_and_raises_nothing(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "old", "on", ">pw", "~manager:host:*", "+@all")
    store = FleetStore(redis_server.url.replace("unix://", "unix://old:pw@"))
    HostAnnouncer(store).announce([lost("london", 7)])
    with redis_server.client() as client:
        assert client.exists("manager:events") == 0
    store.close()
