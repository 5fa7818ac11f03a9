"""Streams over a real Redis: what clients get, how they continue, and what is refused."""

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from support.servers import RedisServer
from support.streams import StreamClient, StreamServer, beat, info, rows_of
from support.waiting import eventually
from websockets.exceptions import ConnectionClosed

from manager.api.stream.connection import StreamTimes
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.placement.labels import Selection

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("fleet_of_two")]


@pytest.fixture
def streams(api_redis: RedisServer) -> Iterator[StreamServer]:
    api_redis.forget()
    found = StreamServer(api_redis, times=StreamTimes(bookmark=0.3))
    yield found
    found.close()


@pytest.fixture
def fleet_of_two(streams: StreamServer) -> None:
    """account-1 in group fx, account-2 in none; both run."""
    streams.record(
        info("account-1", groups=("fx",)),
        info("account-2"),
        account_1=beat("account-1", equity="10.00"),
        account_2=beat("account-2", equity="20.00"),
    )
    eventually(lambda: streams.hub.head == streams.store.stream.cursor("$"), what="the view has both")


def events(client: StreamClient, count: int) -> list[dict[str, Any]]:
    """Return the next `count` event frames of a client."""
    return [client.until("event") for _ in range(count)]


def names(frames: list[dict[str, Any]]) -> list[str]:
    return ["{account_id}:{status}".format(**frame["event"]) for frame in frames]


# accounts


def test_a_client_gets_a_snapshot_and_then_what_changed(streams: StreamServer) -> None:
    with streams.client() as client:
        hello = client.next()
        assert (hello["t"], client.connection.subprotocol) == ("hello", "manager.v1")
        assert hello["limits"] == {"subscriptions": 20, "message_bytes": 65536}
        client.subscribe("w", "accounts")
        snapshot = client.until("snapshot")
        assert (snapshot["id"], snapshot["part"], snapshot["parts"]) == ("w", 1, 1)
        rows = rows_of(snapshot, snapshot["cols"])
        assert rows["account-1"].items() >= {"status": "running", "equity": "10.00", "groups": ["fx"]}.items()
        streams.record(info("account-2", "stopped"), info("account-3", "starting"))
        seen: dict[str, dict[str, Any]] = {}
        while seen.keys() < {"account-2", "account-3"}:
            seen |= rows_of(client.until("change"), snapshot["cols"])
        assert (seen["account-2"]["status"], seen["account-2"]["id"]) == ("stopped", rows["account-2"]["id"])
        assert (seen["account-3"]["status"], seen["account-3"]["id"]) == ("starting", 2)
        streams.store.forget_host("h")
        gone: set[str] = set()
        while gone != {"account-1", "account-2", "account-3"}:
            gone |= set(client.until("change")["gone"])


def test_a_selected_client_gets_its_accounts_alone(streams: StreamServer) -> None:
    with streams.client() as client:
        client.subscribe("g", "accounts", select={"groups": ["fx"]})
        client.subscribe("n", "accounts", select={"accounts": ["account-2"]})
        found = {one["id"]: one for one in (client.until("snapshot"), client.until("snapshot"))}
        assert [list(rows_of(found[key], found[key]["cols"])) for key in "gn"] == [
            ["account-1"],
            ["account-2"],
        ]
        streams.record(info("account-1", "stopped", groups=("fx",)))
        assert client.until("change")["id"] == "g"


def test_figures_are_sent_of_visible_accounts_and_only_what_changed(streams: StreamServer) -> None:
    with streams.client() as client:
        client.subscribe(
            "w", "accounts", figures={"of": "visible", "accounts": ["account-1"], "every_ms": 250}
        )
        snapshot = client.until("snapshot")
        number = {name: row["id"] for name, row in rows_of(snapshot, snapshot["cols"]).items()}
        streams.record(
            account_1=beat("account-1", equity="11.00"), account_2=beat("account-2", equity="21.00")
        )
        figures = client.until("figures")
        assert (figures["id"], figures["i"], figures["equity"]) == ("w", [number["account-1"]], ["11.00"])
        client.send(op="visible", id="w", accounts=["account-2"])
        figures = client.until("figures")
        assert (figures["i"], figures["equity"]) == ([number["account-2"]], ["21.00"])


