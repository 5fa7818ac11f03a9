"""Translates docker-compose.yml.

Every account is disabled until a person completes it, because a container is not a program of the host.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

from manager.config.importing.compose_keys import HANDLED, LOST, NOTED
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
from manager.config.importing.trees import Tree, read_yaml
from manager.config.importing.values import (
    MAX_RESTARTS,
    dotenv,
    duration,
    megabytes,
    number,
    set_memory,
    set_stop,
    signal_name,
    text_of,
)
from manager.config.secret_names import is_secret_name
from manager.errors import ImportSourceError

_INTERPOLATION: Final = re.compile(r"\$(?:(\$)|\{([A-Za-z_]\w*)(?:(:?[-?+])([^}]*))?\}|([A-Za-z_]\w*))")
_URL: Final = re.compile(r"https?://(?:localhost|127\.0\.0\.1)[^\s\"']*")


def translate(source: SourceFile, environment: str | None = None) -> Translation:
    """Translate every service.

    Raises ImportSourceError if the file cannot be parsed.
    """
    del environment  # used only for PM2
    tree = read_yaml(source)
    notes = Notes(source.name)
    services = tree.data.get("services") if isinstance(tree.data, dict) else None
    if not isinstance(services, dict):
        raise ImportSourceError(
            f"{source.name}: `services` is missing: a mapping of services is needed there"
        )
    if "include" in tree.data:
        notes.lost("include", "is not followed: also import the files that it names", tree.line(("include",)))
    file = source.read(source.path(".env"))
    variables = dict(dotenv(file)) if file is not None else {}
    ids = AccountIds(notes)
    drafts: list[Draft] = []
    for name, service in services.items():
        if isinstance(service, dict):
            drafts += _Service(source, tree, str(name), service, notes, variables).drafts(ids)
        else:
            notes.lost(
                f"services.{name}", "is not a mapping: it was left out", tree.line(("services", str(name)))
            )
    return Translation(tuple(drafts), notes.all())


class _Service:
    """One service, with one or several containers."""

    def __init__(
        self,
        source: SourceFile,
        tree: Tree,
        name: str,
        service: Mapping[str, Any],
        notes: Notes,
        variables: Mapping[str, str],
    ) -> None:
        self._source, self._tree, self._name, self._service, self._notes = source, tree, name, service, notes
        self._variables = variables

    def drafts(self, ids: AccountIds) -> Iterator[Draft]:
        self._note_untranslated_keys()
        count = self._replicas()
        for index in range(1, count + 1):
            name = self._name if count == 1 else f"{self._name}-{index}"
            account_id = ids.make(name, f"services.{self._name}", self._tree.line(("services", self._name)))
            draft = Draft(account_id, f"{self._source.name}, service {self._name}")
            missing: dict[str, str] = {}
            self._set_program(draft, missing)
            self._set_environment(draft, missing)
            self._set_times(draft)
            self._set_memory(draft)
            groups = [str(one) for one in self._list("profiles")]
            if count > 1:
                groups.append(self._name)
            if groups:
                draft.values["groups"] = group_names(groups)
            self._user(draft, missing)
            for text, what in missing.items():
                draft.to_do.append(f"replace {text}: {what}")
            note_secret_arguments(draft, self._notes, self._key("command"), self._line("command"))
            yield draft

    def _set_program(self, draft: Draft, missing: dict[str, str]) -> None:
        words = [*self._words("entrypoint", draft, missing), *self._words("command", draft, missing)]
        image = self._service.get("image")
        origin = f"image {text_of(image)[:120]}" if image else "its image"
        if not words:
            words = ["FILL-IN"]
            draft.to_do.append(f"write the program into `command`: see ENTRYPOINT and CMD of {origin}")
        draft.values["command"] = words
        draft.to_do.append(
            f"install the content of {origin} on this host; a container is not a program of the host"
        )
        if "image" not in self._service and "build" not in self._service:
            self._lost("image", "and `build` are missing: it is unknown what the service runs")
        directory = self._service.get("working_dir")
        context = self._context()
        if context is not None:
            draft.values["directory"] = context
        if directory:
            draft.to_do.append(
                f"`directory`: in the container it was {self._expand(text_of(directory), missing)[:120]}"
            )

    def _context(self) -> str | None:
        """Return the directory on this host from which the image is built."""
        build = self._service.get("build")
        context = build.get("context", ".") if isinstance(build, dict) else build
        if not isinstance(context, str) or "://" in context or "$" in context:
            return None
        return self._source.path(context)

    def _words(self, key: str, draft: Draft, missing: dict[str, str]) -> list[str]:
        value = self._service.get(key)
        if value is None:
            return []
        if isinstance(value, list):
            return [self._expand(text_of(word), missing, of_arguments=True) for word in value]
        text = self._expand(text_of(value), missing, of_arguments=True)
        try:
            return shlex.split(text)
        except ValueError as error:
            draft.to_do.append(f"write `command` as a list; the quotes of {key} do not match")
            self._lost(key, f"its quotes do not match ({error}): write it as a list")
            return text.split()

    def _set_environment(self, draft: Draft, missing: dict[str, str]) -> None:
        for path in self._list("env_file"):
            file = str(path.get("path") if isinstance(path, dict) else path)
            found = self._source.path(self._expand(file, missing))
            # docker-compose expands variables in these files, the manager does not: such files are copied.
            if use_file(draft, self._source, found) is None:
                continue
            text = self._source.read(found)
            if text is not None:
                for variable, value in dotenv(text):
                    self._set(draft, "env_file", variable, value)
            elif not isinstance(path, dict) or path.get("required", True):
                self._lost("env_file", f"{file} cannot be read: its variables are missing")
                draft.to_do.append(f"add the variables of {file} to `environment`")
        given = self._service.get("environment")
        if isinstance(given, dict):
            pairs: list[tuple[str, Any]] = [(str(name), value) for name, value in given.items()]
        else:
            split = [str(entry).partition("=") for entry in self._list("environment")]
            pairs = [(name, value if equals else None) for name, equals, value in split]
        for name, value in pairs:
            text = f"${{{name}}}" if value is None else text_of(value)
            host_variable = self._of_host(text)
            if host_variable is None:
                self._set(draft, "environment", name, self._expand(text, missing))
                continue
            problem = draft.set_reference(
                name, host_variable, available=host_variable in self._source.variables
            )
            if problem is not None:
                self._lost("environment", f"{name} {problem}")
            else:
                self._noted(
                    "environment",
                    f"{name}: env:{host_variable} was written: the host agent must have that variable",
                )

    def _of_host(self, text: str) -> str | None:
        """Return the variable that is the whole value, or None.

        None also if the variable has a default, or if `.env` sets it.
        """
        found = _INTERPOLATION.fullmatch(text)
        name: str | None = None if found is None else found[2] or found[5]
        if found is None or not name or name in self._variables or found[3] not in (None, "?", ":?"):
            return None
        return name

    def _set(self, draft: Draft, key: str, name: str, value: str) -> None:
        problem = draft.set_variable(name, value)
        if problem is not None:
            self._lost(key, f"{name} {problem}")

    def _set_times(self, draft: Draft) -> None:
        draft.values["ready"] = {"after_seconds": 1}
        check = self._service.get("healthcheck")
        if isinstance(check, dict) and not check.get("disable"):
            test = check.get("test")
            url = _URL.search(" ".join(map(str, test)) if isinstance(test, list) else str(test))
            better = (
                f"ready: {{http: {url[0]}}}" if url else "ready: {line: TEXT}, {tcp: PORT} or {http: URL}"
            )
            self._noted(
                "healthcheck", f"no command is run for it here: set `{better}` to define when it is ready"
            )
        name = None
        if self._service.get("stop_signal") is not None:
            name = signal_name(self._service["stop_signal"])
            if name is None:
                self._lost("stop_signal", "is not a signal: TERM is sent; set `stop.signal`")
        period = self._service.get("stop_grace_period")
        seconds = None if period is None else duration(period)
        if period is not None and seconds is None:
            self._lost("stop_grace_period", "is not a duration such as 1m30s: 10 s was used")
        note = set_stop(draft, name, seconds)
        if note is not None:
            self._lost("stop_grace_period", note)
        self._set_restart(draft)

    def _set_restart(self, draft: Draft) -> None:
        deploy = self._deploy("restart_policy")
        policy = text_of(self._service.get("restart", "no")).lower()
        if isinstance(deploy, dict):
            policy = {"none": "no", "any": "always"}.get(str(deploy.get("condition", "any")), "on-failure")
            if deploy.get("max_attempts") is not None:
                policy = f"on-failure:{deploy['max_attempts']}"
        if policy in ("no", "false"):
            draft.values["recovery"] = {"max_restarts": 0}
        elif policy.startswith("on-failure"):
            attempts = number(policy.partition(":")[2])
            if attempts is not None:
                draft.values["recovery"] = {"max_restarts": int(min(max(attempts, 0), MAX_RESTARTS))}
            self._lost(
                "restart" if deploy is None else "deploy",
                "a program that ends is restarted whatever its exit code: set "
                "`recovery: {max_restarts: 0}` if it ends when its work is done",
            )
        elif policy not in ("always", "unless-stopped"):
            self._lost("restart", "is not a restart policy: the built-in default was used")

    def _set_memory(self, draft: Draft) -> None:
        limits = self._deploy("resources")
        limits = limits.get("limits") if isinstance(limits, dict) else None
        limit = limits.get("memory") if isinstance(limits, dict) else None
        key = "deploy" if limit is not None else "mem_limit"
        limit = limit if limit is not None else self._service.get("mem_limit")
        if limit is None:
            return
        found = megabytes(limit)
        if found is None:
            self._lost(key, "the memory limit is not a size: it was left out")
            return
        set_memory(draft, found, "memory_hard_mb")
        self._lost(
            key,
            f"memory_mb: {found} also reserves this memory on the host; lower it if the program usually "
            "needs less",
        )

    def _user(self, draft: Draft, missing: dict[str, str]) -> None:
        if self._service.get("user") is None:
            return
        user, _, group = self._expand(text_of(self._service["user"]), missing).partition(":")
        draft.values["user"] = user
        if group:
            draft.values["group"] = group
        self._noted(
            "user", "was a user of the container: create it on the host, and run the host agent as root"
        )

    def _replicas(self) -> int:
        given = self._deploy("replicas")
        given = self._service.get("scale", 1) if given is None else given
        count = number(given)
        if count is None or count < 0:
            self._lost("deploy", "replicas is not a number: one account was written")
            return 1
        if count == 0:
            self._lost("deploy", "replicas is 0: one account was written, and is disabled")
        return max(1, int(count))

    def _deploy(self, key: str) -> Any:
        deploy = self._service.get("deploy")
        return deploy.get(key) if isinstance(deploy, dict) else None

    def _list(self, key: str) -> list[Any]:
        value = self._service.get(key)
        return [] if value is None else list(value) if isinstance(value, list) else [value]

    def _expand(self, text: str, missing: dict[str, str], *, of_arguments: bool = False) -> str:
        """Expand variables.

        Values come from `.env`, then from the import's environment, then from defaults in the text.
        """

        def one(found: re.Match[str]) -> str:
            if found[1]:
                return "$"
            name = str(found[2] or found[5])
            if of_arguments and is_secret_name(name):
                missing[found[0]] = (
                    "all users of the host can see arguments; let the program read `environment`"
                )
                self._lost("command", f"{found[0]} looks like a secret, and was not put into the arguments")
                return found[0]
            value = self._variables[name] if name in self._variables else self._source.variable(name)
            operator, rest = found[3] or "", found[4] or ""
            if operator in ("+", ":+"):
                return rest if value else ""
            if value is None or (value == "" and operator.startswith(":")):
                if operator in ("-", ":-"):
                    return rest
                missing[found[0]] = "it is set neither in .env nor in the environment of the import"
                self._lost(
                    "environment", f"{found[0]} is set neither in .env nor in the import's environment"
                )
                return found[0]
            return value

        return _INTERPOLATION.sub(one, text)

    def _note_untranslated_keys(self) -> None:
        self._lost(
            "image" if "image" in self._service else "build",
            "a container is not a program of the host: install its content on the host, then check "
            "`command` and `directory` and set `enabled: true`",
        )
        for key in map(str, self._service):
            if key in LOST:
                self._lost(key, LOST[key])
            elif key in NOTED:
                self._noted(key, NOTED[key])
            elif key not in HANDLED and not key.startswith("x-"):
                self._lost(key, "has no equivalent here: it was left out")
        if self._service.get("profiles"):
            self._noted("profiles", "became groups: `manager start --group PROFILE` starts them")

    def _key(self, key: str) -> str:
        return f"services.{self._name}.{key}"

    def _line(self, key: str) -> int | None:
        place = ("services", self._name, key)
        return self._tree.line(place) or self._tree.line(place[:2])

    def _lost(self, key: str, text: str) -> None:
        self._notes.lost(self._key(key), text, self._line(key))

    def _noted(self, key: str, text: str) -> None:
        self._notes.noted(self._key(key), text, self._line(key))
