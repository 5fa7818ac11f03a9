"""Finds the demo fleet's files and moves them aside."""

import contextlib
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from manager.config.starting_files import demo_files
from manager.errors import SettingsError


def demo_accounts(config_dir: Path) -> list[str]:
    """Return the demo fleet's accounts whose files are unchanged, sorted."""
    return sorted(Path(name).stem for name in _unchanged(config_dir) if name.startswith("accounts/"))


def move_demo(config_dir: Path) -> tuple[Path, list[Path], list[Path]]:
    """Move the demo's unchanged files beside the configuration directory.

    Returns the new directory, the moved files at their new paths, and the demo's files that stay because they
    were changed.

    Raises SettingsError if a file cannot be moved; its text says how many files were already moved.
    """
    unchanged = _unchanged(config_dir)
    accounts = {Path(name).stem for name in unchanged if name.startswith("accounts/")}
    secrets = [name for name in demo_files() if name.startswith("secrets/") and Path(name).stem in accounts]
    aside = config_dir.with_name(f"{config_dir.name}-demo-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    moved: list[Path] = []
    try:
        aside.mkdir(mode=0o700)
        for name in [*unchanged, *(name for name in secrets if (config_dir / name).exists())]:
            target = aside / name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            shutil.move(config_dir / name, target)
            moved.append(target)
    except OSError as error:
        raise SettingsError(
            f"{error.filename or aside}: {error.strerror}: {len(moved)} of the demo's files were moved to "
            f"{aside}, the others stay; make both directories writable, and run it again"
        ) from None
    stay = [config_dir / name for name in demo_files() if (config_dir / name).exists()]
    for name in ("accounts", "secrets"):
        with contextlib.suppress(OSError):  # not empty: it holds other files
            (config_dir / name).rmdir()
    return aside, moved, stay


def _unchanged(config_dir: Path) -> Iterable[str]:
    found: list[str] = []
    for name, text in demo_files().items():
        if text is None:
            continue
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (config_dir / name).read_text(encoding="utf-8") == text:
                found.append(name)
    return found
