"""Safe reading of one YAML file, with a fast and a slow parser.

The fast parser, written in Rust, reports no positions. It would accept tags, aliases, several documents and
leading zeros, and would crash on deep nesting, so the bytes are searched for these first. If one is found, or
if parsing fails, ruamel.yaml parses the text again to find the position. Both parsers read YAML 1.2: `no` and
`on` are texts.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import yaml_rs
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, DocumentStartEvent, NodeEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from manager.config.problems import Place, Problem
from manager.config.secret_names import is_secret_place
from manager.system.regular_files import NotRegularError, read_regular_file

#: Maximum size in bytes. An account with a hundred currencies has a tenth of this.
MAX_SIZE: Final = 256 * 1024
#: Maximum nesting. A configuration has five levels; the fast parser crashes at a hundred thousand.
MAX_DEPTH: Final = 32

#: Content that requires the slow parser: anchors, aliases, tags, merge keys, directives, further documents,
#: and numbers that YAML parsers read differently. A match within a string costs time but does no harm.
_SUSPECT: Final = re.compile(
    rb"(?:^|[\s,\[{:?-])[&*!](?=\S)|<<\s*:|^(?:---|%|\.\.\.)|[\s,\[{:-][-+]?0[0-9_XOB]|[\s,\[{:-][-+.]?[0-9]*_",
    re.M,
)
_BRACKETS: Final = re.compile(rb"[\[\]{}]")
_NESTED_LINE: Final = re.compile(rb"(?:[-?:][ \t\r\n]+){%d}" % (MAX_DEPTH + 1))
#: A regular expression costs ten nanoseconds per byte. With these tables, a few substring searches clear most
#: files. A substring that is found proves nothing yet: then the expression decides.
_NUMBERS: Final = bytes(
    48
    if c == 48
    else 57
    if 49 <= c <= 57
    else 95
    if c == 95
    else 32
    if chr(c) in " \t\r\n\v\f,[{:-+."
    else 97
    for c in range(256)
)
_NUMBER_WORDS: Final = (b" 00", b" 09", b" 0_", b"0_", b"9_", b" _")
_OTHER_WORDS: Final = (b"&", b"*", b"!", b"<<", b"---", b"%", b"...", b"0X", b"0O", b"0B")
_INDICATORS: Final = bytes(45 if chr(c) in "-?:" else 97 for c in range(256))
_CONTROLS: Final = bytes(c for c in (*range(32), 127) if c not in b"\t\n\r")
#: Numbers that YAML 1.1, YAML 1.2 or two parsers read differently: leading zeros, underscores, and `0X1F`.
_AMBIGUOUS: Final = re.compile(
    r"[-+]?0[0-9_]+|[-+]?0[XOB][0-9A-Fa-f_]+|[-+]?(?=[\d.]*_)(?=.*\d)[\d_]*\.?[\d_]*(?:[eE][-+]?[\d_]+)?"
)
_SHARED: Final = "put what accounts share into defaults.yaml"
_KEY: Final = re.compile(r"([\w.-]+)[\"']?\s*:")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


@dataclass(frozen=True)
class Document:
    """A file's content, or the problems that prevent reading it.

    `data` is None exactly then.
    """

    file: str
    text: str = field(default="", repr=False)
    data: dict[str, Any] | None = field(default=None, repr=False)
    problems: tuple[Problem, ...] = ()

    def position(self, place: Place, *, key: bool = False) -> tuple[int, int] | None:
        """Return line and column (from 1) of the value at `place`, or of its key.

        None if the file has no such value.
        """
        return self._positions.get((place, key))

    def source(self, place: Place) -> str | None:
        """Return the scalar at `place` as written in the file, or None."""
        node: Node | None = None
        with contextlib.suppress(YAMLError):
            node = _compose(self.text)
        for part in place:
            inner: Node | None = None
            if isinstance(node, MappingNode):
                inner = next((value for key, value in node.value if str(key.value) == str(part)), None)
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                inner = node.value[part]
            node = inner
        return str(node.value) if isinstance(node, ScalarNode) else None

    @cached_property
    def _positions(self) -> dict[tuple[Place, bool], tuple[int, int]]:
        try:
            return dict(_walk(_compose(self.text), ()))
        except YAMLError:
            return {}


def read_document(path: str, file: str) -> Document:
    """Read a file; messages call it `file`.

    Raises nothing: the document contains the problems.
    """
    try:
        raw = read_regular_file(path, MAX_SIZE)
        if len(raw) > MAX_SIZE:
            return _bad(file, f"is longer than the {MAX_SIZE:,} bytes that are allowed")
        text = raw.decode("utf-8-sig")
    except NotRegularError as error:
        return _bad(file, str(error))
    except OSError as error:
        return _bad(file, f"cannot be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return _bad(file, f"byte {raw[error.start]:#04x} is not UTF-8: save the file as UTF-8", line, 1)
    return parse_document(text, raw, file)


def parse_document(text: str, raw: bytes, file: str) -> Document:
    """Parse YAML text; `raw` is the same text as UTF-8. Raises nothing."""
    deep = _too_deep(raw)
    if deep is not None:
        line = raw.count(b"\n", 0, deep) + 1
        column = deep - (raw.rfind(b"\n", 0, deep) + 1) + 1
        return _bad(file, f"nested deeper than {MAX_DEPTH} levels", line, column, text)
    odd_bytes = len(raw.translate(None, _CONTROLS)) != len(raw) or b"\xef\xbf" in raw
    control = _CONTROL.search(text) if odd_bytes else None
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        return _bad(file, f"control character {ord(control[0]):#04x}: this is not a text file", line, 1, text)
    if _may_be_suspect(raw) and _SUSPECT.search(raw):
        problems = _precise_problems(text, file)
        if problems:
            return Document(file, text, None, problems)
    try:
        data: Any = yaml_rs.loads(text, parse_datetime=False)
    except Exception as error:
        problems = _precise_problems(text, file)
        return Document(file, text, None, problems or (Problem(file, None, None, _first_line(error)),))
    if data is None:
        return _bad(file, "is empty: was it only half written?", text=text)
    if not isinstance(data, dict):
        return _bad(file, "is not a mapping: write `key: value` lines", 1, 1, text)
    odd = next((key for key in data if not isinstance(key, str)), None)
    if odd is not None or None in data:
        return _bad(file, f"key {odd!r} is not a text", text=text)
    return Document(file, text, data)


def _may_be_suspect(raw: bytes) -> bool:
    numbers = raw.translate(_NUMBERS)
    return any(word in raw for word in _OTHER_WORDS) or any(word in numbers for word in _NUMBER_WORDS)


def _too_deep(raw: bytes) -> int | None:
    nested = None
    if b"-" * (MAX_DEPTH + 1) in raw.translate(_INDICATORS, b" \t\r\n"):
        nested = _NESTED_LINE.search(raw)
    if nested is not None:
        return nested.start()
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return None
    depth = 0
    for bracket in _BRACKETS.finditer(raw):
        depth = depth + 1 if bracket[0] in b"[{" else max(0, depth - 1)
        if depth > MAX_DEPTH:
            return bracket.start()
    return None


def _precise_problems(text: str, file: str) -> tuple[Problem, ...]:
    """Return all YAML errors and unsupported features, with positions."""
    try:
        lines = text.splitlines()
        found = [
            Problem(file, mark.line + 1, mark.column + 1, what)
            for mark, what in _refused_events(YAML(pure=True).parse(text), lines)
        ]
        return tuple(found or _duplicates(_compose(text), file))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        return (
            Problem(
                file, line, column, f"is not valid YAML: {(error.problem or 'it cannot be read').strip()}"
            ),
        )
    except (YAMLError, ValueError) as error:
        return (Problem(file, None, None, f"is not valid YAML: {_first_line(error)}"),)


def _refused_events(events: Iterable[Any], lines: list[str]) -> Iterator[tuple[Any, str]]:
    documents = 0
    for event in events:
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                yield event.start_mark, "a second document begins here; a file holds one"
                return
        elif isinstance(event, AliasEvent):
            yield event.start_mark, f"aliases (*name) are not allowed; {_SHARED}"
        elif isinstance(event, NodeEvent):
            line = event.start_mark.line
            names = _KEY.findall(lines[line]) if line < len(lines) else ()
            secret = any(is_secret_place((name,)) for name in names)
            for what in _refused_node(event, secret=secret, octal="umask" in names):
                yield event.start_mark, what


def _refused_node(event: Any, *, secret: bool, octal: bool) -> Iterator[str]:
    if event.anchor is not None:
        yield f"anchors (&name) are not allowed; {_SHARED}"
    tag = getattr(event, "ctag", None) or getattr(event, "tag", None)
    if tag is not None and str(tag) not in ("None", ""):
        yield f"tags{'' if secret else f' ({tag})'} are not allowed; write a plain value"
    if not isinstance(event, ScalarEvent) or event.style not in (None, ""):
        return
    if _AMBIGUOUS.fullmatch(event.value) and secret:
        yield (
            "the value is ambiguous (YAML parsers differ): write it in quotes, or as a number without "
            "leading zeros"
        )
    elif _AMBIGUOUS.fullmatch(event.value) and octal:
        yield (
            f"{event.value} is ambiguous (YAML parsers differ): write the octal digits in quotes, "
            f'"{event.value}"'
        )
    elif _AMBIGUOUS.fullmatch(event.value):
        bare = event.value.replace("_", "")
        bare = bare.lower() if bare.lstrip("+-")[1:2] in ("X", "O", "B") else bare.lstrip("+0") or "0"
        yield (
            f"{event.value} is ambiguous (YAML parsers differ): write {bare} for the number, "
            f'"{event.value}" for the text'
        )
    elif event.value == "<<":
        yield "merge keys (<<) are not allowed; defaults.yaml is merged automatically"


def _compose(text: str) -> Node | None:
    found: Node | None = YAML(pure=True).compose(text)
    return found


def _duplicates(node: Node | None, file: str) -> Iterator[Problem]:
    if isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                text = f"key {name!r} appears for the second time (first in line {seen[name]})"
                yield Problem(file, line, key.start_mark.column + 1, text)
            seen.setdefault(name, line)
            yield from _duplicates(value, file)
    elif isinstance(node, SequenceNode):
        for value in node.value:
            yield from _duplicates(value, file)


def _walk(node: Node | None, place: Place) -> Iterator[tuple[tuple[Place, bool], tuple[int, int]]]:
    if node is None:
        return
    yield (place, False), (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value)) if isinstance(key, ScalarNode) else place
            yield (inner, True), (key.start_mark.line + 1, key.start_mark.column + 1)
            yield from _walk(value, inner)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(value, (*place, index))


def _bad(
    file: str, what: str, line: int | None = None, column: int | None = None, text: str = ""
) -> Document:
    return Document(file, text, None, (Problem(file, line, column, what),))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
