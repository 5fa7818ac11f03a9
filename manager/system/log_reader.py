"""Reads an account's log across its rotated files.

Other processes may rotate, move, remove or truncate the files meanwhile.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from manager.system.log_lines import LogLine, parse_line

#: Size in bytes of a read from the end of a file.
_BLOCK: Final = 262_144

LineFilter = Callable[[LogLine], bool]


class LogReader:
    """Reads one log.

    Call `last` or `since`, then `new` repeatedly, then `close`, on one thread.
    """

    def __init__(self, path: Path, matches: LineFilter = lambda _line: True) -> None:
        """Return and count only lines for which `matches` is true."""
        self._path = path
        self._matches = matches
        self._file: BinaryIO | None = None
        self._begun = b""
        self._time = 0.0

    def exists(self) -> bool:
        """Return whether the log or a rotated file exists."""
        return bool(_files(self._path))

    def last(self, count: int) -> list[LogLine]:
        """Return the last `count` matching lines, the oldest first."""
        found: list[LogLine] = []
        files = self._open()
        try:
            # Read from the end: a log may be large, and callers mostly need a few lines.
            for file in reversed(files):
                following: list[bytes] = []
                for raw in _backward(file, self._end(file)):
                    if len(found) >= count:
                        break
                    line = parse_line(raw)
                    if line is None:
                        following.append(raw)  # continues an earlier line
                        continue
                    found += [one for one in _with_following(line, following) if self._matches(one)]
                    following.clear()
                found += [one for raw in following if self._matches(one := LogLine(raw))]
        finally:
            self._let_go(files)
        found = found[:count]
        if found:
            self._time = found[0].time
        return found[::-1]

    def since(self, time: float) -> Iterator[LogLine]:
        """Yield the matching lines since `time` (seconds since 1970)."""
        files = self._open(time)
        try:
            for file in files:
                end = self._end(file)
                file.seek(0)
                while file.tell() < end:
                    raw = file.readline()
                    line = self._read(raw.removesuffix(b"\n"))
                    if line.time >= time and self._matches(line):
                        yield line
        finally:
            self._let_go(files)

    def new(self) -> list[LogLine]:
        """Return matching lines since the last call, also from rotated files."""
        lines: list[LogLine] = []
        if self._file is None:
            self._file = _opened(self._path)
            if self._file is None:
                return lines
        # Check before reading the rest: nothing is added to a file after it was renamed.
        moved = _moved(self._path, self._file)
        lines += self._rest(self._file)
        if moved:
            between = _newer(self._path, self._file)
            self._file.close()
            self._begun = b""
            for path in between:
                file = _opened(path)
                if file is not None:
                    with file:
                        lines += self._rest(file)
            self._file = _opened(self._path)
            if self._file is not None:
                lines += self._rest(self._file)
        return lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # inside

    def _open(self, time: float = 0.0) -> list[BinaryIO]:
        """Open every file with lines since `time`, the oldest first."""
        self.close()
        # The current file first: a file that is rotated meanwhile is opened twice instead of missed.
        self._file = _opened(self._path)
        files: list[BinaryIO] = [] if self._file is None else [self._file]
        seen = {_inode(file) for file in files}
        for path in reversed(_rotated(self._path)):
            file = _opened(path)
            if file is None:
                continue
            if _inode(file) in seen or os.fstat(file.fileno()).st_mtime < time:
                file.close()
                continue
            seen.add(_inode(file))
            files.append(file)
        return files[::-1]

    def _end(self, file: BinaryIO) -> int:
        """Return where the last complete line of the current file ends.

        The size of other files.
        """
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:
            at = max(0, end - _BLOCK)
            file.seek(at)
            newline = file.read(end - at).rfind(b"\n")
            if newline >= 0:
                end = at + newline + 1
                break
            end = at
        return end if file is self._file else size

    def _let_go(self, files: list[BinaryIO]) -> None:
        for file in files:
            if file is not self._file:
                file.close()
        if self._file is not None:
            self._file.seek(self._end(self._file))
            self._begun = b""

    def _rest(self, file: BinaryIO) -> list[LogLine]:
        if file.tell() > os.fstat(file.fileno()).st_size:
            file.seek(0)  # the file was truncated
            self._begun = b""
        *lines, self._begun = (self._begun + file.read()).split(b"\n")
        return [line for raw in lines if self._matches(line := self._read(raw))]

    def _read(self, raw: bytes) -> LogLine:
        line = parse_line(raw)
        if line is None:
            return LogLine(raw, self._time)
        self._time = line.time
        return line


def _with_following(line: LogLine, following: list[bytes]) -> Iterator[LogLine]:
    """Yield the continuation lines, the last one first, then the line itself."""
    for raw in following:
        yield replace(LogLine(raw), time=line.time)
    yield line


def _backward(file: BinaryIO, end: int) -> Iterator[bytes]:
    """Yield the lines of a file up to `end`, the last one first."""
    rest: bytes | None = None
    while end:
        at = max(0, end - _BLOCK)
        file.seek(at)
        block = file.read(end - at)
        if rest is None:
            block = block.removesuffix(b"\n")
            rest = b""
        first, *lines = (block + rest).split(b"\n")
        yield from reversed(lines)
        rest, end = first, at
    if rest is not None:
        yield rest


def _rotated(path: Path) -> list[Path]:
    """Return the rotated files of a log, the oldest first."""
    numbers = [
        int(number)
        for found in path.parent.glob(f"{path.name}.*")
        if (number := found.name.removeprefix(f"{path.name}.")).isdecimal() and number.isascii()
    ]
    return [path.with_name(f"{path.name}.{number}") for number in sorted(numbers, reverse=True)]


def _files(path: Path) -> list[Path]:
    return [*_rotated(path), *([path] if path.exists() else [])]


def _newer(path: Path, file: BinaryIO) -> list[Path]:
    """Return the rotated files newer than an open one, the oldest first.

    Empty if it is not found.
    """
    rotated = _rotated(path)
    ours = os.fstat(file.fileno())
    for number, found in enumerate(rotated):
        try:
            if found.stat().st_ino == ours.st_ino:
                # Compare times too: another program may number its rotated files differently.
                return [one for one in rotated[number + 1 :] if one.stat().st_mtime_ns >= ours.st_mtime_ns]
        except OSError:
            continue
    return []


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except OSError:
        return None


def _inode(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino


def _moved(path: Path, file: BinaryIO) -> bool:
    """Return whether the path names another file; a missing path may reappear."""
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) != _inode(file)