def test_an_account_that_gets_no_worker_is_sent_again_when_it_counts_as_missing(
    streams: StreamServer,
) -> None:
    with streams.client() as client:
        client.subscribe("w", "accounts", select={"accounts": ["account-9"]})
        columns = client.until("snapshot")["cols"]
        wanted = DesiredStateRequest(
            account_id="account-9", state="running", token="t", by="ops", why="start"
        )
        DesiredStore(streams.redis.url).set_desired(wanted)
        first = rows_of(client.until("change"), columns)["account-9"]
        assert (first["want"], first["attention"]) == ("running", [])
        second = rows_of(client.until("change"), columns)["account-9"]
        assert [one[:2] for one in second["attention"]] == [["not_running", "critical"]]


def test_hosts_are_sent_whole_and_then_as_they_change(streams: StreamServer) -> None:
    with streams.client() as client:
        client.subscribe("h", "hosts")
        assert [row["name"] for row in client.until("snapshot")["rows"]] == ["h"]
        streams.store.report_agent("other", {})
        change = client.until("change")
        assert ([row["name"] for row in change["rows"]], change["gone"]) == (["other"], [])


# messages


@pytest.mark.parametrize(
    "message",
    [
        "no json",
        "[]",
        '{"op":"dance"}',
        '{"op":"ping","n":true}',
        '{"op":"subscribe","id":"x","topic":"weather"}',
        '{"op":"subscribe","id":"x","topic":"accounts","figures":{"of":"all","every_ms":1}}',
        '{"op":"subscribe","id":"x","topic":"events","after":"nonsense"}',
        '{"op":"subscribe","id":"x","topic":"batch:none"}',
        '{"op":"visible","id":"x","accounts":[]}',
        "[" * 10_000,
        b"bytes",
    ],
)
def test_a_bad_message_is_answered_and_the_connection_stays(
    streams: StreamServer, message: str | bytes
) -> None:
    with streams.client() as client:
        client.connection.send(message)
        error = client.until("error")
        assert error["id"] == ("x" if '"id":"x"' in str(message) else None)
        assert error["problem"].keys() >= {"title", "status", "code", "detail", "errors"}
        client.send(op="ping", n=7)
        assert client.until("pong")["n"] == 7


def test_an_ended_subscription_sends_nothing_more(streams: StreamServer) -> None:
    with streams.client() as client:
        client.subscribe("e", "events")
        client.send(op="unsubscribe", id="e")
        client.subscribe("other", "events")
        client.send(op="ping", n=1)
        client.until("pong")
        streams.record(info("account-1", "stopped"))
        assert client.until("event")["id"] == "other"


def test_subscriptions_of_a_connection_are_limited(streams: StreamServer) -> None:
    with streams.client() as client:
        for number in range(21):
            client.subscribe(f"s{number}", "hosts")
        error = client.until("error")
        assert (error["id"], error["problem"]["code"]) == ("s20", "rate_limited")


def test_a_message_that_is_too_large_ends_the_connection(streams: StreamServer) -> None:
    with streams.client() as client:
        client.connection.send("x" * 70_000)
        assert client.closed()[0] in (1009, 4013)


# events


def test_a_client_continues_after_its_cursor_without_loss_or_repetition(streams: StreamServer) -> None:
    with streams.client() as client:
        client.subscribe("e", "events", after="0")
        first = events(client, 2)
    assert names(first) == ["account-1:running", "account-2:running"]
    streams.record(info("account-1", "stopping"), info("account-1", "stopped"))
    with streams.client() as client:
        client.subscribe("e", "events", after=first[0]["cursor"])
        frames = events(client, 3)
        streams.record(info("account-2", "failed"))
        frames += events(client, 1)
    assert names(frames) == [
        "account-2:running",
        "account-1:stopping",
        "account-1:stopped",
        "account-2:failed",
    ]


def test_a_client_far_behind_the_newest_events_gets_all_of_them_once(streams: StreamServer) -> None:
    before = streams.store.stream.cursor("$")
    for first in range(0, 6_000, 500):
        streams.record(*(info(f"a-{number}") for number in range(first, first + 500)))
    eventually(
        lambda: streams.hub.head == streams.store.stream.cursor("$"), within=30, what="the view has all"
    )
    with streams.client() as client:
        client.subscribe("e", "events", after=str(before))
        frames = events(client, 6_000)
    assert [frame["event"]["account_id"] for frame in frames] == [f"a-{number}" for number in range(6_000)]


