"""Suggestions for misspelt commands never change anything."""

import string
from collections.abc import Iterator

import click
import pytest

from manager.cli.main import cli
from manager.cli.suggestions import READ_ONLY

#: The path of every command that changes something.
CHANGING = {
    *(
        "api",
        "up",
        "down",
        "init",
        "host",
        "flower",
        "scheduler",
        "import",
        "start",
        "stop",
        "restart",
        "move",
        "pause",
        "resume",
        "approve",
        "rollout",
        *(f"rollout {name}" for name in ("start", "pause", "resume", "promote", "cancel")),
    ),
    *("start-all", "stop-all", "drain", "resume-host", "forget-host", "forget"),
    *("config push", "config rollback", "secure", "secure init", "secure add-host"),
    *("service", "service install", "service uninstall"),
    *("schedule", "schedule override"),
    *("token", "token create", "token revoke"),
}
LETTERS = string.ascii_lowercase + "-"


def groups() -> Iterator[tuple[str, click.Group, click.Context]]:
    top = click.Context(cli, info_name="manager")
    yield "", cli, top
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            yield name, command, click.Context(command, info_name=name, parent=top)


def near(word: str) -> set[str]:
    """Return every word with one edit or one swap of adjacent letters."""
    cuts = [(word[:index], word[index:]) for index in range(len(word) + 1)]
    return {
        *(a + b[1:] for a, b in cuts if b),
        *(a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1),
        *(a + letter + b[1:] for a, b in cuts if b for letter in LETTERS),
        *(a + letter + b for a, b in cuts for letter in LETTERS),
    }


def test_every_command_is_classified() -> None:
    every = {f"{path} {name}".strip() for path, group, _ in groups() for name in group.commands}
    harmless = {f"{path} {name}".strip() for path, names in READ_ONLY.items() for name in names}
    assert CHANGING | harmless == every
    assert not CHANGING & harmless


@pytest.mark.parametrize("path", [path for path, _, _ in groups()])
def test_no_misspelling_suggests_a_changing_command(path: str) -> None:
    group, context = next((group, context) for name, group, context in groups() if name == path)
    changing = {name for name in group.commands if f"{path} {name}".strip() in CHANGING}
    offered: set[str] = set()
    for command in group.commands:
        # A few of each kind of mistake, because all of them would be thousands.
        for typed in sorted(near(command) - set(group.commands))[::7]:
            if typed.startswith("-"):
                continue
            with pytest.raises(click.UsageError) as raised:
                group.resolve_command(context, [typed])
            hint = raised.value.message.partition("did you mean ")[2].partition("?")[0]
            offered |= set(filter(None, hint.split(" or ")))
            assert f"`{context.command_path} --help` lists all" in raised.value.message
    assert not offered & changing
    if READ_ONLY[path]:
        assert offered, "read-only commands are suggested"
