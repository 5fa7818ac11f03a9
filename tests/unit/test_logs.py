import json
import logging
import stat
import sys
import threading
from pathlib import Path

import pytest

from manager.system import logs
from manager.system.masking import Masker


@pytest.fixture(autouse=True)
def _root_as_it_was() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers, root.level = handlers, level
    return None


def written(path: Path) -> str:
    logs.flush()
    return path.read_text()


def test_an_event_is_one_line_with_its_action_and_ids(tmp_path: Path) -> None:
    logs.configure(file=tmp_path / "log")
    logs.event(logging.getLogger("x"), logging.INFO, "start", "two\nlines", account="a-1", pid=None)
    assert written(tmp_path / "log").endswith("Z INFO x action=start account=a-1 | two\\nlines\n")


def test_json_on_request(tmp_path: Path) -> None:
    logs.configure(file=tmp_path / "log", as_json=True)
    logs.event(logging.getLogger("x"), logging.WARNING, "stop", "why", account="a-1")
    line = json.loads(written(tmp_path / "log"))
    assert (line["action"], line["account"], line["level"], line["message"]) == (
        "stop",
        "a-1",
        "WARNING",
        "why",
    )


def test_a_secret_is_masked_in_text_fields_and_traceback(tmp_path: Path) -> None:
    logs.configure(file=tmp_path / "log", secrets=["s3cret!", "s3cret!longer"])
    log = logging.getLogger("x")
    try:
        raise ValueError("login with s3cret!longer failed")
    except ValueError:
        log.exception("the venue said s3cret!")
    logs.event(log, logging.INFO, "x", field="s3cret!")
    text = written(tmp_path / "log")
    assert "s3cret" not in text
    assert "longer" not in text.replace("s3cret!longer", "").split("Traceback")[0]
    assert text.count("***") >= 3


def test_a_log_file_is_private(tmp_path: Path) -> None:
    logs.configure(file=tmp_path / "log")
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_a_field_with_spaces_stays_one_field(tmp_path: Path) -> None:
    logs.configure(file=tmp_path / "log")
    logs.event(logging.getLogger("x"), logging.INFO, "x", reason='a "b" = c')
    assert 'reason="a \\"b\\" = c"' in written(tmp_path / "log")


def test_a_rotated_log_file_is_private_too(tmp_path: Path) -> None:
    logs.configure(file=tmp_path / "log", max_bytes=200, backups=2)
    for _ in range(10):
        logs.event(logging.getLogger("x"), logging.INFO, "start", "x" * 50)
    logs.flush()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2"]
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in files} == {0o600}


@pytest.mark.parametrize("as_json", [False, True])
def test_a_secret_is_masked_however_it_was_escaped(tmp_path: Path, as_json: bool) -> None:
    secret = "p\"a\\ss w'ord"
    logs.configure(file=tmp_path / "log", secrets=[secret], as_json=as_json)
    log = logging.getLogger("x")
    logs.event(log, logging.INFO, "x", f"{secret!r} and {secret}", field=secret, reported=repr({"a": secret}))
    text = written(tmp_path / "log")
    assert "ss w" not in text
    assert text.count("***") >= 4


def test_what_is_printed_goes_to_the_log_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    mask = Masker(["s3cret-of-mine"])
    logs.configure(file=tmp_path / "log", secrets=mask.secrets)
    logs.catch_printing(mask)
    print("logging in with s3cret", end="", flush=True)
    print("-of-mine", flush=True)

    def fail() -> None:
        raise ValueError("s3cret-of-mine is wrong")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    text = written(tmp_path / "log")
    assert "action=printed stream=stdout | logging in with ***" in text
    assert "ValueError: *** is wrong" in text
    assert "s3cret" not in text


def test_a_log_that_cannot_be_written_does_not_print_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                raise OSError("no space left on device")
            except OSError:
                self.handleError(record)

    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    logging.getLogger().handlers = [Full()]
    logs.catch_printing(Masker(()))
    print("one line")
    logging.getLogger("x").warning("another")
