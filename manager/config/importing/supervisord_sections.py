"""Parses supervisord.conf and its included files, with line numbers."""

import configparser
import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from manager.config.importing.drafts import Notes, SourceFile
from manager.errors import ImportSourceError

_KEY_LINE: Final = re.compile(r"([^\s\[;#:=][^:=]*?)\s*[:=]")
_SECTION_LINE: Final = re.compile(r"\[([^\]]+)\]")


@dataclass(frozen=True, slots=True)
class _Value:
    text: str
    file: str
    line: int | None


class Section:
    """One section, possibly from several files."""

    def __init__(self, name: str, file: str, line: int | None) -> None:
        self.name, self.file, self.line = name, file, line
        self.values: dict[str, _Value] = {}

    def get(self, key: str, default: str | None = None) -> str | None:
        found = self.values.get(key)
        return default if found is None else found.text

    def at(self, key: str) -> tuple[int | None, str]:
        """Return line and file of a key, or of the section."""
        found = self.values.get(key)
        return (self.line, self.file) if found is None else (found.line, found.file)


def pairs(section: Section, notes: Notes) -> dict[str, str]:
    """Parse `KEY="value",KEY2=value` as supervisor does."""
    text = section.get("environment")
    if not text:
        return {}
    lexer = shlex.shlex(text)
    lexer.wordchars += "/.+-():%"
    found: dict[str, str] = {}
    try:
        tokens = list(lexer)
        while tokens:
            name, equals, value = tokens[:3]
            if equals != "=":
                raise ValueError("= is missing")
            found[name] = value.strip("'\"")
            tokens = tokens[4:]
    except ValueError:
        # The error is not shown: its text may contain a part of a secret.
        line, file = section.at("environment")
        notes.lost(
            f"[{section.name}] environment",
            f'is not KEY="value",KEY2="value" after {", ".join(found) or "its beginning"}: '
            "add the rest to `environment`",
            line,
            file,
        )
    return found


def groups_of_programs(sections: Mapping[str, Section]) -> dict[str, str]:
    found: dict[str, str] = {}
    for section in sections.values():
        kind, _, name = section.name.partition(":")
        if kind == "group":
            for program in (section.get("programs") or "").split(","):
                found[program.strip()] = name.strip()
    return found


def read_sections(source: SourceFile, notes: Notes) -> dict[str, Section]:
    sections: dict[str, Section] = {}
    _parse(source.name, source.text, sections)
    include = sections.get("include")
    if include is None:
        return sections
    line, file = include.at("files")
    for given in (include.get("files") or "").split():
        pattern = given.replace("%(here)s", source.directory)
        paths = sorted(source.glob(source.path(pattern)))
        if not paths:
            notes.lost("[include] files", f"{pattern} matches no file: programs may be missing", line, file)
        for path in paths:
            text = source.read(path)
            if text is None:
                notes.lost("[include] files", f"{path} cannot be read: programs may be missing", line, file)
            else:
                _parse(posixpath.relpath(path, source.directory), text, sections)
    return sections


def _parse(file: str, text: str, sections: dict[str, Section]) -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        parser.read_string(text, source=file)
    except configparser.Error as error:
        raise ImportSourceError(f"{file}: not a supervisord configuration: {_line_of(error)}") from None
    lines = _lines(text)
    for name in parser.sections():
        section = sections.setdefault(name, Section(name, file, lines.get((name, None))))
        for key, value in parser.items(name):
            section.values[key] = _Value(value.strip(), file, lines.get((name, key)))


def _line_of(error: configparser.Error) -> str:
    """Return where parsing failed.

    The text of the line is omitted, because it may contain a secret.
    """
    number_ = getattr(error, "lineno", None)
    errors = getattr(error, "errors", None)
    if number_ is None and errors:
        number_ = errors[0][0]
    return (
        "it cannot be parsed" if number_ is None else f"line {number_} is neither a section nor `key=value`"
    )


def _lines(text: str) -> dict[tuple[str, str | None], int]:
    found: dict[tuple[str, str | None], int] = {}
    section = ""
    for number_, line in enumerate(text.splitlines(), start=1):
        heading = _SECTION_LINE.match(line)
        if heading is not None:
            section = heading[1]
            found.setdefault((section, None), number_)
            continue
        key = _KEY_LINE.match(line)
        if key is not None:
            found[section, key[1].lower()] = number_
    return found
