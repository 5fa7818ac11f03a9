"""The model of `manager top`: rows, sort order, filter, selection, and what keys do."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from manager.fleet.desired import DesiredState
from manager.fleet.hosts import HostState
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus as S
from manager.telemetry.fleet_reader import AccountFile, AccountRow, FleetListing
from manager.terminal.top_model import TOP_SORTS, Command, Top, TopFleet, question_text, top_fleet
from manager.terminal.top_screen import screen

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
FILES = {
    "a": AccountFile(enabled=True, groups=("fx",), labels={"desk": "london"}),
    "b": AccountFile(enabled=True),
}


def worker(account_id: str, status: S = S.RUNNING, error: str | None = None, **metadata: Any) -> WorkerInfo:
    data = {"host": "h1", "health": "healthy", "currency": "USD", "open_positions": 0, **metadata}
    return WorkerInfo(
        worker_id="w", account_id=account_id, status=status, error=error, started_at=NOW, metadata=data
    )


def listing(
    workers: list[WorkerInfo],
    files: Mapping[str, AccountFile] | None = None,
    desired: Mapping[str, DesiredState] | None = None,
    stale: float | None = None,
) -> FleetListing:
    known = {one.account_id: one for one in workers}
    files, desired = files or {}, desired or {}
    return FleetListing(
        as_of=NOW,
        cursor="",
        version="1",
        accounts={
            one: AccountRow(one, known.get(one), desired.get(one), files.get(one))
            for one in sorted({*known, *files, *desired})
        },
        hosts={"h1": HostState("h1", live=True, age_seconds=0.1, data={})},
        stale_seconds=stale,
    )


def top(workers: list[WorkerInfo], **options: Any) -> Top:
    found = Top(**options)
    found.take(top_fleet(listing(workers)))
    return found


def ids(found: Top) -> list[str]:
    return [one.account_id for one in found.rows()]


WORKERS = [
    worker("a", equity="100.00", memory_bytes=30, cpu_percent=1.0, open_positions=2),
    worker("b", S.STOPPED),
    worker("c", equity="900.00", memory_bytes=10, cpu_percent=2.0, health="degraded", health_reason="slow"),
    worker("d", S.FAILED, error="password refused"),
    worker("e", equity="50.00", memory_bytes=20, cpu_percent=3.0, trading_mode="paused"),
]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("attention", "dcaeb"),
        ("account", "abcde"),
        ("state", "daceb"),
        ("equity", "caebd"),
        ("memory", "aecbd"),
        ("cpu", "ecabd"),
    ],
)
def test_every_sort_order(by: str, expected: str) -> None:
    assert by in TOP_SORTS
    assert "".join(ids(top(WORKERS, sort=by))) == expected


def test_the_sort_key_goes_through_all_orders() -> None:
    found = top(WORKERS)
    seen = [found.sort]
    for _ in TOP_SORTS:
        found.press(["o"])
        seen.append(found.sort)
    assert seen == [*TOP_SORTS, TOP_SORTS[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["a", "b"]),
        ("group:fx", ["a"]),
        ("group:f", []),
        ("label:desk=london", ["a"]),
        ("label:desk", ["a"]),
        ("label:desk=paris", []),
        ("state:running", ["a"]),
        ("state:st", ["b"]),
        ("H1 RUNN", ["a"]),
        ("fx stopped", []),
    ],
)
def test_filters(text: str, expected: list[str]) -> None:
    found = Top(sort="account")
    found.take(top_fleet(listing([worker("a"), worker("b", S.STOPPED)], FILES)))
    found.press(["/"])
    found.press([*text, "enter"])
    assert found.filter == text
    assert ids(found) == expected


def test_a_filter_applies_while_it_is_typed_and_escape_brings_back_the_last() -> None:
    found = top(WORKERS)
    found.press(["/", *"failed", "enter"])
    found.press(["/", "backspace", *"dx"])
    assert (found.typing, ids(found)) == ("failedx", [])
    found.press(["escape"])
    assert (found.typing, found.filter, ids(found)) == (None, "failed", ["d"])
    found.press(["escape"])
    assert len(ids(found)) == len(WORKERS)


def test_letters_typed_into_a_filter_are_no_commands() -> None:
    found = top(WORKERS)
    assert found.press(["/", *"xsrpq"]) == []
    assert (found.question, found.quit, found.typing) == (None, False, "xsrpq")


@pytest.mark.parametrize(("key", "name"), [("s", "start"), ("x", "stop"), ("r", "restart"), ("p", "pause")])
@pytest.mark.parametrize("yes", ["y", "Y"])
def test_a_command_is_sent_after_y_in_a_later_read(key: str, name: str, yes: str) -> None:
    found = top(WORKERS, sort="account")
    assert found.press([key]) == []
    assert found.question == Command(name, "a")  # type: ignore[arg-type]
    assert found.press([yes]) == [Command(name, "a")]  # type: ignore[arg-type]
    assert found.question is None


def test_pasted_text_confirms_nothing() -> None:
    found = top(WORKERS, sort="account")
    assert found.press([*"xyxyxy"]) == []
    assert found.question == Command("stop", "a")


@pytest.mark.parametrize("key", ["n", "escape", "enter", "x", "q", "down"])
def test_any_other_key_cancels(key: str) -> None:
    found = top(WORKERS, sort="account")
    found.press(["x"])
    assert found.press([key]) == []
    assert (found.question, found.status, found.quit) == (None, "stop a: cancelled", False)


def test_p_resumes_a_paused_account() -> None:
    found = top(WORKERS, sort="account")
    found.press(["end"])
    found.press(["p"])
    assert found.question == Command("resume", "e")


def test_a_question_keeps_its_account_while_rows_move() -> None:
    found = top(WORKERS, sort="account")
    found.press(["j"])
    found.press(["x"])
    found.take(top_fleet(listing([worker("0"), *WORKERS[2:]])))
    screen(found, 80, 24)
    assert found.press(["y"]) == [Command("stop", "b")]


def test_without_commands_no_key_asks() -> None:
    found = top(WORKERS, commands=False)
    for key in "sxrp":
        assert found.press([key, "y"]) == []
        assert found.question is None
        assert "manager top" in found.status


def test_selection_moves_and_stays_on_its_account() -> None:
    found = top(WORKERS, sort="account")
    assert found.place() == 0
    for keys, expected in (
        (["j"], "b"),
        (["down", "down"], "d"),
        (["k"], "c"),
        (["up", "up", "up"], "a"),
        (["page down"], "e"),
        (["home"], "a"),
        (["end"], "e"),
    ):
        found.press(keys)
        assert found.selected == expected
    found.press(["home", "j"])
    found.sort = "cpu"
    found.take(top_fleet(listing(WORKERS)))
    assert (found.selected, found.place()) == ("b", 3)
    found.take(top_fleet(listing(WORKERS[2:])))
    assert (found.place(), found.selected) == (0, "e")


def test_a_question_names_the_account_and_its_positions() -> None:
    found = top(WORKERS)

    def question(account_id: str) -> str:
        return question_text(Command("stop", account_id), found.account(account_id))

    assert question("a") == "stop a, which has 2 open positions? y/n"
    assert question("c") == "stop c, which has no open positions? y/n"
    assert question("b") == "stop b, which has no running worker? y/n"
    silent = top([worker("a", open_positions=None), worker("b", open_positions=1)])
    assert question_text(Command("stop", "a"), silent.account("a")) == (
        "stop a, whose open positions are not known? y/n"
    )
    assert question_text(Command("stop", "b"), silent.account("b")).startswith(
        "stop b, which has 1 open position? "
    )


def test_accounts_without_a_worker_are_shown_on_demand_or_if_they_should_run() -> None:
    files = {
        **{name: AccountFile(enabled=True) for name in "amn"},
        **{"o": AccountFile(enabled=False), "p": AccountFile(enabled=None, readable=False)},
    }
    wanted = DesiredState(account_id="n", state="running", generation=1, host="h1", at=1)
    found = Top(sort="account")
    found.take(top_fleet(listing([worker("a"), worker("z")], files, {"n": wanted})))
    assert ids(found) == ["a", "n", "z"]
    found.press(["a"])
    states = {one.account_id: one.row.cells["state"] for one in found.rows()}
    assert states == {
        **{"a": "running", "m": "never started", "n": "never started"},
        **{"o": "disabled", "p": "invalid", "z": "running"},
    }
    texts = {one.account_id: one.row.cells["attention"] for one in found.rows()}
    assert texts["n"] == "should run on h1 but has no worker"
    assert "its account file is missing" in texts["z"]


def test_q_quits_and_question_mark_shows_help() -> None:
    found = top(WORKERS)
    found.press(["?"])
    shown = [line.plain for line in screen(found, 80, 24)]
    assert any(line.startswith("x ") and "stop" in line for line in shown)
    assert all("..." not in line for line in shown)
    found.press(["q"])
    assert (found.help, found.quit) == (False, False)
    found.press(["q"])
    assert found.quit


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("height", [6, 24, 50])
def test_the_screen_has_whole_words_and_the_terminals_size(width: int, height: int) -> None:
    long = [worker(f"account-{number:03}", equity="10000.00") for number in range(100)]
    long.append(worker("account-100", S.FAILED, error="the venue refused the password " * 9))
    found = top(long)
    shown = [line.plain for line in screen(found, width, height)]
    assert len(shown) == height
    assert all(len(line) <= width for line in shown)
    words = {"account-100", "failed", "the", "venue", "refused", "password", "...", "h1"}
    assert set(shown[2].split()) <= words
    assert shown[0].startswith("101 accounts, 1 needs attention, 100 running")
    found.press(["end"])
    assert any(line.startswith("account-099") for line in (one.plain for one in screen(found, width, height)))


@pytest.mark.parametrize("by", ["equity", "memory", "cpu"])
def test_the_column_that_sorts_is_shown_on_a_narrow_terminal(by: str) -> None:
    found = top([*WORKERS, worker("f", S.FAILED, error="the venue refused the password " * 9)], sort=by)
    assert by in screen(found, 60, 24)[1].plain.split()


def test_without_redis_the_screen_is_grey_and_names_the_cause() -> None:
    found = Top()
    found.take(top_fleet(listing(WORKERS, stale=12.0)))
    shown = screen(found, 80, 24)
    assert shown[1].plain == "Redis cannot be reached for 12 s: figures and states are old"
    assert {str(line.style) for line in shown[3:8]} == {"dim"}
    found.take(TopFleet(error="no Redis at redis://here", loaded=False))
    assert "no Redis at redis://here" in [line.plain for line in screen(found, 80, 24)]


def test_the_attention_of_the_selected_account_is_shown_with_what_to_do() -> None:
    found = top(WORKERS)
    shown = [line.plain for line in screen(found, 80, 24)]
    assert "d: failed: password refused" in shown
    assert any("`manager logs d` shows why" in line for line in shown)


def test_control_characters_of_a_worker_do_not_reach_the_terminal() -> None:
    found = top([worker("a", S.FAILED, error="\x1b[2Jgone\x07")])
    assert all(line.plain.isprintable() for line in screen(found, 80, 24))
