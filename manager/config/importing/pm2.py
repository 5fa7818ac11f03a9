"""Translates PM2's ecosystem file (JSON or YAML).

The meaning of each key is that of PM2 7.0.
"""

import json
import posixpath
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

from manager.config.importing.drafts import (
    AccountIds,
    Draft,
    Notes,
    SourceFile,
    Translation,
    group_names,
    note_secret_arguments,
)
from manager.config.importing.env_files import use_file
from manager.config.importing.pm2_keys import HANDLED, LOST, NOTED
from manager.config.importing.trees import Tree, read_json, read_yaml
from manager.config.importing.values import (
    duration,
    megabytes,
    number,
    plain,
    set_memory,
    set_ready_after,
    set_retries,
    set_stop,
    text_of,
)
from manager.errors import ImportSourceError

#: PM2's interpreters by the ending of the script.
_INTERPRETERS: Final[Mapping[str, str]] = {
    **dict.fromkeys((".js", ".cjs", ".mjs"), "node"),
    **dict.fromkeys((".ts", ".tsx"), "bun"),
    ".py": "python3",
    ".sh": "bash",
    ".rb": "ruby",
    ".php": "php",
    ".pl": "perl",
    ".coffee": "coffee",
    ".ls": "lsc",
}
#: PM2's defaults.
_READY_SECONDS: Final = 1.0
_KILL_SECONDS: Final = 1.6
_LONGEST_BACKOFF: Final = 15.0


def script_refused(name: str) -> str:
    """Return why a JavaScript file is not read, and how to convert it to JSON."""
    return (
        f"{name}: is JavaScript, which is not run here: convert it to JSON with `node -p "
        f"'JSON.stringify(require(\"./{posixpath.basename(name)}\"), null, 2)' > ecosystem.config.json`, "
        "then import that file"
    )


def translate(source: SourceFile, environment: str | None = None) -> Translation:
    """Translate every app.

    Raises ImportSourceError if the file cannot be parsed.
    """
    yaml = source.name.lower().endswith((".yml", ".yaml"))
    tree = read_yaml(source) if yaml else read_json(source, script_refused(source.name))
    notes = Notes(source.name)
    data = tree.data
    apps: Any = data
    place: tuple[str | int, ...] = ()
    if isinstance(data, dict) and "apps" in data:
        apps, place = data["apps"], ("apps",)
        for key in data:
            if key not in ("apps", "deploy") and not str(key).startswith("$"):
                notes.lost(
                    str(key), "is not a key that PM2 7.0 documents: it was left out", tree.line((str(key),))
                )
        if "deploy" in data:
            notes.noted(
                "deploy",
                "describes how code is deployed; it does not affect how programs run",
                tree.line(("deploy",)),
            )
    listed = isinstance(apps, list)
    if isinstance(apps, dict):
        apps = [apps]
    if not isinstance(apps, list):
        raise ImportSourceError(f"{source.name}: `apps` is missing: a list of programs is needed there")
    ids = AccountIds(notes)
    drafts: list[Draft] = []
    for index, app in enumerate(apps):
        at = (*place, index) if listed else place
        if isinstance(app, dict):
            drafts += _App(source, tree, at, index, app, notes, environment).drafts(ids)
        else:
            notes.lost(f"apps[{index}]", "is not a mapping: it was left out", tree.line(at))
    if drafts:
        notes.noted(
            "environment",
            "a program gets PATH, HOME, LANG and a few others, and what its account file lists; add other "
            "variables of the shell that ran pm2 to `environment`",
        )
    return Translation(tuple(drafts), notes.all())


