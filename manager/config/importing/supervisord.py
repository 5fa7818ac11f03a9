"""Translates supervisord.conf.

The meaning of each key is that of supervisor 4.3.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from manager.config.importing.drafts import (
    AccountIds,
    Draft,
    Notes,
    SourceFile,
    Translation,
    group_names,
    note_secret_arguments,
)
from manager.config.importing.supervisord_sections import Section, groups_of_programs, pairs, read_sections
from manager.config.importing.values import number, set_ready_after, set_retries, set_stop, signal_name

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_EXPANSION: Final = re.compile(r"%(?:(%)|\((\w+)\)([-+ #0]{0,3}\d{0,3}(?:\.\d{1,3})?[sdi]))")
_ENVIRONMENT_VALUE: Final = re.compile(r"%\(ENV_(\w+)\)s")

_LOG: Final = "its output goes to the worker's log (`manager logs ACCOUNT`), which rotates by itself"
#: Keys of a program that are translated, or need no note.
_HANDLED: Final = frozenset(
    {
        *("command", "directory", "environment", "user", "umask", "autostart", "autorestart", "exitcodes"),
        *("startsecs", "startretries", "stopsignal", "stopwaitsecs", "numprocs", "numprocs_start"),
        *("process_name", "redirect_stderr", "stopasgroup", "killasgroup"),
    }
)
_NOTED: Final[Mapping[str, str]] = {
    "priority": "accounts start at the same time: let the program wait for what it needs",
    **dict.fromkeys(
        [
            f"{stream}_{key}"
            for stream in ("stdout", "stderr")
            for key in ("logfile", "logfile_maxbytes", "logfile_backups", "capture_maxbytes", "syslog")
        ],
        _LOG,
    ),
}
_LOST: Final[Mapping[str, str]] = {
    "stdout_events_enabled": "event listeners have no equivalent here: follow `manager events`",
    "stderr_events_enabled": "event listeners have no equivalent here: follow `manager events`",
    "serverurl": "programs cannot communicate with the manager as they do with supervisord",
}
_SECTIONS_LOST: Final[Mapping[str, str]] = {
    "eventlistener": "event listeners have no equivalent here: run `manager events --json` as a service",
    "fcgi-program": "sockets are not opened for a program here: let the program open its own",
}


def translate(source: SourceFile, environment: str | None = None) -> Translation:
    """Translate every `[program:x]`.

    Raises ImportSourceError if the file cannot be parsed.
    """
    del environment  # used only for PM2
    notes = Notes(source.name)
    sections = read_sections(source, notes)
    groups = groups_of_programs(sections)
    ids = AccountIds(notes)
    shared = _shared_environment(sections, notes)
    drafts: list[Draft] = []
    for section in sections.values():
        kind, _, name = section.name.partition(":")
        if kind == "program":
            program = _Program(source, section, name.strip(), groups.get(name.strip()), sections, notes)
            drafts += program.drafts(ids, shared)
        elif kind in _SECTIONS_LOST:
            notes.lost(f"[{section.name}]", _SECTIONS_LOST[kind], section.line, section.file)
    if drafts:
        notes.noted(
            "environment",
            "a program gets PATH, HOME, LANG and a few others, and what its account file lists; add other "
            "variables of supervisord's own environment to `environment`",
        )
    return Translation(tuple(drafts), notes.all())


def _shared_environment(sections: Mapping[str, Section], notes: Notes) -> dict[str, tuple[str, Section]]:
    section = sections.get("supervisord")
    if section is None:
        return {}
    return {name: (value, section) for name, value in pairs(section, notes).items()}


class _Program:
    """One `[program:x]`, with one or several processes."""

    def __init__(
        self,
        source: SourceFile,
        section: Section,
        name: str,
        group: str | None,
        sections: Mapping[str, Section],
        notes: Notes,
    ) -> None:
        self._source, self._section, self._name, self._notes = source, section, name, notes
        self._group = group
        self._main = sections.get("supervisord")

    def drafts(self, ids: AccountIds, shared: Mapping[str, tuple[str, Section]]) -> Iterator[Draft]:
        command = self._section.get("command")
        if not command:
            self._lost("command", "is missing: the program was left out")
            return
        self._note_untranslated_keys()
        count = int(self._number("numprocs", 1))
        first = int(self._number("numprocs_start", 0))
        for number_ in range(first, first + max(1, count)):
            yield self._draft(command, ids, shared, number_, count)

    def _draft(
        self,
        command: str,
        ids: AccountIds,
        shared: Mapping[str, tuple[str, Section]],
        process: int,
        count: int,
    ) -> Draft:
        values = {
            "program_name": self._name,
            "group_name": self._group or self._name,
            "process_num": process,
            "numprocs": count,
            "here": self._source.directory,
            "host_node_name": "",
        }
        missing: list[str] = []
        name = self._expand(self._section.get("process_name") or "%(program_name)s", values, missing)
        if self._name not in name:
            name = f"{self._name}-{name}"
        if count > 1 and "process_num" not in (self._section.get("process_name") or ""):
            name = f"{name}-{process}"
        line, file = self._section.line, self._section.file
        key = f"[{self._section.name}]"
        draft = Draft(ids.make(name, key, line, file), f"{file}, {key}")
        draft.values["command"] = self._command(self._expand(command, values, missing), draft)
        self._directory(draft, values, missing)
        self._set_environment(draft, shared, values, missing)
        self._set_times(draft)
        if self._bool("autostart", True) is False:
            draft.values["enabled"] = False
            self._noted(
                "autostart", "enabled: false, so that no command starts it: set `enabled: true` to allow it"
            )
        groups = [self._group] if self._group else [self._name] if count > 1 else []
        if groups:
            draft.values["groups"] = group_names(groups)
        self._user(draft)
        self._umask(draft)
        for variable in dict.fromkeys(missing):
            draft.to_do.append(f"replace %({variable})s, which is not set here")
            text = f"%({variable})s is not set here: replace it in accounts/{draft.account_id}.yaml"
            self._lost(variable, text)
        note_secret_arguments(draft, self._notes, f"{key} command", *self._section.at("command"))
        return draft

    def _command(self, text: str, draft: Draft) -> list[str]:
        try:
            found = shlex.split(text)
        except ValueError as error:
            draft.to_do.append(f"write `command` as a list; its quotes do not match ({error})")
            self._lost("command", f"its quotes do not match ({error}): write it as a list")
            return text.split()
        return found

    def _directory(self, draft: Draft, values: Mapping[str, object], missing: list[str]) -> None:
        text = self._section.get("directory")
        if text is None and self._main is not None:
            text = self._main.get("directory")
        if text:
            expanded = self._expand(text, values, missing)
            draft.values["directory"] = expanded if expanded.startswith("~") else self._source.path(expanded)
        else:
            self._noted(
                "directory",
                "is not set, so the working directory was supervisord's; here it is the configuration "
                "directory: set `directory` if the program uses relative paths",
            )

    def _set_environment(
        self,
        draft: Draft,
        shared: Mapping[str, tuple[str, Section]],
        values: Mapping[str, object],
        missing: list[str],
    ) -> None:
        own = {name: (value, self._section) for name, value in pairs(self._section, self._notes).items()}
        for name, (text, section) in {**shared, **own}.items():
            line, file = section.at("environment")
            key = f"[{section.name}] environment {name}"
            whole = _ENVIRONMENT_VALUE.fullmatch(text)
            if whole is not None and self._source.variable(whole[1]) is None:
                available = whole[1] in self._source.variables
                problem = draft.set_reference(name, whole[1], available=available)
                if problem is None:
                    self._notes.noted(
                        key, f"env:{whole[1]} was written: the host agent must have that variable", line, file
                    )
            else:
                problem = draft.set_variable(name, self._expand(text, values, missing))
            if problem is not None:
                self._notes.lost(key, problem, line, file)

    def _set_times(self, draft: Draft) -> None:
        ready = self._number("startsecs", 1)
        note = set_ready_after(draft, ready)
        if note is not None:
            self._lost("startsecs", note)
        name = None
        if self._section.get("stopsignal") is not None:
            name = signal_name(self._section.get("stopsignal"))
            if name is None:
                self._lost("stopsignal", "is not a signal: TERM is sent; set `stop.signal`")
        note = set_stop(draft, name, self._number("stopwaitsecs", 10))
        if note is not None:
            self._lost("stopwaitsecs", note)
        restart = (self._section.get("autorestart") or "").strip().lower()
        if restart in _FALSE:
            draft.values["recovery"] = {"max_restarts": 0}
            return
        if restart == "unexpected" or self._section.get("exitcodes") is not None:
            self._lost(
                "exitcodes" if "exitcodes" in self._section.values else "autorestart",
                "a program that ends is restarted whatever its exit code: set "
                "`recovery: {max_restarts: 0}` if it ends when its work is done",
            )
        if self._section.get("startretries") is not None:
            set_retries(draft, int(self._number("startretries", 3)), ready)

    def _user(self, draft: Draft) -> None:
        for section in (self._section, self._main):
            user = None if section is None else section.get("user")
            if section is self._main and user == "root":
                return  # means only that supervisord itself continues as root
            if section is not None and user:
                draft.values["user"] = user
                return

    def _umask(self, draft: Draft) -> None:
        for section in (self._section, self._main):
            text = None if section is None else section.get("umask")
            if section is None or text is None:
                continue
            if re.fullmatch(r"[0-7]{1,4}", text) and int(text, 8) <= 0o777:
                if int(text, 8) != 0o022:
                    draft.values["umask"] = f"{int(text, 8):03o}"
            else:
                line, file = section.at("umask")
                self._notes.lost(f"[{section.name}] umask", "is not octal: 022 was used", line, file)
            return

    def _note_untranslated_keys(self) -> None:
        for key in self._section.values:
            if key in _NOTED:
                self._noted(key, _NOTED[key])
            elif key in _LOST:
                if (self._section.get(key) or "").strip().lower() not in _FALSE:
                    self._lost(key, _LOST[key])
            elif key not in _HANDLED:
                self._lost(key, "is not a key of a program that supervisor 4.3 documents: it was left out")
        if self._bool("stopasgroup", True) is False or self._bool("killasgroup", True) is False:
            key = "stopasgroup" if "stopasgroup" in self._section.values else "killasgroup"
            self._noted(key, "the signal always goes to the program and to every process that it started")

    def _number(self, key: str, default: float) -> float:
        text = self._section.get(key)
        if text is None:
            return default
        found = number(text)
        if found is None or found < 0:
            self._lost(key, f"{text[:40]!r} is not a number: {default:g} was used")
            return default
        return found

    def _bool(self, key: str, default: bool) -> bool:
        text = (self._section.get(key) or "").strip().lower()
        return True if text in _TRUE else False if text in _FALSE else default

    def _expand(self, text: str, values: Mapping[str, object], missing: list[str]) -> str:
        def one(found: re.Match[str]) -> str:
            if found[1]:
                return "%"
            name = found[2]
            value: object | None = values.get(name)
            if name.startswith("ENV_"):
                value = self._source.variable(name.removeprefix("ENV_"))
            if value is None or value == "":
                missing.append(name)
                return found[0]
            try:
                return str(f"%{found[3]}" % value)
            except (TypeError, ValueError, OverflowError, MemoryError):
                missing.append(name)
                return found[0]

        return _EXPANSION.sub(one, text)

    def _lost(self, key: str, text: str) -> None:
        line, file = self._section.at(key)
        self._notes.lost(f"[{self._section.name}] {key}", text, line, file)

    def _noted(self, key: str, text: str) -> None:
        line, file = self._section.at(key)
        self._notes.noted(f"[{self._section.name}] {key}", text, line, file)
