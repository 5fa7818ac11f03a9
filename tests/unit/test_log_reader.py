"""Reading logs: raw, since a time, several merged, over rotation, with the account's host."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.servers import RedisServer

from manager.cli.main import cli
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.system import logs
from manager.system.log_lines import parse_line, parse_since
from manager.system.log_reader import LogReader
from manager.system.output_text import escape_output

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)


def at(minute: int, text: str) -> str:
    return f"2026-11-25T11:{minute:02}:00.000Z INFO manager.session action=x | {text}\n"


def output(minute: int, text: str, stream: str = "stdout", more: str = "") -> str:
    head = f"2026-11-25T11:{minute:02}:00.000Z INFO manager.program action=output"
    return f"{head} stream={stream}{more} | {text}\n"


Write = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a logger for an account's log, and the log's file."""
    monkeypatch.setenv("MANAGER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("MANAGER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MANAGER_HOST", "paris-1")
    monkeypatch.setenv("MANAGER_REDIS_URL", "redis://127.0.0.1:1/0")
    accounts = tmp_path / "config" / "accounts"
    accounts.mkdir(parents=True)
    directory = tmp_path / "state" / "logs" / "accounts"
    directory.mkdir(parents=True)

    def write(account_id: str, text: str | None, number: int = 0, group: str = "bots") -> Path:
        (accounts / f"{account_id}.yaml").write_text(
            f"gateway: command\ncommand: [bot]\nready: {{after_seconds: 1}}\ngroups: [{group}]\n"
        )
        path = directory / (f"{account_id}.log" + (f".{number}" if number else ""))
        if text is not None:
            path.write_bytes(text.encode(errors="surrogateescape"))
        return path

    return write


def manager(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["logs", *arguments], standalone_mode=False)


# one line


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "",
        "  blanks \t",
        'a | b=c "d"',
        "Zürich 東京",
        "10%\r20%",
        "C:\\new",
        "\udcff\x00\x85",
        "\x1b[31mred",
    ],
)
def test_what_a_program_printed_comes_back_from_either_format(
    text: str, as_json: bool, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    logs.configure(file=log, as_json=as_json)
    kept, escaped = escape_output(text)
    fields = {"stream": "stderr", "cut": True, "esc": True if escaped else None}
    logs.event(logging.getLogger("manager.program"), logging.INFO, "output", kept, **fields)
    logs.event(logging.getLogger("x"), logging.INFO, "start", "not output", stream="stdout", account="a | b")
    logs.flush()
    first, second = log.read_bytes().removesuffix(b"\n").split(b"\n")
    line = parse_line(first)
    assert line is not None
    assert (line.printed, line.stream, line.cut) == (text.encode(errors="surrogateescape"), "stderr", True)
    assert abs(line.time - datetime.now(UTC).timestamp()) < 60
    other = parse_line(second)
    assert other is not None
    assert other.printed is None


def test_a_line_of_version_0_2_and_foreign_text_are_read() -> None:
    old = parse_line(b"2026-11-25T11:00:00.000Z INFO manager.program action=output | text")
    assert old is not None
    assert (old.printed, old.stream) == (b"text", None)
    for foreign in (
        b"",
        b"Traceback (most recent call last):",
        b"{",
        b'{"time": 5}',
        b"[]",
        b"\xff",
        b"{" * 9999,
    ):
        assert parse_line(foreign) is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("2h", NOW - timedelta(hours=2)),
        ("1d2h3m4s", NOW - timedelta(days=1, hours=2, minutes=3, seconds=4)),
        ("2026-11-25T10:00", NOW.replace(hour=10)),
        ("2026-11-25", NOW.replace(hour=0)),
        ("2026-11-25T10:00:00.500Z", NOW.replace(hour=10, microsecond=500_000)),
        ("2026-11-25T10:00+02:00", NOW.replace(hour=8)),
    ],
)
def test_since_takes_a_time_ago_or_a_time(text: str, meant: datetime) -> None:
    assert parse_since(text, NOW) == meant.timestamp()


