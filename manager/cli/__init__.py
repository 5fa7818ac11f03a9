"""The command line.

Modules import Celery, Redis and pydantic inside the commands that need them, so that `manager --help` is
fast.
"""

from manager.cli.main import main

__all__ = ["main"]
