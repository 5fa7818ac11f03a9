"""A file whose space is allocated in advance, for when the disk is full.

The host agent saves desired state here when `desired.json` cannot be written. Otherwise a stop could be
accepted while the disk is full, the agent could end, and the next agent would read the old file and start the
account again.

The file has two halves that are overwritten in turn. A crash while one half is written leaves the other one
intact.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import struct
from io import BufferedRandom
from pathlib import Path
from typing import Final

_MAGIC: Final = b"WMRSRV01"
#: Magic, number of the text, its length, SHA-256 of number and text.
_HEAD: Final = struct.Struct("<8sQQ32s")
#: Bytes of a half at least: the desired state of about 250 accounts.
_MIN_HALF: Final = 64 * 1024


class ReserveFile:
    """One text in reserved space. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self._in_use = True

    def reserve(self, length: int) -> None:
        """Allocate space for a text of 1.5 times `length` bytes.

        Raises OSError if the disk has no room.
        """
        half = max(_MIN_HALF, -(-(length * 3 // 2 + _HEAD.size) // 4096) * 4096)
        with contextlib.suppress(OSError):
            if self._path.stat().st_size >= 2 * half:
                return
        if shutil.disk_usage(self._path.parent).free < 4 * half:
            # Leave the last free space to other files.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        draft = self._path.with_suffix(".reserve-new")
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # Zeros, not a sparse file: a hole is allocated only when it is written.
            for _ in range(2 * half // 4096):
                os.write(fd, b"\0" * 4096)
            os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        finally:
            os.close(fd)
        draft.replace(self._path)
        self._in_use = False

    def write(self, text: str) -> None:
        """Save the text in the reserved space.

        Raises OSError if that fails or the text does not fit.
        """
        data = text.encode()
        number = max(self._number, self._newest()[0]) + 1
        with self._open() as file:
            half = os.fstat(file.fileno()).st_size // 2
            if _HEAD.size + len(data) > half:
                raise OSError(f"{self._path} has no room for {len(data)} bytes")
            file.seek(number % 2 * half)
            file.write(_HEAD.pack(_MAGIC, number, len(data), _digest(number, data)) + data)
            file.flush()
            os.fsync(file.fileno())
        self._number, self._in_use = number, True

    def read(self) -> str | None:
        """Return the text that was last saved, or None if there is none."""
        return self._newest()[1]

    def clear(self) -> None:
        """Delete the text and keep the space reserved. Raises OSError."""
        if not self._in_use or not self._path.exists():
            return
        with self._open() as file:
            half = os.fstat(file.fileno()).st_size // 2
            for at in (0, half):
                file.seek(at)
                file.write(b"\0" * _HEAD.size)
            file.flush()
            os.fsync(file.fileno())
        self._in_use = False

    def _newest(self) -> tuple[int, str | None]:
        found: tuple[int, str | None] = (0, None)
        with contextlib.suppress(OSError, ValueError):
            data = self._path.read_bytes()
            half = len(data) // 2
            for at in (0, half):
                if half < _HEAD.size:
                    break
                magic, number, length, digest = _HEAD.unpack_from(data, at)
                text = data[at + _HEAD.size : at + _HEAD.size + length]
                whole = magic == _MAGIC and length <= half - _HEAD.size and digest == _digest(number, text)
                if whole and number > found[0]:
                    found = (number, text.decode())
        return found

    def _open(self) -> BufferedRandom:
        return self._path.open("r+b")


def _digest(number: int, data: bytes) -> bytes:
    return hashlib.sha256(struct.pack("<Q", number) + data).digest()
