"""Selects the translator for a file."""

import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Final

from manager.config.importing import compose, pm2, supervisord
from manager.config.importing.drafts import SourceFile, Translation
from manager.errors import ImportSourceError

FORMATS: Final[Mapping[str, Callable[[SourceFile, str | None], Translation]]] = {
    "supervisord": supervisord.translate,
    "pm2": pm2.translate,
    "compose": compose.translate,
}
_SCRIPT: Final = re.compile(r"^\s*(?:module\.exports|exports\.|export\s+default|const\s|require\()", re.M)


def translate(
    source: SourceFile, kind: str | None = None, environment: str | None = None
) -> tuple[str, Translation]:
    """Translate a file; returns its format and the translation.

    `environment` is PM2's `--env`.

    Raises ImportSourceError if the format is unknown, if the file cannot be parsed, or if it has no program.
    """
    found = kind or _kind(source)
    translation = FORMATS[found](source, environment)
    if not translation.drafts:
        reasons = "".join(f"\n{note}" for note in translation.notes)
        raise ImportSourceError(f"{source.name}: no program was found in it (read as {found}){reasons}")
    for draft in translation.drafts:
        values = [*draft.values["command"], draft.values.get("directory", "")]
        if any("\0" in value for value in values):
            raise ImportSourceError(
                f"{source.name}: {draft.origin}: has a NUL character, which is not possible in arguments"
            )
    return found, translation


def _kind(source: SourceFile) -> str:
    ending = posixpath.splitext(source.name.lower())[1]
    if ending in {".js", ".cjs", ".mjs", ".ts"} or (ending == ".json" and _SCRIPT.search(source.text)):
        raise ImportSourceError(pm2.script_refused(source.name))
    if ending in {".conf", ".ini", ".cfg"} or re.search(
        r"^\[(?:program|supervisord|group):?", source.text, re.M
    ):
        return "supervisord"
    if ending == ".json":
        return "pm2"
    if ending in {".yml", ".yaml"}:
        return "pm2" if re.search(r"^apps\s*:", source.text, re.M) else "compose"
    raise ImportSourceError(
        f"{source.name}: its name does not show its format: give --format {', '.join(FORMATS)}"
    )
