"""`manager --help`: every command is in one section, and no summary is cut."""

import click
import pytest
from click.testing import CliRunner

from manager.cli.main import cli
from manager.cli.sections import SECTIONS


def test_every_visible_command_is_in_exactly_one_section() -> None:
    listed = [name for commands in SECTIONS.values() for name in commands]
    visible = {name for name, command in cli.commands.items() if not command.hidden}
    assert sorted(listed) == sorted(visible)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_summary_is_cut_or_wrapped(width: int) -> None:
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=width).output
    for commands in SECTIONS.values():
        for name, summary in commands.items():
            assert any(line.split() == [name, *summary.split()] for line in shown.splitlines()), (name, shown)


def _options(command: click.Command, path: str) -> list[tuple[str, click.Option]]:
    found = [(path, one) for one in command.params if isinstance(one, click.Option)]
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            found += _options(sub, f"{path} {name}")
    return found


def test_every_option_with_a_value_shows_its_default() -> None:
    """Click shows constant defaults; the help text contains the others."""
    silent = [
        f"{path} {option.opts[-1]}"
        for path, option in _options(cli, "manager")
        if not (option.is_flag or option.multiple or option.required or option.show_default)
        and "default" not in (option.help or "").lower()
    ]
    assert silent == []
