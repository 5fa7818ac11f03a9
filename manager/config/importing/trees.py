"""JSON and YAML of others, with the line of every key.

Account files may hold no anchors and merge keys (`manager.config.document`); docker-compose files do, so they are read
with ruamel.yaml's safe loader, and what anchors could blow up to is counted first.
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

#: Nodes of a document with its aliases written out. A compose file of 256 KiB without aliases has fewer.
_MAX_NODES: Final = 200_000
_MAX_DEPTH: Final = 64


class Tree:
    """A document's data, and where its keys stand."""

    def __init__(self, data: Any, root: Node | None) -> None:
        self.data = data
        self._root = root

    def line(self, place: Place) -> int | None:
        """Return the line of a key, or of a list's entry; None if it is not known."""
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
    """Parse JSON. Raises ImportSourceError; `hint` is added where it may be JavaScript."""
    try:
        data = json.loads(source.text)
        json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ImportSourceError(
            f"{source.name}:{error.lineno}:{error.colno}: not JSON: {error.msg}. If it {hint.partition(': ')[2]}"
        ) from None
    except (RecursionError, ValueError) as error:
        raise ImportSourceError(f"{source.name}: not JSON that can be read: {type(error).__name__}") from None
    root: Node | None = None
    try:
        # JSON is YAML, but for tabs: then lines are not known.
        root = YAML(pure=True).compose(source.text.replace("\t", " "))
    except (YAMLError, RecursionError, ValueError):
        root = None
    return Tree(data, root)


def read_yaml(source: SourceFile) -> Tree:
    """Parse YAML with anchors and merge keys. Raises ImportSourceError with the line."""
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
        raise ImportSourceError(f"{source.name}: not YAML that can be read: {type(error).__name__}") from None


def _check_size(name: str, root: Node) -> None:
    """Refuse aliases that lead back to themselves, or that would grow beyond all memory."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: Node, depth: int) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_ or depth > _MAX_DEPTH:
            raise ImportSourceError(f"{name}:{node.start_mark.line + 1}: nested too deeply, or in itself")
        open_.add(id(node))
        total = 1
        if isinstance(node, MappingNode):
            total += sum(size(key, depth + 1) + size(value, depth + 1) for key, value in node.value)
        elif isinstance(node, SequenceNode):
            total += sum(size(value, depth + 1) for value in node.value)
        open_.discard(id(node))
        if total > _MAX_NODES:
            raise ImportSourceError(f"{name}:{node.start_mark.line + 1}: its aliases make it too large")
        sizes[id(node)] = total
        return total

    size(root, 0)
