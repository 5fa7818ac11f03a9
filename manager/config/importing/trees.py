"""Parses JSON and YAML of other programs, with the line of every key.

Account files may not contain anchors and merge keys (`manager.config.document`), but docker-compose files do.
They are parsed with ruamel.yaml's safe loader, after the size of the expanded document was checked.
"""

import json
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from manager.config.document import MAX_SIZE
from manager.config.importing.drafts import SourceFile
from manager.config.problems import Place
from manager.errors import ImportSourceError

#: Maximum number of nodes after aliases are expanded. A file of 256 KiB without aliases has fewer.
_MAX_NODES: Final = 200_000
_MAX_DEPTH: Final = 64


class Tree:
    """A document's data, and the lines of its keys."""

    def __init__(self, data: Any, root: Node | None) -> None:
        self.data = data
        self._root = root

    def line(self, place: Place) -> int | None:
        """Return the line of a key or of a list's entry, or None if it is unknown."""
        node, line = self._root, None
        for part in place:
            if isinstance(node, MappingNode):
                pairs = [(key, value) for key, value in node.value if isinstance(key, ScalarNode)]
                pair = next((pair for pair in pairs if pair[0].value == str(part)), None)
                if pair is None:
                    return None
                node, line = pair[1], pair[0].start_mark.line + 1
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                return None
        return line


def read_json(source: SourceFile, hint: str) -> Tree:
    """Parse JSON.

    Raises ImportSourceError, with `hint` added because the file may be JavaScript.
    """
    try:
        data = json.loads(source.text)
        json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ImportSourceError(
            f"{source.name}:{error.lineno}:{error.colno}: not JSON: {error.msg}. "
            f"If it {hint.partition(': ')[2]}"
        ) from None
    except (RecursionError, ValueError) as error:
        raise ImportSourceError(f"{source.name}: not JSON: {type(error).__name__}") from None
    root: Node | None = None
    try:
        # JSON is also YAML, except for tabs. If parsing fails, lines are unknown.
        root = YAML(pure=True).compose(source.text.replace("\t", " "))
    except (YAMLError, RecursionError, ValueError):
        root = None
    return Tree(data, root)


def read_yaml(source: SourceFile) -> Tree:
    """Parse YAML with anchors and merge keys.

    Raises ImportSourceError with the line.
    """
    if len(source.text) > MAX_SIZE:
        raise ImportSourceError(f"{source.name}: is longer than the {MAX_SIZE:,} characters that are allowed")
    try:
        root = YAML(pure=True).compose(source.text)
        if root is None:
            raise ImportSourceError(f"{source.name}: is empty")
        _check_size(source.name, root)
        return Tree(YAML(typ="safe", pure=True).load(source.text), root)
    except ImportSourceError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ImportSourceError(f"{source.name}{at}: not YAML: {(error.problem or '').strip()}") from None
    except (YAMLError, RecursionError, ValueError, TypeError) as error:
        raise ImportSourceError(f"{source.name}: not YAML: {type(error).__name__}") from None


def _check_size(name: str, root: Node) -> None:
    """Raise ImportSourceError for recursive and for too large aliases."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: Node, depth: int) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_ or depth > _MAX_DEPTH:
            raise ImportSourceError(f"{name}:{node.start_mark.line + 1}: nested too deeply, or recursive")
        open_.add(id(node))
        total = 1
        if isinstance(node, MappingNode):
            total += sum(size(key, depth + 1) + size(value, depth + 1) for key, value in node.value)
        elif isinstance(node, SequenceNode):
            total += sum(size(value, depth + 1) for value in node.value)
        open_.discard(id(node))
        if total > _MAX_NODES:
            raise ImportSourceError(
                f"{name}:{node.start_mark.line + 1}: too large after its aliases are expanded"
            )
        sizes[id(node)] = total
        return total

    size(root, 0)