def test_a_filtered_client_gets_bookmarks_from_which_it_continues(streams: StreamServer) -> None:
    with streams.client() as client:
        client.subscribe("e", "events", select={"types": ["worker.failed"], "accounts": ["account-1"]})
        streams.record(info("account-1", "stopped"), info("account-2", "failed"))
        newest = str(streams.store.stream.cursor("$"))
        client.until("bookmark", where=lambda frame: frame["cursor"] == newest)
        streams.record(info("account-1", "failed"))
        assert names(events(client, 1)) == ["account-1:failed"]


def test_events_of_a_group_follow_the_group(streams: StreamServer) -> None:
    with streams.client() as client:
        client.subscribe("e", "events", select={"groups": ["fx"]})
        client.send(op="ping", n=1)
        client.until("pong")
        streams.record(info("account-2", "stopped"), info("account-3", "failed", groups=("fx",)))
        assert names(events(client, 1)) == ["account-3:failed"]


def test_lost_data_is_announced_within_three_seconds_and_followed_by_the_remaining_events(
    streams: StreamServer,
) -> None:
    with streams.client() as client:
        client.subscribe("w", "accounts")
        columns = client.until("snapshot")["cols"]
        client.subscribe("e", "events")
        client.send(op="ping", n=1)
        client.until("pong")  # the server has the subscription, so the event comes after it
        streams.record(info("account-1", "stopped"))
        old = client.until("event")["cursor"]
        streams.redis.forget()
        streams.store.report_agent("h", {})
        streams.record(info("account-7"), account_7=beat("account-7"))
        kinds: list[tuple[str, str]] = []
        snapshot: dict[str, Any] = {}
        event: dict[str, Any] = {}
        while not snapshot or not event:
            frame = client.next(within=3)
            kinds.append((frame["t"], frame.get("id", "")))
            snapshot = frame if frame["t"] == "snapshot" else snapshot
            event = frame if frame["t"] == "event" else event
    assert kinds.count(("gone", "w")) == kinds.count(("gone", "e")) == 1
    assert kinds.index(("gone", "w")) < kinds.index(("snapshot", "w"))
    assert kinds.index(("gone", "e")) < kinds.index(("event", "e"))
    assert (event["event"]["account_id"], event["cursor"][:8] == old[:8]) == ("account-7", False)
    listed = {info.account_id: str(info.status) for info in streams.store.list_workers()}
    assert {key: row["status"] for key, row in rows_of(snapshot, columns).items()} == listed


def test_a_cursor_that_is_gone_is_answered_and_the_rest_follows(streams: StreamServer) -> None:
    with streams.client() as client:
        client.subscribe("e", "events", after="00000000:1-0")
        gone = client.until("gone")
        assert (gone["id"], gone["oldest"].endswith(":0-0")) == ("e", True)
        assert names(events(client, 2)) == ["account-1:running", "account-2:running"]
        client.subscribe("w", "accounts", after="00000000:1-0")
        assert client.until("gone")["id"] == "w"
        assert len(client.until("snapshot")["rows"]) == 2


def test_redis_away_is_said_and_events_go_on_after_it(streams: StreamServer) -> None:
    with streams.client() as client:
        client.subscribe("e", "events")
        client.send(op="ping", n=1)
        client.until("pong")
        streams.redis.stop()
        assert client.until("stale")["since"]
        streams.redis.start()
        client.until("fresh")
        streams.record(info("account-2", "stopped"))
        assert names(events(client, 1)) == ["account-2:stopped"]


# who may read what


def test_a_token_with_a_read_selection_sees_its_accounts_alone(streams: StreamServer) -> None:
    headers = streams.headers("read", selection=Selection(("fx",)), read_selection=True)
    with streams.client(headers) as client:
        client.subscribe("w", "accounts")
        snapshot = client.until("snapshot")
        assert list(rows_of(snapshot, snapshot["cols"])) == ["account-1"]
        client.subscribe("e", "events", after="0")
        streams.record(info("account-2", "failed"), info("account-1", "stopped", groups=("fx",)))
        assert names(events(client, 2)) == ["account-1:running", "account-1:stopped"]


