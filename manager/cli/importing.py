"""Command `import`: account files from supervisord, PM2 or docker-compose."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manager.cli.common import json_option, print_error, print_json, say, settings
from manager.system.text import counted

if TYPE_CHECKING:
    from manager.config.importing import Draft, Note, SourceFile, Translation

#: Largest size, in bytes, of the imported file and of each file that it names.
_MAX_SIZE = 1024 * 1024
#: Format → the commands that stop the previous supervisor.
_END_OF = {
    "supervisord": "`supervisorctl shutdown`",
    "pm2": "`pm2 delete all`, `pm2 save --force`",
    "compose": "`docker compose down`",
}


@click.command("import")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["supervisord", "pm2", "compose"]),
    help="The format of FILE. [default: chosen by the file's name]",
)
@click.option(
    "--env",
    "environment",
    metavar="NAME",
    help="PM2: also read `env_NAME`, as `pm2 start --env NAME` does. [default: only `env`]",
)
@click.option(
    "--group", "groups", multiple=True, metavar="NAME", help="Also add every account to this group."
)
@click.option("--dry-run", is_flag=True, help="Print the files without writing them.")
@click.option("--force", is_flag=True, help="Overwrite existing account files.")
@json_option
def import_(
    source: Path,
    kind: str | None,
    environment: str | None,
    groups: tuple[str, ...],
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Write account files for the programs of another supervisor.

    FILE is a supervisord.conf, an ecosystem.config.json (PM2) or a docker-compose.yml.

    Lists what cannot be translated, with its line and what to do instead. Exits with 1 if any of it changes
    how a program behaves. Values of `environment` that look like secrets go to files in secrets/ that only
    you can read. Starts nothing.
    """
    from manager.config.importing import account_files, translate
    from manager.config.importing.drafts import group_names
    from manager.placement.labels import label_problem

    for group in groups:
        problem = label_problem(group, "")
        if problem is not None:
            raise click.UsageError(f"--group: {problem}")
    directory = settings().config_dir
    found, translation = translate(_source_file(source), kind, environment)
    for draft in translation.drafts:
        if groups:
            draft.values["groups"] = group_names([*draft.values.get("groups", []), *groups])
        _check(draft, directory)
    contents = {draft.account_id: account_files(draft) for draft in translation.drafts}
    taken = [] if force else _taken(directory, [path for files in contents.values() for path in files])
    if not dry_run and not taken:
        for files in contents.values():
            _write(directory, files)
    lost = [note for note in translation.notes if note.changes_behaviour]
    if as_json:
        print_json(
            {
                "source": str(source),
                "format": found,
                "config_dir": str(directory),
                "written": not dry_run and not taken,
                "exist": taken,
                "accounts": [
                    _account(draft, contents[draft.account_id], dry_run) for draft in translation.drafts
                ],
                "not_translated": [_note(note) for note in lost],
                "noted": [_note(note) for note in translation.notes if not note.changes_behaviour],
            }
        )
        return int(bool(lost or taken))
    _say_all(directory, found, translation, contents, taken, dry_run=dry_run)
    return int(bool(lost or taken))


def _source_file(path: Path) -> "SourceFile":
    from manager.config.importing import SourceFile
    from manager.errors import ImportSourceError

    absolute = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - raises nothing
    text = _read(absolute)
    if not isinstance(text, str):
        if isinstance(text, UnicodeDecodeError):
            raise ImportSourceError(f"{path}: is not UTF-8 text: convert it to UTF-8")
        raise ImportSourceError(
            f"{path}: cannot be read: {text.strerror or text}: check its path and permissions"
        )
    if len(text) > _MAX_SIZE:
        raise ImportSourceError(f"{path}: is larger than the allowed {_MAX_SIZE:,} bytes: split it")

    def other(name: str) -> str | None:
        found = _read(Path(name))
        return found if isinstance(found, str) and len(found) <= _MAX_SIZE else None

    def matching(pattern: str) -> list[str]:
        import glob

        return glob.glob(pattern)  # noqa: PTH207 - a pattern that begins at the root

    return SourceFile(path.name, str(absolute.parent), text, other, matching, dict(os.environ))


def _read(path: Path) -> str | OSError | UnicodeDecodeError:
    from manager.system.regular_files import read_regular_file

    try:
        return read_regular_file(str(path), _MAX_SIZE).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return error


