"""A worker's pulse on disk: two mapped pages that the worker writes and its host reads, with no call in between.

Some gateways hold the interpreter for as long as a call blocks, so a worker cannot be trusted to say that it hangs.
It notes each call and its deadline here before it makes it; the host judges from outside, without Redis and even for
a worker that an earlier host agent started. It writes the pages in turn, so that one of them is whole wherever the
system, or a signal, holds the writer up. Times are `time.monotonic()`, which all processes of a machine share.
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
#: Of one page, and pages in a file; a worker of an older version writes one.
_SIZE: Final = 4096
_PAGES: Final = 2
#: magic, sequence (odd while it is being written), beat, deadline of the call, name of the call, payload length,
#: length of the last words
_HEAD: Final = struct.Struct("<8sQdd64sII")
_WORDS_AT: Final = 128
_WORDS_SIZE: Final = 1024
_PAYLOAD_AT: Final = _WORDS_AT + _WORDS_SIZE
_PAYLOAD_SIZE: Final = _SIZE - _PAYLOAD_AT

#: Texts of a status that the worker makes itself; a password that is such a word must not hide it.
_OUR_WORDS: Final = ("phase", "health", "environment", "currency", "balance", "equity")

#: How often a reader tries again when it met the writer in the middle.
_READ_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a beat file says at one moment."""

    #: Seconds since the worker's loop last gave a sign of life.
    age_seconds: float
    #: The gateway call that it is inside, if any.
    call: str | None
    #: Seconds by which that call is past its deadline; negative while it has time left, None outside calls.
    overdue_seconds: float | None
    status: Mapping[str, Any] = field(default_factory=dict)
    exit_reason: str | None = None


class HeartbeatWriter:
    """The worker's end. Used by one thread, but for `exit_reason`, which any may set on the way out."""

    def __init__(self, path: Path, mask: Masker | None = None) -> None:
        """Make the file. Raises OSError that names it."""
        self._mask = mask or Masker(())
        self._path = path
        self._file, self._inode = _make(path)
        self._sequence = 0
        self._call = b""
        self._deadline = 0.0
        self._payload = b"{}"
        self._words = b""
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
        """Note that the loop lives."""
        self._beat_at = time.monotonic()
        self._write()

    def begin_call(self, name: str, deadline: float) -> None:
        """Note that `name` is about to be called and should be back by `deadline` (monotonic seconds)."""
        self._call, self._deadline = name.encode()[:64], deadline
        self.beat()

    def end_call(self) -> None:
        self._call, self._deadline = b"", 0.0
        self.beat()

    def masked(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures with secrets in their texts masked: they go to the host, to Redis and to readers.

        A venue's or a program's error text may hold what the worker gave it.
        """
        return {**self._mask.values(status), **{key: status[key] for key in _OUR_WORDS if key in status}}

    def status(self, status: Mapping[str, Any]) -> None:
        """Publish the latest figures, masked already; what does not fit the page is left out whole."""
        payload = json.dumps(status, separators=(",", ":")).encode()
        self._payload = payload if len(payload) <= _PAYLOAD_SIZE else b"{}"
        self.beat()

    def mend(self) -> None:
        """Make the file again if somebody has moved or removed it. Raises OSError that names what cannot be made."""
        if _inode_of(self._path) == self._inode:
            return
        ensure_private_dir(self._path.parent)
        draft = self._path.with_suffix(".draft")
        # The old pages are let go of only once nothing writes to them any more.
        self._file, self._inode = _make(draft)
        for _ in range(_PAGES):
            self._write()
        draft.replace(self._path)

    def catch_up(self) -> None:
        """Go on from what the file says now: a forked copy of this writer is as old as its fork."""
        inode = _inode_of(self._path)
        if inode not in (None, self._inode):
            with contextlib.suppress(OSError, ValueError), self._path.open("r+b") as file:
                self._file, self._inode = mmap.mmap(file.fileno(), _PAGES * _SIZE), inode
        page = _newest_page(self._file[:])
        if page is not None:
            self._sequence, self._beat_at, self._deadline, self._call, self._payload, self._words = page

    def exit_reason(self, text: str) -> None:
        """Leave the reason of the end where it can be read after it."""
        # Cut at the end: it must be valid text whatever was in the middle of it.
        self._words = self._mask(text).encode(errors="replace")[:_WORDS_SIZE]
        self._write()

    def close(self) -> None:
        self._file.close()

    def _write(self) -> None:
        at = self._sequence // 2 % _PAGES * _SIZE
        self._head(at, self._sequence + 1)
        words, payload = at + _WORDS_AT, at + _PAYLOAD_AT
        self._file[words : words + len(self._words)] = self._words
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
            len(self._words),
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
    """Return what the beat file says now; None if there is none, or if it is no beat file."""
    for _ in range(_READ_TRIES):
        try:
            # It may be named through a process (`/proc/PID/fd/N`) that has ended: what has its pid now may hold a pipe there.
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
        return Heartbeat(
            age_seconds=max(0.0, now - page.beat_at),
            call=page.call.decode(errors="replace") or None,
            overdue_seconds=now - page.deadline if page.deadline else None,
            status=status if isinstance(status, dict) else {},
            exit_reason=page.words.decode(errors="replace") or None,
        )
    return None


class _Page(NamedTuple):
    sequence: int
    beat_at: float
    deadline: float
    call: bytes
    payload: bytes
    words: bytes


def _newest_page(data: bytes) -> _Page | None:
    """Return the page that was finished last; None if the only one is being written."""
    whole = []
    for at in range(0, len(data), _SIZE):
        magic, sequence, beat_at, deadline, call, payload_length, words_length = _HEAD.unpack_from(data, at)
        if (
            magic == _MAGIC
            and not sequence % 2
            and payload_length <= _PAYLOAD_SIZE
            and words_length <= _WORDS_SIZE
        ):
            payload, words = at + _PAYLOAD_AT, at + _WORDS_AT
            whole.append(
                _Page(
                    sequence,
                    beat_at,
                    deadline,
                    call.rstrip(b"\0"),
                    data[payload : payload + payload_length],
                    data[words : words + words_length],
                )
            )
    return max(whole, default=None)
