"""AccountConfigurationValidator reports all problems in one pass."""

import gc
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from manager.config import AccountConfig, ConfigurationService, LoadedAccount, Problem, watch_secrets
from manager.config.check_progress import CheckProgress, reads_of, report
from manager.config.findings import Finding
from manager.config.problems import dotted
from manager.config.service import Snapshot
from manager.errors import AccountNotFoundError
from manager.models import ValidationResult
from manager.validation.rules import ValidationContext, rules
from manager.validation.secrets import secret_findings
from manager.validation.unused_keys import unused_keys

#: Maximum number of cached results; the oldest are dropped first.
_MAX_CACHED: Final = 20_000
#: Maximum age of the list of other accounts' logins when one account is checked.
_LOGINS_SECONDS: Final = 1.0


class _Collection:
    """Python's cyclic collector, paused while thousands of accounts are read.

    Everything allocated meanwhile stays in use. Collection took half of the time and freed nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._was_on = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._was_on:
                    gc.enable()


_COLLECTION: Final = _Collection()


@dataclass(frozen=True, slots=True)
class _CachedResult:
    """A cached result and the facts that it depends on."""

    loaded: LoadedAccount
    #: Logins and programs that it shares with other accounts.
    common: object
    #: Change detector for the secrets; `detected` is its value at the time of the result.
    detect: Callable[[], object]
    detected: object
    result: ValidationResult


class AccountConfigurationValidator:
    """Checks accounts against every rule.

    With a configuration service it also checks files, and accounts against each other.
    Thread-safe. It starts no process, opens no connection and reveals no secret.
    """

    def __init__(self, config_service: ConfigurationService | None = None) -> None:
        self._configs = config_service
        self._lock = threading.Lock()
        self._cache: dict[tuple[str, bool], _CachedResult] = {}

    def reads(self, configs: ConfigurationService) -> bool:
        """Return whether the validator uses this configuration service."""
        return self._configs is configs

    def validate(self, config: AccountConfig) -> ValidationResult:
        """Check one configuration object, from a file or not."""
        findings = [*self._findings(config, self._context()), *self._credential_findings(config)]
        return _result(config.account_id, findings, None)

    def validate_batch(self, configs: Iterable[AccountConfig]) -> dict[str, ValidationResult]:
        """Check several configurations, also against each other.

        Two configurations with one login are duplicates, from files or not.
        """
        given = list(configs)
        context = self._context()
        known = {login: list(accounts) for login, accounts in context.logins.items()}
        for config in given:
            login = config.broker_login()
            if login is not None:
                accounts = known.setdefault(login, [])
                if config.account_id not in accounts:
                    accounts.append(config.account_id)
        context = replace(context, logins={login: tuple(accounts) for login, accounts in known.items()})
        return {
            config.account_id: _result(
                config.account_id,
                [*self._findings(config, context), *self._credential_findings(config)],
                None,
            )
            for config in given
        }

    def get_invalid_configs(self, configs: Iterable[AccountConfig]) -> dict[str, ValidationResult]:
        """Return the results of the configurations that have errors."""
        return {key: result for key, result in self.validate_batch(configs).items() if result.has_errors}

    def validate_account(self, account_id: str, apply_defaults: bool = True) -> ValidationResult:
        """Check an account's files and report all problems with positions.

        The logins of other accounts may be one second old, so that a batch does not
        read all files for each account.

        Raises:
            InvalidAccountIdError: The account ID is not valid.
            AccountNotFoundError: No file configures the account.
        """
        if self._configs is None:
            raise AccountNotFoundError(
                f"no account {account_id}: this validator has no configuration directory"
            )
        loaded = self._configs.read_account(account_id, apply_defaults)
        checked = self._check(self._configs, loaded, self._context())
        twin = self._configs.twin(account_id)
        return checked if twin is None else _with_error(checked, *_twin_problem(account_id, twin))

    def validate_all(self, progress: CheckProgress | None = None) -> dict[str, ValidationResult]:
        """Check every account file; return the results by account ID.

        A file whose name is not a valid ID is listed by its name.
        """
        configs = self._configs
        if configs is None:
            return {}
        with _COLLECTION.paused():
            return self._all(configs, progress)

    def validate_for_any_host(self, progress: CheckProgress | None = None) -> dict[str, ValidationResult]:
        """Check every account file by the rules that hold on every host.

        Credentials, programs and directories are not checked.
        """
        if self._configs is None:
            return {}
        snapshot = self._configs.snapshot(on_read=reads_of(progress))
        context = ValidationContext(None, snapshot.logins, snapshot.shared, snapshot.schedules)
        results: dict[str, ValidationResult] = {}
        for account_id, loaded in snapshot.accounts.items():
            config = loaded.repaired
            found = [] if config is None else [one for rule in rules() for one in rule(config, context)]
            checked = _result(account_id, found, loaded)
            twin = snapshot.twins.get(account_id)
            results[account_id] = (
                checked if twin is None else _with_error(checked, *_twin_problem(account_id, twin))
            )
            report(progress, results[account_id])
        return results

    def _all(
        self, configs: ConfigurationService, progress: CheckProgress | None = None
    ) -> dict[str, ValidationResult]:
        snapshot = configs.snapshot(on_read=reads_of(progress))
        context = _context_of(configs, snapshot)
        results: dict[str, ValidationResult] = {}
        for name, loaded in snapshot.accounts.items():
            twin = snapshot.twins.get(name)
            checked = self._check(configs, loaded, context)
            results[name] = checked if twin is None else _with_error(checked, *_twin_problem(name, twin))
            report(progress, results[name])
        return {**results, **not_read(configs, results)}

    def _check(
        self, configs: ConfigurationService, loaded: LoadedAccount, context: ValidationContext
    ) -> ValidationResult:
        config = loaded.repaired
        if config is None:
            return _result(loaded.account_id, [], loaded)
        key = (loaded.account_id, loaded.apply_defaults)
        cached = self._cache.get(key)
        common = (
            context.logins.get(config.broker_login() or ("", "")),
            context.shared.of(config),
            # The warnings of a schedule are about the coming days.
            (context.schedules, datetime.now(UTC).date()) if config.schedule is not None else None,
        )
        if (
            cached is not None
            and cached.loaded is loaded
            and cached.common == common
            and cached.detect() == cached.detected
        ):
            return cached.result
        detect = watch_secrets(config, configs.config_dir)
        detected = None if detect is None else detect()
        result = _result(
            loaded.account_id, [*self._findings(config, context), *self._credential_findings(config)], loaded
        )
        with self._lock:
            self._cache.pop(key, None)
            # Errors are never cached: their cause may be fixed outside the files, by installing a program.
            if result.valid and detect is not None:
                while len(self._cache) >= _MAX_CACHED:
                    del self._cache[next(iter(self._cache))]
                self._cache[key] = _CachedResult(loaded, common, detect, detected, result)
        return result

    def _context(self) -> ValidationContext:
        if self._configs is None:
            return ValidationContext()
        snapshot = self._configs.snapshot(_LOGINS_SECONDS)
        return _context_of(self._configs, snapshot)

    @staticmethod
    def _findings(config: AccountConfig, context: ValidationContext) -> list[Finding]:
        return [finding for rule in rules() for finding in rule(config, context)]

    def _credential_findings(self, config: AccountConfig) -> list[Finding]:
        return list(secret_findings(config, None if self._configs is None else self._configs.config_dir))


def _context_of(configs: ConfigurationService, snapshot: Snapshot) -> ValidationContext:
    return ValidationContext(configs.config_dir, snapshot.logins, snapshot.shared, snapshot.schedules)


def _result(account_id: str, findings: Iterable[Finding], loaded: LoadedAccount | None) -> ValidationResult:
    problems: list[Problem] = list(loaded.problems) if loaded is not None else []
    if loaded is not None and loaded.repaired is not None:
        findings = [*findings, *unused_keys(loaded.repaired, loaded.layers[0].data)]
    known = [problem.place for problem in problems if problem.place]
    warnings: list[Problem] = []
    for finding in findings:
        # Reading dropped this value, so the rules checked a default in its place: skip their finding.
        if any(
            finding.place[: len(place)] == place or place[: len(finding.place)] == finding.place
            for place in known
        ):
            continue
        if loaded is not None:
            problem = loaded.problem(finding.place, finding.text)
        else:
            problem = Problem(account_id or "account", None, None, f"{dotted(finding.place)}: {finding.text}")
        (warnings if finding.warning else problems).append(problem)
    return ValidationResult(
        valid=not problems,
        account_id=account_id,
        errors=tuple(map(str, problems)),
        warnings=tuple(map(str, warnings)),
    )


def not_read(configs: ConfigurationService, taken: Collection[str] = ()) -> dict[str, ValidationResult]:
    """Return an error for each file that seems meant to be read but is not.

    Keys in `taken` are not used again; such a file is listed by its file name.
    """
    found: dict[str, ValidationResult] = {}
    for one in configs.left_out():
        key = one.name if one.key in taken else one.key
        found[key] = ValidationResult(valid=False, account_id=key, errors=(str(one),))
    return found


def _twin_problem(name: str, twin: str) -> tuple[str, str]:
    text = (
        f"its name differs from accounts/{twin}.yaml only in case: "
        "on Windows the two are one file: rename one"
    )
    return f"accounts/{name}.yaml", text


def _with_error(result: ValidationResult, file: str, text: str) -> ValidationResult:
    errors = (str(Problem(file, None, None, text)), *result.errors)
    return result.model_copy(update={"valid": False, "errors": errors})
