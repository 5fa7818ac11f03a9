"""The heartbeat file: two mapped pages from a worker to its host.

Some gateways hold the interpreter while a call blocks, so a hung worker cannot report that it hangs. The
worker records each call and its deadline before it makes the call. The host detects a hang from the file,
without Redis and also for a worker that an earlier agent started. The worker writes the pages alternately, so
that one is consistent even if the writer is interrupted. Times are `time.monotonic()`, which all processes of
a machine share.
"""

import contextlib
import json
import mmap
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from manager.system.masking import Masker
from manager.system.private_dirs import ensure_private_dir

_MAGIC: Final = b"WMBEAT01"
#: Size of a page, and number of pages; a worker of an older version writes one.
_SIZE: Final = 4096
_PAGES: Final = 2
#: Magic, sequence (odd while the page is being written), time of the beat, deadline of the call, name of the
#: call, length of the payload, length of the exit reason.
_HEAD: Final = struct.Struct("<8sQdd64sII")
_REASON_AT: Final = 128
_REASON_SIZE: Final = 1024
_PAYLOAD_AT: Final = _REASON_AT + _REASON_SIZE
_PAYLOAD_SIZE: Final = _SIZE - _PAYLOAD_AT

#: Status keys whose values the worker creates: a password equal to such a value must not mask it.
_OWN_KEYS: Final = ("phase", "health", "environment", "currency", "balance", "equity")

#: Key of the notes for the run history, beside the keys of the status.
_RUN: Final = "run"

#: Attempts of a reader that meets the writer in the middle of a page.
_READ_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The contents of a heartbeat file at one moment."""

    #: Seconds since the last beat of the worker's loop.
    age_seconds: float
    #: The gateway call that the worker is inside, if any.
    call: str | None
    #: Seconds by which that call is past its deadline; negative before it, None outside calls.
    overdue_seconds: float | None
    status: Mapping[str, Any] = field(default_factory=dict)
    #: Notes for the run history; see `manager.session.run_figures`.
    run: Mapping[str, Any] = field(default_factory=dict)
    exit_reason: str | None = None


class HeartbeatWriter:
    """The worker's side.

    Used by one thread, except `exit_reason`, which any thread may call.
    """

    def __init__(self, path: Path, mask: Masker | None = None) -> None:
        """Create the file. Raises OSError that names it."""
        self._mask = mask or Masker(())
        self._path = path
        self._file, self._inode = _make(path)
        self._sequence = 0
        self._call = b""
        self._deadline = 0.0
        self._payload = b"{}"
        self._reason = b""
        self._beat_at = time.monotonic()
        self._write()

    @property
    def age_seconds(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._beat_at

    @property
    def call(self) -> str | None:
        return self._call.decode(errors="replace") or None

    def beat(self) -> None:
        """Record that the loop is alive."""
        self._beat_at = time.monotonic()
        self._write()

    def begin_call(self, name: str, deadline: float) -> None:
        """Record a call that is about to start.

        `deadline` is in seconds of `time.monotonic()`.
        """
        self._call, self._deadline = name.encode()[:64], deadline
        self.beat()

    def end_call(self) -> None:
        self._call, self._deadline = b"", 0.0
        self.beat()

    def masked(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """Return the status with secrets masked.

        It goes to the host, to Redis and to every reader.

        An error text of a venue or a program may contain a secret.
        """
        return {**self._mask.values(status), **{key: status[key] for key in _OWN_KEYS if key in status}}

    def status(self, status: Mapping[str, Any], run: Mapping[str, Any] | None = None) -> None:
        """Write the latest status, already masked, and the notes for the run history.

        What is too large for the page is written as empty.
        """
        content = {**status, _RUN: run} if run else status
        payload = json.dumps(content, separators=(",", ":")).encode()
        self._payload = payload if len(payload) <= _PAYLOAD_SIZE else b"{}"
        self.beat()

    def restore(self) -> None:
        """Create the file again if it was moved or removed.

        Raises OSError that names the path.
        """
        if _inode_of(self._path) == self._inode:
            return
        ensure_private_dir(self._path.parent)
        draft = self._path.with_suffix(".draft")
        # Both pages are written before the file gets its name, so that a reader never sees an empty one.
        self._file, self._inode = _make(draft)
        for _ in range(_PAGES):
            self._write()
        draft.replace(self._path)

    def catch_up(self) -> None:
        """Load the file's present contents.

        A forked copy of this writer still has those of the fork.
        """
        inode = _inode_of(self._path)
        if inode not in (None, self._inode):
            with contextlib.suppress(OSError, ValueError), self._path.open("r+b") as file:
                self._file, self._inode = mmap.mmap(file.fileno(), _PAGES * _SIZE), inode
        page = _newest_page(self._file[:])
        if page is not None:
            self._sequence, self._beat_at, self._deadline, self._call, self._payload, self._reason = page

    def exit_reason(self, text: str) -> None:
        """Write the reason of the worker's end, for its host to read afterwards."""
        self._reason = self._mask(text).encode(errors="replace")[:_REASON_SIZE]
        self._write()

    def close(self) -> None:
        self._file.close()

    def _write(self) -> None:
        at = self._sequence // 2 % _PAGES * _SIZE
        self._head(at, self._sequence + 1)
        reason, payload = at + _REASON_AT, at + _PAYLOAD_AT
        self._file[reason : reason + len(self._reason)] = self._reason
        self._file[payload : payload + len(self._payload)] = self._payload
        self._sequence += 2
        self._head(at, self._sequence)

    def _head(self, at: int, sequence: int) -> None:
        _HEAD.pack_into(
            self._file,
            at,
            _MAGIC,
            sequence,
            self._beat_at,
            self._deadline,
            self._call,
            len(self._payload),
            len(self._reason),
        )


