"""Explains why the system cannot execute a file, and what to do."""

import errno
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

#: Bytes to read from a file's beginning. Linux also truncates a longer `#!` line.
_HEAD: Final = 256
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def find_program(program: str, directory: Path | None, search_path: str | None = None) -> str | None:
    """Return the path of a program in `directory` or on PATH, or None.

    A program that is named by its path is returned even if it cannot be executed; see `program_trouble`.
    """
    if not program or "\0" in program:
        return None
    if directory is not None and (directory / program).is_file():
        return str(directory / program)
    return shutil.which(program, path=search_path)


def program_trouble(path: str, search_path: str | None = None) -> str | None:
    """Return why this file cannot be executed here, or None."""
    if sys.platform == "win32":
        return None
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
        if not stat.S_ISREG(mode):
            return f"{path} is not a file"
        if not os.access(path, os.X_OK):
            return (
                f"{path} may not be executed: chmod +x it, or name its interpreter first, as in "
                f"[python3, {_name(path)}]"
            )
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(_HEAD)
    except PermissionError:
        return None  # a program may be executed without being readable
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return _head_trouble(path, head, search_path)


def start_failure(path: str, error: OSError, search_path: str | None = None) -> str:
    """Return why a program could not be started, based on the system's error."""
    # The error may concern the working directory or the guard's files.
    if error.filename is not None and os.fspath(error.filename) != path:
        return f"{error.filename}: {error.strerror or error}"
    known = program_trouble(path, search_path)
    if known is not None:
        return known
    if error.errno == errno.ENOEXEC:
        return f"{path} is not a program for this machine ({error.strerror})"
    if error.errno == errno.ENOENT:
        return f"{path}: its interpreter, or its dynamic loader, is missing on this machine"
    return f"{path}: {error.strerror or error}"


def _head_trouble(path: str, head: bytes, search_path: str | None) -> str | None:
    if not head:
        return f"{path} is empty"
    text = head.removeprefix(_BYTE_ORDER_MARK)
    if text.startswith(b"#!"):
        if len(text) < len(head):
            return f"{path} begins with a byte-order mark before #!: save it as UTF-8 without one"
        return _interpreter_trouble(path, text[2:].split(b"\n", 1)[0], search_path)
    if b"\0" in head or not _is_text(head):
        return None  # a binary, which only the system can check
    return (
        f"{path} has no #! line, so the system does not know its interpreter: begin it with "
        f"#!/usr/bin/env bash (or python3, …), or name the interpreter first, as in [bash, {_name(path)}]"
    )


def _interpreter_trouble(path: str, line: bytes, search_path: str | None) -> str | None:
    if line.endswith(b"\r"):
        return (
            f"{path}: its first line ends with a carriage return, as in files from Windows, so its "
            f"interpreter is not found: convert it (sed -i 's/\\r$//' {_name(path)})"
        )
    words = line.decode(errors="replace").split()
    if not words:
        return f"{path}: its first line names no interpreter after #!"
    interpreter = words[0]
    if not interpreter.startswith("/"):
        return (
            f"{path}: its first line names {interpreter[:80]!r} without a path: write "
            f"#!/usr/bin/env {interpreter[:80]}"
        )
    if not Path(interpreter).exists():
        return (
            f"{path}: its first line names the interpreter {interpreter[:80]}, which is missing on this "
            "machine"
        )
    if not os.access(interpreter, os.X_OK) or Path(interpreter).is_dir():
        return f"{path}: its first line names {interpreter[:80]}, which may not be executed"
    if Path(interpreter).name == "env":
        command = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), None)
        if command is not None and shutil.which(command, path=search_path) is None:
            return (
                f"{path}: its first line needs {command[:80]!r}, which is not on PATH: install it, or give "
                "its full path"
            )
    return None


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # the limit of the read splits a character
    return True


def _name(path: str) -> str:
    return Path(path).name
