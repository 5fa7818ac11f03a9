"""Converts supervisord, PM2 and docker-compose configurations.

A translator is pure: it takes a `SourceFile` and returns a `Translation` with drafts of accounts and notes
about keys that it could not translate. `account_files` returns the files of a draft.
"""

from manager.config.importing.drafts import Draft, Note, SourceFile, Translation
from manager.config.importing.formats import FORMATS, translate
from manager.config.importing.output import account_files, account_path

__all__ = [
    "FORMATS",
    "Draft",
    "Note",
    "SourceFile",
    "Translation",
    "account_files",
    "account_path",
    "translate",
]