@pytest.mark.parametrize("text", ["", "10", "m", "yesterday", "10m2h", "-5m", "2026-13-01", "9" * 30 + "d"])
def test_since_names_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="neither a time ago"):
        parse_since(text, NOW)


# files


def last(path: Path, count: int) -> list[bytes]:
    reader = LogReader(path)
    found = [line.raw for line in reader.last(count)]
    reader.close()
    return found


def test_the_last_lines_reach_back_into_rotated_files(home: Write) -> None:
    path = home("a", at(50, "nine") + at(51, "ten"))
    home("a", at(10, "one") + at(11, "two"), 2)
    home("a", at(30, "three") + "Traceback\n  line\n" + at(31, "four"), 1)
    (path.parent / "a.log.old").write_text("not ours")
    assert [raw.split()[-1] for raw in last(path, 6)] == [
        b"three",
        b"Traceback",
        b"line",
        b"four",
        b"nine",
        b"ten",
    ]
    assert len(last(path, 100)) == 8
    assert last(path, 0) == []
    path.unlink()
    assert LogReader(path).exists()
    assert len(last(path, 2)) == 2


def test_lines_longer_than_a_block_and_without_an_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("x" * 700_000 + "\n\nshort\nbegun")
    reader = LogReader(path)
    assert [len(line.raw) for line in reader.last(10)] == [700_000, 0, 5]
    with path.open("a") as file:
        file.write(" and ended\n")
    assert [line.raw for line in reader.new()] == [b"begun and ended"]
    reader.close()


def test_since_reads_every_file_and_takes_a_traceback_with_its_line(home: Write) -> None:
    path = home("a", at(50, "late"))
    old = home("a", at(1, "old") + "old trace\n" + at(30, "in") + "  trace\n", 1)
    os.utime(home("a", at(0, "oldest"), 2), (0, 0))
    reader = LogReader(path)
    since = NOW.replace(hour=11, minute=20).timestamp()
    assert [line.raw.split()[-1] for line in reader.since(since)] == [b"in", b"trace", b"late"]
    os.utime(old, (0, 0))
    assert [line.raw.split()[-1] for line in reader.since(since)] == [b"late"], "not even opened"
    reader.close()


