"""Finds files that seem meant as configuration but are not read.

An account whose file is not read does not trade, and nothing else would show that. The manager reads
`defaults.yaml` in the configuration directory and `accounts/<account id>.yaml`.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml_rs

from manager.config.ids import id_problem
from manager.system.regular_files import NotRegularError, read_regular_file

#: File name endings of configuration files, here and in other programs, and frequent misspellings.
_DATA: Final = frozenset({"yaml", "yml", "yalm", "ymal", "yam", "yaml_", "json", "jsonc", "json5"})
#: Temporary files of editors and operating systems: never reported.
_LEFTOVER: Final = re.compile(
    r"\..*|#.*#|~.*|.*~|.*\.(?:swp|swo|swx|tmp|part|crdownload)|"
    r"Thumbs\.db|desktop\.ini|Icon\r|__pycache__|lost\+found",
    re.I | re.S,
)
#: Files with another purpose: texts, programs, secrets, data.
_OTHER: Final = re.compile(
    r"readme.*|licen[cs]e.*|changelog.*|codeowners|makefile|.*\.(?:example|sample|template|dist|tpl|j2)|"
    r".*\.(?:md|rst|adoc|py|pyc|sh|bash|ps1|bat|cmd|exe|js|ts|log|csv|db|sqlite|lock|password|passwd|"
    r"secret|key|pem|crt|pid)",
    re.I | re.S,
)
#: File name endings of backup copies.
_COPY: Final = re.compile(r"(?:\.(?:bak|backup|old|orig|save|rej|copy)\d*|\.~\d+~|\.\d+)\Z", re.I)
_OFF: Final = re.compile(r"\.(?:disabled|disable|off|inactive|_)\Z", re.I)
#: Keys that distinguish an account file or the defaults from files of other programs.
_OUR_KEYS: Final = frozenset(
    {
        "account_id",
        "gateway",
        "currencies",
        "default_risk",
        "position_management",
        "recovery",
        "failover",
        "risk",
    }
)
_DEFAULTS: Final = re.compile(r"(?:global[-_ ]?)?defaults?", re.I)
_ACCOUNTS: Final = frozenset({"accounts", "account", "acounts", "accouts", "acount", "accountss"})
#: Limits of the search: bytes of a file, files, and levels of directories.
_MAX_SIZE: Final = 256 * 1024
_MAX_FILES: Final = 2_000
_MAX_DEPTH: Final = 6


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or directory that is not read."""

    #: The path below the configuration directory, with `/`.
    name: str
    #: Why it is not read, and what to do.
    reason: str

    @property
    def key(self) -> str:
        """The name in `accounts/` without `.yaml`, used among account IDs."""
        return self.name.removeprefix("accounts/").removesuffix(".yaml")

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def left_out(directory: Path) -> list[LeftOut]:
    """Return unread files and directories that seem meant to be read.

    The result is sorted by name. Contains `accounts/` itself if that directory is missing or has no account.
    Raises nothing.
    """
    found = [*_beside(directory), *_in_accounts(directory)]
    return sorted(found, key=lambda one: one.name)


def _in_accounts(directory: Path) -> Iterator[LeftOut]:
    accounts = directory / "accounts"
    try:
        with os.scandir(accounts) as scan:
            entries = {entry.name: entry for entry in scan}
    except OSError as error:
        yield LeftOut("accounts", _unlisted_directory(accounts, error))
        return
    read = 0
    others: list[LeftOut] = []
    for name, entry in entries.items():
        if _LEFTOVER.fullmatch(name):
            continue
        stem = name.removesuffix(".yaml")
        if stem != name and id_problem(stem) is None:
            read += 1
            continue
        where = f"accounts/{name}"
        if _is_directory(entry):
            inner = _data_files(Path(entry.path))
            if inner is None or inner:
                found = "it cannot be listed" if not inner else f"found in it: {_few(inner)}"
                others.append(
                    LeftOut(
                        where, f"directories in accounts/ are not read ({found}): move its files to accounts/"
                    )
                )
        elif not _OTHER.fullmatch(name) and not _is_copy_of_one(name, set(entries)):
            others.append(LeftOut(where, _why_not_read(name, set(entries), directory)))
    yield from others
    if not read and not others:
        yield LeftOut(
            "accounts",
            f"{accounts.absolute()} holds no account files: is the file system mounted? {_INIT}",
        )


_INIT: Final = "`manager init` writes the first files; MANAGER_CONFIG_DIR names another directory"


def _unlisted_directory(accounts: Path, error: OSError) -> str:
    place = accounts.absolute()
    if error.errno == errno.ENOENT:
        if os.path.lexists(accounts):
            return f"{place} is a link to a missing directory: is it mounted? {_INIT}"
        return f"{place} does not exist, so there are no accounts: is it mounted? {_INIT}"
    return f"{place} cannot be listed: {error.strerror}"


