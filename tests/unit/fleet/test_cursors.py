"""Cursors of the event stream, against a real Redis."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from support.servers import RedisServer

from manager.errors import CursorGoneError, InvalidCursorError
from manager.fleet.cursors import START, Position
from manager.fleet.event_places import STREAM_ID_KEY, read_cursor, stream_id
from manager.fleet.event_types import EventFilter, Notice
from manager.fleet.events import EventStream
from manager.fleet.keys import EVENTS_KEY
from manager.telemetry.event_watch import watch_events

KEPT = 1000


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url, protocol=2) as found:
        found.delete(EVENTS_KEY, STREAM_ID_KEY)
        yield found


def add(client: Any, count: int, maxlen: int | None = None) -> list[str]:
    ids = [client.xadd(EVENTS_KEY, {"type": "system.note"}) for _ in range(count)]
    if maxlen is not None:
        client.xtrim(EVENTS_KEY, maxlen=maxlen, approximate=False)
    return [one.decode() for one in ids]


def read(client: Any, text: str) -> str:
    return str(read_cursor(client, text, kept=KEPT))


def test_the_stream_gets_an_id_once(client: Any) -> None:
    first = stream_id(client)
    assert len(first) == 8
    assert stream_id(client) == first


def test_now_and_oldest(client: Any) -> None:
    assert read(client, "$").endswith(":0-0")
    ids = add(client, 3)
    stream = stream_id(client)
    assert read(client, "$") == read(client, f"{stream}:$") == f"{stream}:{ids[-1]}"
    assert read(client, "0") == read(client, f"{stream}:0") == f"{stream}:0-0"
    assert read(client, ids[1]) == f"{stream}:{ids[1]}"


def test_a_cursor_of_another_stream_is_gone(client: Any) -> None:
    ids = add(client, 1)
    old = f"{stream_id(client)}:{ids[0]}"
    client.delete(EVENTS_KEY, STREAM_ID_KEY)
    with pytest.raises(CursorGoneError, match="was replaced") as gone:
        read(client, old)
    assert gone.value.oldest == f"{stream_id(client)}:0-0"


def test_a_cursor_before_trimmed_entries_is_gone(client: Any, redis_server: RedisServer) -> None:
    ids = add(client, 20, maxlen=5)
    stream = EventStream(redis_server.url, client, kept=5)  # Redis 6.2 judges by the length
    for text in (ids[3], "0-0", "1-1"):
        with pytest.raises(CursorGoneError, match="no longer kept") as gone:
            stream.cursor(text)
        rest = stream.page(stream.cursor(gone.value.oldest), count=20)
        assert [event.id for event in rest.events] == ids[15:], "nothing that is kept is left out"
    assert read(client, ids[15]).endswith(ids[15])
    assert read(client, ids[-1]).endswith(ids[-1])


def test_the_oldest_place_of_a_trimmed_stream_is_before_its_first_entry(
    client: Any, redis_server: RedisServer
) -> None:
    ids = add(client, 20, maxlen=5)
    stream = EventStream(redis_server.url, client, kept=5)
    oldest = stream.cursor("0")
    assert [event.id for event in stream.page(oldest, count=20).events] == ids[15:]
    assert stream.cursor(str(oldest)) == oldest
    client.xtrim(EVENTS_KEY, maxlen=0, approximate=False)
    assert stream.cursor("$") == stream.cursor(ids[-1])


def test_a_cursor_from_an_empty_stream_that_was_trimmed_since_is_gone(client: Any) -> None:
    empty = read(client, "$")
    add(client, 20, maxlen=5)
    with pytest.raises(CursorGoneError, match="no longer kept"):
        read_cursor(client, empty, kept=5)


def test_a_cursor_after_the_newest_entry_is_gone(client: Any) -> None:
    ids = add(client, 2)
    ms, _, seq = ids[-1].partition("-")
    for text in (f"{ms}-{int(seq) + 1}", f"{int(ms) + 1}-0", f"{2**64 - 1}-{2**64 - 1}"):
        with pytest.raises(CursorGoneError, match="after the newest event"):
            read(client, f"{stream_id(client)}:{text}")
    client.delete(EVENTS_KEY)
    with pytest.raises(CursorGoneError, match="after the newest event"):
        read(client, ids[-1])


def test_a_reader_whose_next_entries_were_trimmed_is_told(client: Any, redis_server: RedisServer) -> None:
    stream = EventStream(redis_server.url, client, kept=5)
    ids = add(client, 3)
    watch = watch_events(stream, "0")
    assert next(watch).id == ids[0]
    after = stream.cursor(ids[0])
    add(client, 20, maxlen=5)
    with pytest.raises(CursorGoneError, match="no longer kept"):
        stream.page(after, count=10)
    with pytest.raises(CursorGoneError, match="no longer kept"):
        stream.next(after, wait_seconds=0.01)
    assert [next(watch).id for _ in range(2)] == ids[1:], "what was read already is still given out"
    with pytest.raises(CursorGoneError, match="no longer kept"):
        next(watch)


def test_a_cursor_older_than_the_first_entry_of_an_untrimmed_stream_is_good(client: Any) -> None:
    add(client, 3)
    assert read(client, "1-1").endswith(":1-1")


@pytest.mark.parametrize(
    "text", ["", "x", "1-", "-1", "1-2-3", "zz:1-1", "5f3a09c1:", f"{2**64}-0", "5F3A09C1:1-1"]
)
def test_what_is_not_a_cursor_is_refused(client: Any, text: str) -> None:
    with pytest.raises(InvalidCursorError, match="is not a cursor"):
        read(client, text)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_positions_are_read_as_written(ms: int, seq: int) -> None:
    assert Position.parse(str(Position(ms, seq))) == Position(ms, seq)


def test_pages_hold_exactly_the_events_after_the_cursor(client: Any, redis_server: RedisServer) -> None:
    stream = EventStream(redis_server.url, client)
    stream.add_many(
        Notice(type="command.done" if number % 3 else "host.live", account_id=f"a-{number}")
        for number in range(250)
    )
    found, after = [], stream.cursor("0")
    while True:
        page = stream.page(after, count=20, only=EventFilter(types=("host.*",)))
        found += [event.account_id for event in page.events]
        after = page.cursor
        if not page.events:
            break
    assert found == [f"a-{number}" for number in range(0, 250, 3)]
    assert after == stream.cursor("$"), "a filtered reader moves past entries that it did not ask for"
    assert stream.page(after, count=20).events == []
    assert after.position > START


def test_large_data_is_cut_and_marked(client: Any, redis_server: RedisServer) -> None:
    stream = EventStream(redis_server.url, client)
    stream.add(Notice(type="batch.done", data={"done": 3, "names": ["x" * 50] * 500}))
    stream.add(Notice(type="batch.done", data={f"key-{number}": "y" * 90 for number in range(100)}))
    first, second = stream.newest(2)
    assert first.data == {"done": 3, "cut": True}
    assert second.data == {"cut": True}