def _check(draft: "Draft", config_dir: Path) -> None:
    """Add to the draft's to-do list what would prevent a start on this host.

    Examples are a missing program or directory.
    """
    from manager.config import AccountConfig
    from manager.config.merge import merge
    from manager.config.models import BUILT_IN
    from manager.config.problems import dotted
    from manager.validation.rules import ValidationContext, rules

    values: dict[str, Any] = {"gateway": "command", **draft.values, "environment": dict(draft.environment)}
    config = AccountConfig.model_validate({**merge(BUILT_IN, values), "account_id": draft.account_id})
    around = ValidationContext(
        next((one for one in (config_dir, *config_dir.parents) if one.is_dir()), None), {}
    )
    for finding in [finding for rule in rules() for finding in rule(config, around)]:
        if not finding.warning:
            draft.to_do.append(f"{dotted(finding.place)}: {finding.text}")


def _taken(config_dir: Path, paths: Sequence[str]) -> list[str]:
    return [path for path in paths if os.path.lexists(config_dir / path)]


def _write(config_dir: Path, files: Mapping[str, str]) -> None:
    """Write an account's files, secrets before the account file.

    An account file thus never refers to a missing secret.
    """
    from manager.errors import SettingsError
    from manager.system import atomic_file

    for name, text in reversed(list(files.items())):
        path = config_dir / name
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            atomic_file.write(path, text.encode(), durable=True)
        except OSError as error:
            raise SettingsError(
                f"{error.filename or path}: {error.strerror}: make the directory writable, or set "
                "MANAGER_CONFIG_DIR to another one"
            ) from None


def _account(draft: "Draft", files: Mapping[str, str], dry_run: bool) -> dict[str, Any]:
    from manager.config.importing import account_path

    path = account_path(draft.account_id)
    return {
        "account_id": draft.account_id,
        "from": draft.origin,
        "file": path,
        "enabled": not draft.to_do and draft.values.get("enabled", True),
        "secrets": [name for name in files if name != path],
        "to_do": draft.to_do,
        **({"content": files[path]} if dry_run else {}),
    }


def _note(note: "Note") -> dict[str, Any]:
    return {"file": note.file, "line": note.line, "key": note.key, "text": note.text}


def _say_all(
    directory: Path,
    kind: str,
    translation: "Translation",
    contents: Mapping[str, Mapping[str, str]],
    taken: Sequence[str],
    *,
    dry_run: bool,
) -> None:
    from manager.config.importing import account_path

    drafts = translation.drafts
    written = not dry_run and not taken
    if dry_run:
        for account_id, files in contents.items():
            say(f"--- {account_path(account_id)}\n{files[account_path(account_id)]}")
    for path in taken:
        print_error(f"{directory / path} already exists")
    if taken:
        print_error(
            "nothing was written: use --force to overwrite these files"
            if not dry_run
            else "use --force to overwrite these files"
        )
    elif written:
        for files in contents.values():
            for path in files:
                say(f"wrote {path}")
    _say_secrets(drafts)
    _say_to_do(drafts)
    lost = [note for note in translation.notes if note.changes_behaviour]
    _say_notes("not translated", lost)
    _say_notes("noted", [note for note in translation.notes if not note.changes_behaviour])
    say(_summary(drafts, len(lost), dry_run=dry_run, written=written))
    if written:
        say(
            f"next: run `manager validate`, then stop the old supervisor ({_END_OF[kind]}; else every "
            "program runs twice), then `manager up`"
        )


def _say_secrets(drafts: Sequence["Draft"]) -> None:
    found = [f"{draft.account_id}: {', '.join(draft.secrets)}" for draft in drafts if draft.secrets]
    if found:
        say(
            "secrets: these values are now in files in secrets/ (mode 0600), and the account files refer to "
            "them as file:secrets/ACCOUNT.NAME. The imported file still contains them."
        )
        for line in found:
            say(f"  {line}")


def _say_to_do(drafts: Sequence["Draft"]) -> None:
    waiting = [draft for draft in drafts if draft.to_do]
    if waiting:
        say("disabled (`enabled: false`) until you complete them:")
        for draft in waiting:
            for what in draft.to_do:
                say(f"  {draft.account_id}: {what}")


def _say_notes(heading: str, notes: Sequence["Note"]) -> None:
    if notes:
        say(f"{heading}:")
        for note in notes:
            say(f"  {note}")


def _summary(drafts: Sequence["Draft"], lost: int, *, dry_run: bool, written: bool) -> str:
    done = "imported" if written else "would be imported" if dry_run else "not imported"
    waiting = sum(bool(draft.to_do) for draft in drafts)
    parts = [f"{counted(len(drafts), 'account')} {done}"]
    if waiting:
        parts.append(f"{waiting} of them disabled until you complete them")
    parts.append(
        f"{counted(lost, 'setting')} not translated"
        if lost
        else "every setting that changes behaviour was translated"
    )
    return ", ".join(parts)


COMMANDS = (import_,)