class _App:
    """One of `apps`, with one or several processes."""

    def __init__(
        self,
        source: SourceFile,
        tree: Tree,
        place: tuple[str | int, ...],
        index: int,
        app: Mapping[str, Any],
        notes: Notes,
        environment: str | None,
    ) -> None:
        self._source, self._tree, self._place, self._app, self._notes = source, tree, place, app, notes
        self._environment = environment
        script = app.get("script", app.get("exec"))
        self._script = script.strip() if isinstance(script, str) else ""
        self._name = str(app.get("name") or posixpath.basename(self._script) or f"app-{index}")

    def drafts(self, ids: AccountIds) -> Iterator[Draft]:
        if not self._script:
            self._lost("script", "is missing: the app was left out")
            return
        self._note_untranslated_keys()
        count = self._instances()
        for process in range(count):
            name = self._name if count == 1 else f"{self._name}-{process}"
            draft = Draft(
                ids.make(name, self._key("name"), self._line("name")),
                f"{self._source.name}, app {self._name}",
            )
            draft.values["command"] = self._command(draft)
            draft.values["directory"] = self._directory()
            if count > 1:
                variable = self._app.get("instance_var") or "NODE_APP_INSTANCE"
                draft.set_variable(str(variable), str(process))
            self._set_environment(draft)
            self._set_times(draft)
            self._set_memory(draft)
            groups = [str(self._app["namespace"])] if self._app.get("namespace") else []
            if count > 1:
                groups.append(self._name)
            if groups:
                draft.values["groups"] = group_names(groups)
            self._user(draft)
            if self._app.get("autostart") is False:
                draft.values["enabled"] = False
                self._noted(
                    "autostart",
                    "enabled: false, so that no command starts it: set `enabled: true` to allow it",
                )
            note_secret_arguments(draft, self._notes, self._key("args"), self._line("args"))
            yield draft

    def _command(self, draft: Draft) -> list[str]:
        args = self._words("args", draft)
        if " " in self._script and not self._interpreter():
            if args:
                self._lost(
                    "args",
                    "PM2 ignores them because `script` is a command line for bash; so does the import",
                )
            return ["bash", "-c", self._script]
        interpreter = self._interpreter() or _INTERPRETERS.get(posixpath.splitext(self._script)[1], "none")
        if interpreter == "none":
            return [self._script, *args]
        options = [
            word
            for key in ("interpreter_args", "interpreterArgs", "node_args")
            for word in self._words(key, draft)
        ]
        return [interpreter, *options, self._script, *args]

    def _interpreter(self) -> str:
        found = self._app.get("interpreter") or self._app.get("exec_interpreter") or ""
        return found if isinstance(found, str) else ""

    def _words(self, key: str, draft: Draft) -> list[str]:
        value = self._app.get(key)
        if value is None or value == "":
            return []
        if isinstance(value, list):
            return [text_of(word) for word in value]
        try:
            return shlex.split(text_of(value))
        except ValueError as error:
            draft.to_do.append(f"write `command` as a list; the quotes of {key} do not match")
            self._lost(key, f"its quotes do not match ({error}): write the command as a list")
            return text_of(value).split()

    def _directory(self) -> str:
        cwd = self._app.get("cwd")
        if not isinstance(cwd, str) or not cwd:
            return self._source.directory
        return cwd if cwd.startswith("~") else self._source.path(cwd)

    def _instances(self) -> int:
        given = self._app.get("instances", 1)
        count = number(given)
        mode = str(self._app.get("exec_mode") or "fork").lower()
        if count is None or count < 1:
            self._lost(
                "instances",
                f"{text_of(given)[:20]!r} depends on the machine's cores: one account was written; "
                "copy its file for more",
            )
            count = 1
        if mode.startswith("cluster") and (count > 1 or given in ("max", 0, -1)):
            self._lost(
                "exec_mode",
                "cluster mode, in which processes share one port, has no equivalent here: set a port in each "
                "account's `environment`, or use one account that runs Node's cluster module",
            )
        elif mode.startswith("cluster"):
            self._noted("exec_mode", "runs as a plain process: a single process does not share its port")
        return int(count)

    def _set_environment(self, draft: Draft) -> None:
        files = self._app.get("env_file")
        for file in files if isinstance(files, list) else [] if files is None else [files]:
            path = posixpath.normpath(posixpath.join(self._directory(), text_of(file)))
            problem = use_file(draft, self._source, path)
            if problem is not None:
                self._lost("env_file", f"{path}: {problem}: its variables are missing")
                draft.to_do.append(
                    f"copy the variables of {path} to a file of NAME=value lines, `environment_file`"
                )
        chosen = None if self._environment is None else f"env_{self._environment}"
        for key in ("env", chosen):
            if key is None or key not in self._app:
                continue
            values = self._app[key]
            if not isinstance(values, dict):
                self._lost(key, "is not a mapping of variables: it was left out")
                continue
            for name, value in values.items():
                if value is None:
                    continue
                text = json.dumps(value) if isinstance(value, dict | list) else text_of(value)
                problem = draft.set_variable(str(name), text)
                if problem is not None:
                    line = self._tree.line((*self._place, key, str(name)))
                    self._notes.lost(f"{self._key(key)}.{name}", problem, line)
        if chosen is not None and chosen not in self._app:
            self._noted("env", f"there is no {chosen}: only `env` was used, as `pm2 start --env` does")

    def _set_times(self, draft: Draft) -> None:
        ready = self._seconds("min_uptime", _READY_SECONDS)
        note = set_ready_after(draft, ready)
        if note is not None:
            self._lost("min_uptime", note)
        deadline = self._seconds("kill_timeout", _KILL_SECONDS) if "kill_timeout" in self._app else None
        note = set_stop(draft, "INT", deadline)
        if note is not None:
            self._lost("kill_timeout", note)
        if self._app.get("autorestart") in (False, "false"):
            draft.values["recovery"] = {"max_restarts": 0}
            return
        recovery: dict[str, Any] = {}
        backoff, longest = 1.0, 60.0
        if "restart_delay" in self._app:
            backoff = longest = self._backoff("restart_delay")
            recovery |= {"backoff_seconds": plain(backoff), "max_backoff_seconds": plain(backoff)}
        elif "exp_backoff_restart_delay" in self._app:
            backoff = self._backoff("exp_backoff_restart_delay")
            longest = max(backoff, _LONGEST_BACKOFF)
            recovery |= {"backoff_seconds": plain(backoff), "max_backoff_seconds": plain(longest)}
        if recovery:
            draft.values["recovery"] = recovery
        retries = number(self._app.get("max_restarts"))
        if retries is not None:
            set_retries(draft, int(retries), ready, backoff, longest)
        elif "max_restarts" in self._app:
            self._lost("max_restarts", "is not a number: the built-in default was used")

    def _set_memory(self, draft: Draft) -> None:
        if not self._app.get("max_memory_restart"):
            return
        found = megabytes(self._app["max_memory_restart"])
        if found is None:
            self._lost("max_memory_restart", "is not a size: it was left out")
            return
        set_memory(draft, found, "memory_mb", when_flat=False)
        self._lost(
            "max_memory_restart",
            f"memory_mb: {found} also reserves this memory on the host; lower it if the program usually "
            "needs less",
        )

    def _user(self, draft: Draft) -> None:
        for key, ours in (("user", "user"), ("uid", "user"), ("gid", "group")):
            value = self._app.get(key)
            if value is not None:
                draft.values[ours] = text_of(value)

    def _note_untranslated_keys(self) -> None:
        for key, value in self._app.items():
            if key in HANDLED or value in (None, False):
                continue
            if key in LOST:
                self._lost(key, LOST[key])
            elif key in NOTED:
                self._noted(key, NOTED[key])
            elif key.startswith("env_"):
                if self._environment is None:
                    name = key.removeprefix("env_")
                    self._lost(
                        key, f"was left out: if pm2 ran with `--env {name}`, import with `--env {name}`"
                    )
            else:
                self._lost(key, "is not a key of an app that PM2 7.0 documents: it was left out")
        if self._app.get("watch"):
            self._lost("watch", "files are not watched: `manager restart ACCOUNT` after a change")
        if self._app.get("wait_ready"):
            self._lost(
                "wait_ready",
                "`process.send('ready')` has no effect here: the account is ready after `min_uptime`; let "
                "the program print a line and set `ready: {line: TEXT}`",
            )

    def _seconds(self, key: str, default: float) -> float:
        if key not in self._app:
            return default
        found = duration(self._app[key], unit=0.001)
        if found is None or found < 0:
            self._lost(key, f"is not a number of milliseconds: {default:g} s was used")
            return default
        return round(found, 3)

    def _backoff(self, key: str) -> float:
        return min(max(0.1, self._seconds(key, 1.0)), 86_400.0)

    def _key(self, key: str) -> str:
        return f"{self._name}.{key}"

    def _line(self, key: str) -> int | None:
        return self._tree.line((*self._place, key))

    def _lost(self, key: str, text: str) -> None:
        self._notes.lost(self._key(key), text, self._line(key))

    def _noted(self, key: str, text: str) -> None:
        self._notes.noted(self._key(key), text, self._line(key))
