"""Environment files of another supervisor.

They are used in place if both programs read them in the same way.
"""

from manager.config.environment_files import parse_variables
from manager.config.importing.drafts import Draft, SourceFile


def use_file(draft: Draft, source: SourceFile, path: str) -> str | None:
    """Add a file to `environment_file`.

    Returns why that is not possible, without any value, or None.
    """
    text = source.read(path)
    if text is None:
        return "cannot be read"
    problems = parse_variables(text).problems
    if problems:
        return f"line {problems[0].line}: {problems[0].text}"
    draft.values.setdefault("environment_file", []).append(path)
    return None
