"""Account files from the configuration of other supervisors: supervisord, PM2, docker-compose.

A translator is pure: it gets a `SourceFile` and returns a `Translation`, which holds drafts of accounts and notes on
what it could not translate. `account_files` turns a draft into files.
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
