"""Prometheus's own checker, if it is installed."""

import os
import shutil


def promtool() -> str | None:
    """Return the program that PROMTOOL names, as `.ci/promtool` prints it, or the one on PATH."""
    return os.environ.get("PROMTOOL") or shutil.which("promtool")
