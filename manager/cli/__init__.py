"""The command line. Nothing here imports Celery, Redis or pydantic before a command needs it."""

from manager.cli.main import main

__all__ = ["main"]
