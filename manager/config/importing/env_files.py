"""Files of variables of another supervisor: the account reads them in place, if both read them alike."""

from manager.config.environment_files import parse_variables
from manager.config.importing.drafts import Draft, SourceFile


def use_file(draft: Draft, source: SourceFile, path: str) -> str | None:
    """Have the account read a file as `environment_file`; returns why it cannot, without any value."""
    text = source.read(path)
    if text is None:
        return "cannot be read"
    problems = parse_variables(text).problems
    if problems:
        return f"line {problems[0].line}: {problems[0].text}"
    draft.values.setdefault("environment_file", []).append(path)
    return None