def _why_not_read(name: str, names: set[str], directory: Path) -> str:
    base = name.split(".", 1)[0]
    if _DEFAULTS.fullmatch(base) and _is_data(name):
        target = directory / "defaults.yaml"
        if os.path.lexists(target):
            return (
                "is not read: values for all accounts belong in defaults.yaml beside accounts/: "
                "merge it into that file"
            )
        return f"is not read: values for all accounts belong in {target.absolute()}: move it there"
    intended = _intended_id(name)
    problem = id_problem(intended)
    if problem is not None:
        return f"is not read: {problem}: rename it"
    file = f"{intended}.yaml"
    if file in names:
        return f"is not read, and accounts/{file} is: merge them, and remove this one"
    if _OFF.search(name):
        return f"is not read: rename it to {file}, and write `enabled: false` into it to disable the account"
    if not _is_data(name) and _original(name) == name:
        return (
            f"is not read: rename it to end in .yaml if it is an account ({file}), "
            "else move it out of accounts/"
        )
    return f"is not read: rename it to end in .yaml ({file})"


def _beside(directory: Path) -> Iterator[LeftOut]:
    """Yield files in the configuration directory itself."""
    try:
        with os.scandir(directory) as scan:
            entries = {entry.name: entry for entry in scan}
    except OSError:
        return  # `accounts/` is missing too, and is reported
    names = set(entries)
    for name, entry in entries.items():
        if _LEFTOVER.fullmatch(name) or _is_copy_of_one(name, names) or _is_read(directory, entry):
            continue
        if _is_directory(entry):
            yield from _directory_beside(name, Path(entry.path))
        elif _OTHER.fullmatch(name):
            continue
        elif _DEFAULTS.fullmatch(name.split(".", 1)[0]) and (_is_data(name) or "." not in name):
            what = "merge it into defaults.yaml" if "defaults.yaml" in names else "rename it to defaults.yaml"
            yield LeftOut(name, f"is not read: {what}")
        elif _is_data(name) and _looks_like_ours(Path(entry.path)):
            target = f"accounts/{_intended_id(name)}.yaml"
            yield LeftOut(name, f"is not read: if it is an account, move it to {target}")


def _directory_beside(name: str, path: Path) -> Iterator[LeftOut]:
    if name.lower() in _ACCOUNTS:
        yield LeftOut(name, "is not read: account files belong in accounts/ (lower case): move them there")
        return
    ours = [one for one in _data_files(path, levels=0) or () if _looks_like_ours(path / one)]
    if ours:
        yield LeftOut(
            name,
            f"is not read, and accounts are found in it ({_few(ours)}): account files belong in accounts/",
        )


def _intended_id(name: str) -> str:
    """Return the account ID that a file name seems to mean."""
    parts = name.split(".")
    for number, part in enumerate(parts[1:], 1):
        if part.strip().lower() in _DATA:
            return ".".join(parts[:number])
    return re.sub(r"\.txt\Z", "", _OFF.sub("", _original(name)), flags=re.I)


def _is_data(name: str) -> bool:
    return any(part.strip().lower() in _DATA for part in name.split(".")[1:])


def _is_copy_of_one(name: str, names: set[str]) -> bool:
    """Return whether the file is a backup copy of a file that also exists."""
    original = _original(name)
    return original != name and (original in names or f"{original}.yaml" in names)


def _original(name: str) -> str:
    while (shorter := _COPY.sub("", name)) != name and shorter:
        name = shorter
    return name


#: What is read in the configuration directory.
_READ: Final = ("defaults.yaml", "schedules.yaml", "accounts")


def _is_read(directory: Path, entry: "os.DirEntry[str]") -> bool:
    """Return whether the entry is `defaults.yaml`, `schedules.yaml` or `accounts`.

    Compares files, because file systems may ignore case.
    """
    if entry.name in _READ:
        return True
    for name in _READ:
        with contextlib.suppress(OSError):
            if (directory / name).samefile(entry.path):
                return True
    return False


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _data_files(directory: Path, levels: int = _MAX_DEPTH) -> list[str] | None:
    """Return the configuration files below a directory, or None.

    None if the directory cannot be listed. Does not follow links.
    """
    found: list[str] = []
    waiting: list[tuple[str, int]] = [("", levels)]
    count = 0
    while waiting and count < _MAX_FILES:
        below, left = waiting.pop()
        try:
            with os.scandir(directory / below) as scan:
                for entry in scan:
                    count += 1
                    if _LEFTOVER.fullmatch(entry.name):
                        continue
                    name = f"{below}/{entry.name}" if below else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if left:
                            waiting.append((name, left - 1))
                    elif _is_data(entry.name) and _original(entry.name) == entry.name:
                        found.append(name)
        except OSError:
            if not below:
                return None
    return sorted(found)


def _looks_like_ours(path: Path) -> bool:
    """Return whether a file has, or may have, the content of an account file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        text = read_regular_file(str(path), _MAX_SIZE).decode("utf-8-sig")
        data = yaml_rs.loads(text, parse_datetime=False)
    except (OSError, NotRegularError):
        return True  # a dangling link, or a file that may not be read
    except Exception:
        return False
    return isinstance(data, dict) and not _OUR_KEYS.isdisjoint(key for key in data if isinstance(key, str))


def _few(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