def _make(path: Path) -> tuple[mmap.mmap, tuple[int, int] | None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            # A page that a full disk cannot give would end the worker by a signal when it is first written.
            os.posix_fallocate(fd, 0, _PAGES * _SIZE)
        os.ftruncate(fd, _PAGES * _SIZE)
        return mmap.mmap(fd, _PAGES * _SIZE), _inode_of(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        os.close(fd)


def _inode_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def read_heartbeat(path: Path) -> Heartbeat | None:
    """Return the current contents.

    None if the file is missing or not a heartbeat file.
    """
    for _ in range(_READ_TRIES):
        try:
            # The path may be `/proc/PID/fd/N` of an ended process, and a new process may have a pipe there.
            if not path.is_file():
                return None
            data = path.read_bytes()
        except OSError:
            return None
        if len(data) not in (_SIZE, _PAGES * _SIZE) or not data.startswith(_MAGIC):
            return None
        page = _newest_page(data)
        if page is None:
            continue
        try:
            status = json.loads(page.payload)
        except ValueError:
            continue
        now = time.monotonic()
        status = status if isinstance(status, dict) else {}
        run = status.pop(_RUN, None)
        return Heartbeat(
            age_seconds=max(0.0, now - page.beat_at),
            call=page.call.decode(errors="replace") or None,
            overdue_seconds=now - page.deadline if page.deadline else None,
            status=status,
            run=run if isinstance(run, dict) else {},
            exit_reason=page.reason.decode(errors="replace") or None,
        )
    return None


class _Page(NamedTuple):
    sequence: int
    beat_at: float
    deadline: float
    call: bytes
    payload: bytes
    reason: bytes


def _newest_page(data: bytes) -> _Page | None:
    """Return the page that was completed last.

    None if the only page is being written.
    """
    whole = []
    for at in range(0, len(data), _SIZE):
        magic, sequence, beat_at, deadline, call, payload_length, reason_length = _HEAD.unpack_from(data, at)
        if (
            magic == _MAGIC
            and not sequence % 2
            and payload_length <= _PAYLOAD_SIZE
            and reason_length <= _REASON_SIZE
        ):
            payload, reason = at + _PAYLOAD_AT, at + _REASON_AT
            whole.append(
                _Page(
                    sequence,
                    beat_at,
                    deadline,
                    call.rstrip(b"\0"),
                    data[payload : payload + payload_length],
                    data[reason : reason + reason_length],
                )
            )
    return max(whole, default=None)