def test_a_token_without_the_scope_is_refused(streams: StreamServer) -> None:
    with streams.client(streams.headers("metrics")) as client:
        assert client.closed() == (4003, "forbidden")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, (4001, "unauthenticated")),
        ({"Authorization": "Bearer wm_abcdefgh_" + "x" * 43}, (4001, "unauthenticated")),
        ({"Cookie": "wm_session=abc"}, (4001, "unauthenticated")),
        ({"Cookie": "wm_session=abc", "Origin": "http://evil.example"}, (4003, "csrf")),
    ],
)
def test_a_client_without_a_good_credential_is_refused(
    streams: StreamServer, headers: dict[str, str], code: tuple[int, str]
) -> None:
    with streams.client(headers) as client:
        assert client.closed() == code


def test_a_page_of_another_origin_and_an_unknown_host_are_refused(streams: StreamServer) -> None:
    good = streams.headers("read")
    with streams.client({**good, "Origin": "http://evil.example"}) as client:
        assert client.closed() == (4003, "csrf")
    with streams.client({**good, "Origin": f"http://{streams.address}"}) as client:
        assert client.next()["t"] == "hello"


def test_a_token_in_the_url_is_refused(streams: StreamServer) -> None:
    good = streams.headers("read")
    token = good["Authorization"].removeprefix("Bearer ")
    with streams.client(good, query=f"?token={token}") as client:
        assert client.closed() == (4001, "unauthenticated")


def test_a_revoked_token_ends_its_streams(api_redis: RedisServer) -> None:
    server = StreamServer(api_redis, times=StreamTimes(check=0.1))
    try:
        headers = server.headers("read")
        with server.client(headers) as client:
            client.next()
            server.api.tokens.revoke(headers["Authorization"].split("_")[1])
            assert client.closed() == (4001, "token_expired")
    finally:
        server.close()


def test_a_token_has_at_most_twenty_streams(streams: StreamServer) -> None:
    headers = streams.headers("read")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(streams.client(headers)) for _ in range(20)]
        for client in clients:
            client.next()
        with streams.client(headers) as refused:
            assert refused.closed() == (4029, "rate_limited")
        clients[0].connection.close()

        def accepted() -> bool:
            try:
                with streams.client(headers) as again:
                    return "hello" in str(again.connection.recv(timeout=5))
            except ConnectionClosed:
                return False  # the server has not seen yet that the other client left

        assert eventually(accepted, what="the place of the closed stream is free")


# server-sent events


@contextlib.contextmanager
def server_sent(
    streams: StreamServer, query: str = "", headers: dict[str, str] | None = None
) -> Iterator[Iterator[dict[str, str]]]:
    """Open a stream of server-sent events; yields its messages, each as fields (`:` is a comment)."""
    url = f"http://{streams.address}/api/v1/events/stream{query}"
    sent = {**streams.headers("read"), **(headers or {})}
    with httpx2.Client(timeout=10) as client, client.stream("GET", url, headers=sent) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()

        def messages() -> Iterator[dict[str, str]]:
            fields: dict[str, str] = {}
            for line in lines:
                if not line and fields:
                    yield fields
                    fields = {}
                elif line:
                    name, _, value = line.partition(":")
                    fields[name] = value.strip()

        found = messages()
        assert next(found) == {"retry": "2000"}
        yield found


def test_server_sent_events_continue_after_the_last_id(streams: StreamServer) -> None:
    with server_sent(streams, "?after=0&type=worker.*") as found:
        first = next(found)
        data = json.loads(first["data"])
        assert (first["event"], data["account_id"]) == ("worker.running", "account-1")
        assert next(found)["id"] == str(streams.store.stream.cursor("$"))
    with server_sent(streams, headers={"Last-Event-ID": first["id"]}) as found:
        streams.record(info("account-1", "stopped"))
        got = [json.loads(next(found)["data"]) for _ in range(2)]
    assert [(one["account_id"], one["status"]) for one in got] == [
        ("account-2", "running"),
        ("account-1", "stopped"),
    ]


def test_server_sent_bookmarks_have_an_id(streams: StreamServer) -> None:
    with server_sent(streams, "?group=none") as found:
        streams.record(info("account-1", "stopped"))
        newest = str(streams.store.stream.cursor("$"))
        assert any(one == {"": f"bookmark {newest}", "id": newest} for one in found)


