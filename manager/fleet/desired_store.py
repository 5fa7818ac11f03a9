"""Reads and writes desired state in Redis.

    manager:desired             hash: account id → JSON (see `DesiredState`)
    manager:desired:version     count of changes: an agent reads the hash only after a change
    manager:seen:<token>        the generation of a command, for a day: a second delivery has no effect
    manager:host:<name>:nudges  list of urgent stops for that host, so that no stop waits behind slow starts

A command's token is the id of its Celery task. The first writer with a token gives the command a generation:
the manager that sends the task, or the agent that receives a task which a plain Celery client sent. A later
writer gets that generation, and the state that is desired by then. Generations only grow. They start from
Redis's clock, so that a Redis that came back empty continues above those that agents remember.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from manager.fleet.audit import writing_host
from manager.fleet.desired import DesiredState, DesiredStateRequest
from manager.fleet.desired_scripts import (
    FORGET,
    FORGET_ACCOUNT,
    REASSIGN,
    RESTORE,
    SET_DESIRED,
    SET_MODE,
    WITHDRAW,
    WITHDRAW_MODE,
)
from manager.fleet.redis_client import open_client, translated
from manager.states import TradingMode

DESIRED_KEY: Final = "manager:desired"
VERSION_KEY: Final = "manager:desired:version"
#: Seconds by Redis's clock at the last `tidy`.
TIDIED_KEY: Final = "manager:desired:tidied"
#: Milliseconds after which `tidy` deletes an account that no host ever had.
_REFUSED_KEPT_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class UrgentStop:
    """A stop that a host carries out at once, ahead of its queue."""

    account_id: str
    token: str
    by: str


@dataclass(frozen=True, slots=True)
class DesiredSnapshot:
    """The desired state of all accounts at one moment."""

    version: int
    #: Milliseconds, by Redis's clock.
    now: int
    desired: Mapping[str, DesiredState]
    #: Accounts whose record is malformed.
    broken: frozenset[str]


class DesiredStore:
    """Reads and writes desired state.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)
        #: The host whose audit list gets the entries of changes; empty: the stream.
        self._audit_host = writing_host(url)
        self._set_desired = self._client.register_script(SET_DESIRED)
        self._set_mode = self._client.register_script(SET_MODE)
        self._withdraw_mode = self._client.register_script(WITHDRAW_MODE)
        self._withdraw = self._client.register_script(WITHDRAW)
        self._restore = self._client.register_script(RESTORE)
        self._reassign = self._client.register_script(REASSIGN)
        self._forget_account = self._client.register_script(FORGET_ACCOUNT)
        self._forget = self._client.register_script(FORGET)
        self._parsed: dict[bytes, tuple[bytes, DesiredState | None]] = {}

    def close(self) -> None:
        self._client.close()

    def set_desired(self, change: DesiredStateRequest) -> tuple[int, DesiredState]:
        """Apply a change, unless a later command has replaced it.

        Idempotent for one token. Returns the command's generation, and the state that is desired now: by this
        or by a later command.
        """
        with translated(self._url):
            return _result(change, self._set_desired(keys=_keys(change), args=self._arguments(change)))

    def set_desired_many(self, changes: Iterable[DesiredStateRequest]) -> list[tuple[int, DesiredState]]:
        """Apply many changes in one round trip; see `set_desired`."""
        changes = list(changes)
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            for change in changes:
                self._set_desired(keys=_keys(change), args=self._arguments(change), client=pipe)
            answers = pipe.execute()
        return [_result(change, answer) for change, answer in zip(changes, answers, strict=True)]

    def _arguments(self, change: DesiredStateRequest) -> list[str]:
        return [*change.arguments(), self._audit_host]

    def withdraw(self, account_id: str, generation: int) -> None:
        """Undo a change that was refused, unless a later one has replaced it."""
        with translated(self._url):
            self._withdraw(keys=[DESIRED_KEY, VERSION_KEY], args=[account_id, generation])

    def set_mode(
        self, account_id: str, mode: TradingMode, *, token: str, by: str, what: str
    ) -> DesiredState | None:
        """Set the account's trading mode. Idempotent for one token.

        Returns the state that is desired now, by this or by a later command; None if the account has none.
        """
        with translated(self._url):
            text = self._set_mode(
                keys=[DESIRED_KEY, VERSION_KEY, _seen_key(token)],
                args=[account_id, mode, by, what, token, self._audit_host],
            )
        return None if text is None else DesiredState.from_json(account_id, text)

    def withdraw_mode(self, desired: DesiredState, mode: TradingMode) -> None:
        """Replace a refused mode by `mode`.

        Does nothing if a later command has changed the mode.
        """
        with translated(self._url):
            self._withdraw_mode(
                keys=[DESIRED_KEY, VERSION_KEY], args=[desired.account_id, desired.mode_at, mode]
            )

    def restore(self, desired: DesiredState) -> bool:
        """Write a state that Redis has lost; False if Redis has it or a later one."""
        with translated(self._url):
            return bool(
                self._restore(keys=[DESIRED_KEY, VERSION_KEY], args=[desired.account_id, desired.to_json()])
            )

    def reassign(self, desired: DesiredState, host: str, why: str = "") -> DesiredState | None:
        """Give the account to `host`.

        Returns the new state; None if another host was faster, or if a later command has changed the state.
        `why` replaces the reason; empty keeps it.
        """
        with translated(self._url):
            text = self._reassign(
                keys=[DESIRED_KEY, VERSION_KEY],
                args=[desired.account_id, desired.generation, desired.host, host, why],
            )
        return None if text is None else DesiredState.from_json(desired.account_id, text)

    def tidy(self) -> int:
        """Delete accounts that no host ever had; return how many.

        Only accounts whose last command is more than a day old. Such an account is mostly a mistyped one,
        whose start was refused.
        """
        snapshot = self.snapshot()
        old = [
            desired
            for desired in (snapshot.desired.values() if snapshot is not None else ())
            if not (desired.running or desired.host)
            and snapshot is not None
            and snapshot.now - desired.generation > _REFUSED_KEPT_MS
        ]
        with translated(self._url):
            forgotten = sum(
                self._forget(keys=[DESIRED_KEY, VERSION_KEY], args=[one.account_id, one.generation])
                for one in old
            )
            self._client.set(TIDIED_KEY, self._client.time()[0])
        return int(forgotten)

    def forget_account(self, account_id: str, generation: int, host: str, by: str) -> bool:
        """Reduce the account's record to `stopped`.

        Returns False if a command has changed it since `generation`.
        """
        with translated(self._url):
            return bool(
                self._forget_account(keys=[DESIRED_KEY, VERSION_KEY], args=[account_id, generation, host, by])
            )

    def tidied_seconds_ago(self) -> float | None:
        """Return the seconds since the last `tidy`; None if there was none."""
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.time()
            pipe.get(TIDIED_KEY)
            (seconds, _), then = pipe.execute()
        return float(seconds - int(then)) if then is not None and then.isdigit() else None

    def desired_accounts(self) -> list[str]:
        """Return the accounts that should run."""
        snapshot = self.snapshot()
        return [] if snapshot is None else [key for key, one in snapshot.desired.items() if one.running]

    def read(self, account_id: str) -> DesiredState | None:
        """Return the account's desired state.

        Returns None if it has none, or if its record is malformed.
        """
        return self.read_many([account_id]).get(account_id)

    def read_many(self, account_ids: Iterable[str]) -> dict[str, DesiredState]:
        """Return the desired states of these accounts.

        Those without a well-formed one are missing.
        """
        keys = list(account_ids)
        if not keys:
            return {}
        with translated(self._url):
            raw = self._client.hmget(DESIRED_KEY, keys)
        found = (DesiredState.from_json(key, text) for key, text in zip(keys, raw, strict=True) if text)
        return {desired.account_id: desired for desired in found if desired is not None}

    def generations(self, tokens: Iterable[str]) -> dict[str, int]:
        """Return the generations of these commands.

        Those that are unknown or a day old are missing.
        """
        tokens = list(tokens)
        if not tokens:
            return {}
        with translated(self._url):
            raw = self._client.mget([_seen_key(token) for token in tokens])
        return {token: int(text) for token, text in zip(tokens, raw, strict=True) if text and text.isdigit()}

    def snapshot(self, known_version: int | None = None) -> DesiredSnapshot | None:
        """Return the desired state of all accounts.

        Returns None if it has not changed since `known_version`.
        """
        with translated(self._url):
            version = int(self._client.get(VERSION_KEY) or 0)
            if version == known_version:
                return None
            pipe = self._client.pipeline(transaction=True)
            pipe.get(VERSION_KEY)
            pipe.time()
            pipe.hgetall(DESIRED_KEY)
            raw_version, (seconds, micros), records = pipe.execute()
        desired: dict[str, DesiredState] = {}
        broken: set[str] = set()
        parsed: dict[bytes, tuple[bytes, DesiredState | None]] = {}
        for key, text in records.items():
            account_id = key.decode(errors="replace")
            # Of thousands of records only a few have changed since the last read: parse only those.
            before = self._parsed.get(key)
            found = (
                before[1]
                if before is not None and before[0] == text
                else DesiredState.from_json(account_id, text)
            )
            parsed[key] = (text, found)
            if found is None:
                broken.add(account_id)
            else:
                desired[account_id] = found
        self._parsed = parsed
        now = seconds * 1000 + micros // 1000
        return DesiredSnapshot(int(raw_version or 0), now, desired, frozenset(broken))

    def next_urgent_stop(self, host: str, wait_seconds: float) -> UrgentStop | None:
        """Remove and return the host's next urgent stop.

        Blocks up to `wait_seconds` for one. Returns None if there is none, or if it is malformed: the desired
        state says the same. `wait_seconds` are whole seconds below the client's reply timeout.
        """
        with translated(self._url):
            answer = self._client.blpop([urgent_stops_key(host)], timeout=wait_seconds)
        if answer is None:
            return None
        try:
            data = json.loads(answer[1])
            return UrgentStop(str(data["account_id"]), str(data["token"]), str(data.get("by", "")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def urgent_stops_key(host: str) -> str:
    return f"manager:host:{host}:nudges"


def _keys(change: DesiredStateRequest) -> list[str]:
    return [DESIRED_KEY, VERSION_KEY, _seen_key(change.token)]


def _seen_key(token: str) -> str:
    return f"manager:seen:{token}"


def _result(change: DesiredStateRequest, answer: tuple[bytes, bytes]) -> tuple[int, DesiredState]:
    generation, text = answer
    desired = DesiredState.from_json(change.account_id, text)
    if desired is None:
        raise ValueError(f"{change.account_id}: Redis wrote a malformed desired state: {text!r}")
    return int(generation), desired