def test_following_continues_over_rotation_removal_and_emptying(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "a.log"
    path.parent.mkdir()
    path.write_text("zero\n")
    reader = LogReader(path)
    assert [line.raw for line in reader.last(5)] == [b"zero"]

    def add(text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(text)

    def new() -> list[bytes]:
        return [line.raw for line in reader.new()]

    add("one\ntw")
    assert new() == [b"one"]
    add("o\n")
    # Rotated twice between two looks.
    for number in (1, 2):
        for old in (2, 1):
            if (source := Path(f"{path}.{old}")).exists():
                source.rename(f"{path}.{old + 1}")
        path.rename(f"{path}.1")
        add(f"after {number}\n")
    assert new() == [b"two", b"after 1", b"after 2"]
    shutil.rmtree(path.parent)
    assert new() == []
    add("again\n")
    assert new() == [b"again"]
    path.write_text("x\n")
    assert new() == [b"x"], "emptied in its place, as logrotate's copytruncate does"
    reader.close()


# the command


def test_raw_is_what_the_program_printed(home: Write) -> None:
    home(
        "a",
        at(1, "not printed")
        + output(2, "tabs\tand Zürich \x1b[31mred\x1b[0m")
        + output(3, "  error ", "stderr")
        + output(4, r"10%\r20%\\ \xff", more=" esc=True")
        + output(5, "long", more=" cut=True")
        + output(6, " line")
        + "2026-11-25T11:07:00.000Z INFO manager.program action=output stream=stdout\n"
        + output(8, "no end", more=" cut=True"),
    )
    whole = b"tabs\tand Z\xc3\xbcrich \x1b[31mred\x1b[0m\n  error \n10%\r20%\\ \xff\nlong line\n\nno end"
    assert manager("a", "--raw").stdout_bytes == whole
    assert manager("a", "--raw", "--stream", "stderr").stdout_bytes == b"  error \n"
    assert manager("a", "--raw", "-n", "2").stdout_bytes == b"\nno end"
    only = manager("a", "--stream", "stderr").stdout
    assert only == output(3, "  error ", "stderr")


def test_raw_output_steers_no_terminal(home: Write) -> None:
    if sys.platform == "win32":
        pytest.skip("there are no pseudo terminals")
    home("a", output(1, "evil \x1b]0;title\x07\x1b[2J\ttab"))
    ours, theirs = os.openpty()
    program = [sys.executable, "-m", "manager.cli", "logs", "a", "--raw"]
    subprocess.run(program, stdout=theirs, stderr=subprocess.DEVNULL, check=False, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 4096)
    os.close(ours)
    assert "evil \ufffd]0;title\ufffd\ufffd[2J".encode() in shown
    assert b"\x1b" not in shown


def test_several_accounts_come_by_time_with_their_names(home: Write) -> None:
    home("a-1", output(1, "one") + output(4, "four"))
    home("b", output(2, "two") + output(3, "three", "stderr"))
    home("c", output(2, "other"), group="others")
    lines = ["a-1 | one", "b   | two", "b   | three", "a-1 | four"]
    assert manager("--group", "bots", "--raw").stdout.splitlines() == lines
    assert manager("a-1", "b", "--raw", "-n", "2").stdout.splitlines() == lines[2:]
    assert manager("a-1", "b", "--raw", "--since", "2026-11-25T11:02").stdout.splitlines() == lines[1:]
    with_prefix = manager("--group", "bots", "--stream", "stderr").stdout
    assert with_prefix == "b   | " + output(3, "three", "stderr")
    assert "no account matches" in str(manager("--group", "none").exception)


def test_several_are_followed_together(home: Write) -> None:
    first, second = home("a", output(1, "one")), home("b", None)
    program = [sys.executable, "-m", "manager.cli", "logs", "--group", "bots", "--raw", "-f"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "a | one\n"
            second.write_text(output(2, "begins later"))
            assert process.stdout.readline() == "b | begins later\n"
            first.rename(f"{first}.1")
            first.write_text(output(3, "after a rotation"))
            assert process.stdout.readline() == "a | after a rotation\n"
        finally:
            process.kill()


def test_without_redis_only_this_machine_was_looked_at(home: Write) -> None:
    home("a", None)
    result = manager("a")
    assert result.return_value == 1
    assert "a has no log on this machine" in result.stderr
    assert "the account never ran here" in result.stderr
    assert "only this machine was checked: Redis at redis://127.0.0.1:1" in result.stderr


def test_an_account_of_another_machine_is_reported_with_its_host(
    home: Write, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANAGER_REDIS_URL", redis_server.url)
    desired = DesiredStore(redis_server.url)
    for account_id in ("far", "moved", "here"):
        host = "paris-1" if account_id == "here" else "london-2"
        desired.set_desired(
            DesiredStateRequest(
                account_id=account_id, state="running", token=account_id, by="t", why="start", host=host
            )
        )
    home("far", None)
    home("moved", output(1, "of old"))
    home("here", None)
    far = manager("far", "-f")
    assert far.return_value == 1
    assert "far runs on london-2, and its log is not on " in far.stderr
    moved = manager("moved", "--raw")
    assert (moved.return_value, moved.stdout) == (0, "of old\n")
    assert "moved runs on london-2" in moved.stderr
    here = manager("here")
    assert here.return_value == 1
    assert "was moved or removed" in here.stderr
    assert "only this machine" not in here.stderr
