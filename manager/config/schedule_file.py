"""Reads `schedules.yaml`: the named schedules of a fleet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import RootModel, ValidationError

from manager.config.document import Document
from manager.config.field_types import Name
from manager.config.loaded import LoadedAccount, structural_problems
from manager.config.models_schedule import ScheduleConfig
from manager.config.problems import Problem
from manager.config.schedules import ScheduleBook

SCHEDULES_FILE: Final = "schedules.yaml"


class _Entries(RootModel[dict[Name, ScheduleConfig]]):
    """Name → schedule."""


@dataclass(frozen=True)
class ScheduleFile:
    """The content of `schedules.yaml`; empty if there is no file."""

    book: ScheduleBook = field(default_factory=ScheduleBook)
    names: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def load_schedules(document: Document) -> ScheduleFile:
    """Build the named schedules; an entry with a problem is left out."""
    if document.data is None:
        book = ScheduleBook(readable=not document.problems)
        return ScheduleFile(book, problems=document.problems)
    problems: list[Problem] = list(document.problems)
    found = LoadedAccount("", document.file, None, None, (), (document,), False)
    entries: Mapping[str, ScheduleConfig] = {}
    wrong: set[str] = set()
    try:
        entries = _Entries.model_validate(document.data).root
    except ValidationError as error:
        problems += structural_problems(found, error, ScheduleConfig, skip=1)
        wrong = {str(entry["loc"][0]) for entry in error.errors(include_url=False, include_input=False)}
        entries = _Entries.model_validate({k: v for k, v in document.data.items() if k not in wrong}).root
    book = ScheduleBook(entries, wrong=wrong)
    for name in entries:
        try:
            book.named(name)
        except ValueError as error:
            problems.append(found.problem((name,), str(error)))
    return ScheduleFile(book, tuple(entries), tuple(problems))


__all__ = ["SCHEDULES_FILE", "ScheduleFile", "load_schedules"]
