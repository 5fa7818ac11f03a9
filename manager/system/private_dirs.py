"""Creates private directories when needed, also after their removal."""

import os
from pathlib import Path


def ensure_private_dir(directory: Path) -> None:
    """Create the directory and its missing parents, mode 0700. Idempotent.

    Raises OSError whose `filename` is the directory that could not be created.
    """
    missing: list[Path] = []
    at = directory
    while not at.is_dir():
        missing.append(at)
        if at == at.parent:
            break
        at = at.parent
    for path in reversed(missing):
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror or os.strerror(error.errno or 0), str(path)) from None