def test_server_sent_events_end_when_the_cursor_is_gone(streams: StreamServer) -> None:
    with server_sent(streams, headers={"Last-Event-ID": "00000000:1-0"}) as found:
        assert [(one["event"], json.loads(one["data"]).keys()) for one in found] == [("gone", {"oldest"})]
    with server_sent(streams) as found:
        streams.redis.forget()
        streams.store.report_agent("h", {})
        assert [one["event"] for one in found if "event" in one] == ["gone"]


def test_server_sent_streams_count_until_their_client_leaves(streams: StreamServer) -> None:
    headers = streams.headers("read")
    url = f"http://{streams.address}/api/v1/events/stream"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(server_sent(streams, headers=headers))
        refused = httpx2.get(url, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")

    def accepted() -> bool:
        with httpx2.Client() as client, client.stream("GET", url, headers=headers) as response:
            return response.status_code == 200

    eventually(accepted, what="the places of the closed streams are free")
    eventually(lambda: streams.hub.clients == 0, what="no client is left")


# pages of events


def page(streams: StreamServer, token: Mapping[str, str] | None = None, /, **query: Any) -> httpx2.Response:
    url = f"http://{streams.address}/api/v1/events"
    return httpx2.get(url, params=query, headers=token or streams.headers("read"), timeout=20)


def test_pages_of_events_continue_exactly(streams: StreamServer) -> None:
    streams.record(info("account-1", "stopping"), info("account-1", "stopped"))
    first = page(streams, limit=3).json()
    second = page(streams, limit=3, after=first["next"]).json()
    got = [f"{one['account_id']}:{one['status']}" for one in first["items"] + second["items"]]
    assert got == ["account-1:running", "account-2:running", "account-1:stopping", "account-1:stopped"]
    assert page(streams, after=second["next"]).json() == {"items": [], "next": second["next"]}


@pytest.mark.parametrize(
    ("query", "accounts"),
    [
        ({"account": "account-2"}, ["account-2"]),
        ({"group": "fx"}, ["account-1"]),
        ({"type": "worker.r*"}, ["account-1", "account-2"]),
        ({"type": "worker.failed"}, []),
    ],
)
def test_pages_of_events_are_filtered(
    streams: StreamServer, query: dict[str, Any], accounts: list[str]
) -> None:
    found = page(streams, None, **query).json()
    assert [one["account_id"] for one in found["items"]] == accounts
    assert found["next"] == str(streams.store.stream.cursor("$"))


def test_a_read_selection_filters_pages_of_events(streams: StreamServer) -> None:
    token = streams.headers("read", selection=Selection(("fx",)), read_selection=True)
    assert [one["account_id"] for one in page(streams, token).json()["items"]] == ["account-1"]


def test_a_page_waits_for_the_first_event(streams: StreamServer) -> None:
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(page, streams, after="$", wait=15, type="worker.failed")
        eventually(lambda: streams.hub.clients == 1, what="the page waits")
        streams.record(info("account-1", "stopped"), info("account-2", "failed"))
        found = asked.result().json()
    assert [one["account_id"] for one in found["items"]] == ["account-2"]


def test_pages_that_wait_count_as_streams_until_their_client_leaves(streams: StreamServer) -> None:
    headers = streams.headers("read")
    url = f"http://{streams.address}/api/v1/events?after=$&wait=60"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            place = stack.enter_context(
                socket.create_connection(("127.0.0.1", int(streams.address.split(":")[1])))
            )
            place.sendall(
                f"GET {url} HTTP/1.1\r\nHost: {streams.address}\r\n"
                f"Authorization: {headers['Authorization']}\r\n\r\n".encode()
            )
        eventually(lambda: streams.hub.clients == 20, what="twenty pages wait")
        refused = httpx2.get(url, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert page(streams, headers, after="$").status_code == 200  # does not wait
    eventually(lambda: streams.hub.clients == 0, within=10, what="pages of clients that left are over")


def test_a_page_after_a_cursor_that_is_gone_names_the_oldest(streams: StreamServer) -> None:
    answer = page(streams, after="00000000:1-0")
    assert (answer.status_code, answer.json()["code"]) == (410, "cursor_gone")
    assert len(page(streams, after=answer.json()["oldest"]).json()["items"]) == 2
    assert page(streams, after="nonsense").status_code == 422
