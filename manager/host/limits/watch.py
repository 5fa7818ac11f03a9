"""Watches the limits of this host's workers, and acts on those that are exceeded.

A look every five seconds reads the process table once, and the memory maps only of workers that may be near
their limit. The reconciler calls `tick`, which never blocks. Looks and stops run on other threads, because a
memory map can block its reader for as long as its process hangs.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import uuid4
from zlib import crc32

from manager.config.models_limits import LimitsConfig
from manager.errors import ManagerError
from manager.fleet.desired import DesiredState
from manager.fleet.event_types import Remark
from manager.host.limits.enforcement import Enforcement, limit_files, lower_priority
from manager.host.limits.judge import Excess, Figures, Judge, waits_text
from manager.host.limits.processes import ProcessTable, Tree, most_open, pss_of, read_table
from manager.host.workers.limit_actions import LimitActions, Limited
from manager.states import TradingMode
from manager.system import logs
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Seconds between two looks.
LOOK_SECONDS: Final = 5.0
#: A worker's memory maps are read at each look if its resident memory, without what workers share, is above
#: this part of its limit. Else they are read this often, and never while resident memory is within the limit.
_NEAR_PART: Final = 0.7
_STEADY_SECONDS: Final = 60.0
#: Seconds that `close` waits for looks, and for stops.
_CLOSE_SECONDS: Final = 5.0
#: Looks and reads of memory maps that run in parallel, and stops.
_LOOKS: Final = 8
_STOPS: Final = 8
_MIB: Final = 1 << 20


class AccountControl(Protocol):
    """What the watch needs of desired state."""

    def why_not_end(self, account_id: str, *, restarts: bool) -> str | None:
        """Return why the account's worker must not be ended now, or None.

        `restarts`: it is to start again, so it must be able to. Blocks while it reads files and Redis.
        """

    def pause(self, account_id: str, *, token: str, by: str) -> DesiredState | None:
        """Pause the account until a person resumes it. Raises ManagerError."""


@dataclass(eq=False, slots=True)
class _Watched:
    """One worker under watch."""

    worker_id: str
    judge: Judge = field(default_factory=Judge)
    #: When its memory maps are read at the latest (monotonic seconds).
    memory_due: float = 0.0
    #: The excesses that have an event.
    noted: dict[str, Excess] = field(default_factory=dict)
    #: The exceeded limits whose action has been carried out.
    done: set[str] = field(default_factory=set)
    #: Since when a restart or stop waits for a flat account.
    waiting_since: float | None = None
    #: Whether a look at this worker runs, and whether it is being stopped.
    busy: bool = False
    ending: bool = False
    #: What was logged last, so that it is logged once.
    logged: str = ""


class LimitWatch:
    """Watches limits. `tick` and `close` from one thread, the rest from any."""

    def __init__(
        self,
        actions: LimitActions,
        enforcement: Enforcement,
        control: AccountControl,
        *,
        table: Callable[[], ProcessTable] = read_table,
        memory_of: Callable[[int], int | None] = pss_of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`table` and `memory_of` measure; `clock` returns monotonic seconds."""
        self._actions = actions
        self._enforcement = enforcement
        self._control = control
        self._table = table
        self._memory_of = memory_of
        self._clock = clock
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._next_look = clock()
        self._looking = False
        self._looks = ThreadPool(_LOOKS, "limits")
        self._stops = ThreadPool(_STOPS, "limit-stop")

    def tick(self, now: float) -> None:
        """Begin a look if one is due at `now` (monotonic seconds). Does not wait for it."""
        with self._lock:
            if now < self._next_look or self._looking or self._enforcement.mechanism.name == "off":
                return
            self._next_look = now + LOOK_SECONDS
            self._looking = True
        self._looks.submit(self._look_once)

    def close(self) -> None:
        """End the threads. Waits a few seconds for those that are busy; a memory map can block for ever."""
        for pool in self.thread_pools:
            closer = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
            closer.start()
            closer.join(_CLOSE_SECONDS)

    @property
    def thread_pools(self) -> list[ThreadPool]:
        return [self._looks, self._stops]

    def look(self) -> None:
        """Look at every limited worker. Blocks only while the process table is read."""
        limited = self._actions.limited()
        self._enforcement.remove_others(self._actions.worker_ids())
        now = self._clock()
        with self._lock:
            living = {one.record.worker_id for one in limited}
            self._watched = {key: one for key, one in self._watched.items() if key in living}
        if not limited:
            return
        table, shared = self._table(), self._actions.shared_bytes()
        for one in limited:
            state = self._state(one.record.worker_id, now)
            tree = table.tree(one.record.process)
            if tree is None or state.busy or state.ending:
                continue
            state.busy = True
            if self._reads_memory(state, one.limits, tree, shared, now):
                self._looks.submit(self._look_at, state, one, tree, True)
            else:
                self._look_at(state, one, tree, False)

    # inside

    def _look_once(self) -> None:
        try:
            self.look()
        except Exception:
            logger.exception("a look at the limits of workers failed; the next one tries again")
        finally:
            with self._lock:
                self._looking = False

    def _state(self, worker_id: str, now: float) -> _Watched:
        with self._lock:
            state = self._watched.get(worker_id)
            if state is None:
                # Spread over a minute, so that a start of many accounts does not make them all due at once.
                spread = crc32(worker_id.encode()) % int(_STEADY_SECONDS)
                state = self._watched[worker_id] = _Watched(worker_id, memory_due=now + spread)
            return state

    def _reads_memory(
        self, state: _Watched, limits: LimitsConfig, tree: Tree, shared: int, now: float
    ) -> bool:
        given = [most for most in (limits.memory_mb, limits.memory_hard_mb) if most is not None]
        if not given:
            return False
        least = min(given) * _MIB
        near = tree.resident - shared > _NEAR_PART * least
        # Memory without what is shared is never more than resident memory.
        possible = tree.resident > least
        return near or bool(state.noted) or (possible and now >= state.memory_due)

    def _look_at(self, state: _Watched, one: Limited, tree: Tree, reads_memory: bool) -> None:
        """Measure one worker, judge it, and act. Raises nothing."""
        try:
            now = self._clock()
            figures = self._measure(state, one, tree, reads_memory)
            if reads_memory:
                state.memory_due = now + _STEADY_SECONDS
            state.judge.judge(one.limits, figures, now)
            self._note_changes(state, one)
            self._act(state, one, tree, now)
        except Exception:
            logger.exception("a look at the limits of a worker failed; the next one tries again")
        finally:
            state.busy = False

    def _measure(self, state: _Watched, one: Limited, tree: Tree, reads_memory: bool) -> Figures:
        memory = files = None
        if reads_memory:
            sizes = [self._memory_of(pid) for pid in tree.pids]
            if None in sizes:
                # What can be read is a lower bound: above a limit it is an excess all the same.
                self._log_once(state, one, "the memory of some of its processes cannot be read")
            memory = sum(size for size in sizes if size is not None)
        if one.limits.open_files is not None:
            limit_files(tree.pids, one.limits.open_files)
            files = most_open(tree.pids)
        return Figures(tree.cpu_seconds, len(tree.pids), memory, files)

    def _note_changes(self, state: _Watched, one: Limited) -> None:
        """Write events of limits that are exceeded since this look, and of those that no longer are."""
        exceeded, account_id = state.judge.exceeded, one.record.account_id
        texts = _texts(state, one.limits)
        for limit in state.noted.keys() - exceeded.keys():
            state.done.discard(limit)
            logs.event(logger, logging.INFO, "limit_cleared", account=account_id, limit=limit)
            self._actions.note(one.record, texts, Remark("limit.cleared", {"limit": limit}))
        for limit, excess in exceeded.items():
            if limit in state.noted:
                continue
            action = one.limits.action(limit)
            when = waits_text(one.limits, action)
            logs.event(
                logger,
                logging.WARNING,
                "limit_exceeded",
                excess.text,
                account=account_id,
                trend=excess.trend_text or None,
                does=action,
                when=when,
            )
            self._actions.note(one.record, texts, Remark("limit.exceeded", excess.data(action, when)))
        state.noted = dict(exceeded)

    def _act(self, state: _Watched, one: Limited, tree: Tree, now: float) -> None:
        ending: tuple[str, Excess] | None = None
        for limit, excess in state.judge.exceeded.items():
            action = one.limits.action(limit)
            if action == "kill":
                self._kill(one, excess)
                return
            if action in ("restart", "stop"):
                ending = ending or (action, excess)
            elif action == "pause" and limit not in state.done:
                self._pause(state, one, excess)
            elif action == "throttle":
                self._throttle(state, one, excess, tree)
        if ending is None:
            state.waiting_since = None
            return
        if state.waiting_since is None:
            state.waiting_since = now
        if self._is_time(one, now - state.waiting_since):
            state.ending = True
            self._stops.submit(self._end, state, one, *ending)

    def _is_time(self, one: Limited, waited: float) -> bool:
        limits = one.limits
        if not limits.when_flat or waited >= limits.grace.total_seconds():
            return True
        return self._actions.open_positions(one.record) == 0

    def _kill(self, one: Limited, excess: Excess) -> None:
        change = Remark("limit.enforced", excess.data("kill"))
        reason = f"{excess.text}; this host killed it"
        if self._actions.kill(one.record, excess.limit, reason, change):
            logs.event(logger, logging.ERROR, "limit_enforced", reason, account=one.record.account_id)

    def _end(self, state: _Watched, one: Limited, action: str, excess: Excess) -> None:
        """Stop a worker for a restart, or for good; recovery decides which. Raises nothing."""
        account_id = one.record.account_id
        try:
            refused = self._control.why_not_end(account_id, restarts=action == "restart")
            if refused is not None:
                self._log_once(state, one, f"{excess.text}; it goes on meanwhile: {refused}")
                return
            change = Remark("limit.enforced", excess.data(action))
            if self._actions.end(one.record, excess.limit, excess.text, change):
                logs.event(
                    logger, logging.WARNING, "limit_enforced", excess.text, account=account_id, does=action
                )
        except Exception:
            logger.exception("a worker could not be stopped for its limit; the next look tries again")
        finally:
            state.ending = False

    def _pause(self, state: _Watched, one: Limited, excess: Excess) -> None:
        account_id = one.record.account_id
        try:
            desired = self._control.pause(
                account_id, token=f"limit-{uuid4().hex}", by=f"limits.{excess.limit}"
            )
        except ManagerError as error:
            self._log_once(state, one, f"{excess.text}; it could not be paused: {error}")
            return  # the next look tries again
        state.done.add(excess.limit)
        if desired is None or desired.mode is not TradingMode.PAUSED:
            return
        logs.event(logger, logging.WARNING, "limit_enforced", excess.text, account=account_id, does="pause")
        self._note_enforced(state, one, excess, "pause")

    def _throttle(self, state: _Watched, one: Limited, excess: Excess, tree: Tree) -> None:
        """Lower the priority of a worker that the kernel does not slow down."""
        if self._enforcement.throttles(one.record):
            return
        if lower_priority(tree.pids) and excess.limit not in state.done:
            state.done.add(excess.limit)
            logs.event(
                logger,
                logging.WARNING,
                "limit_enforced",
                excess.text,
                account=one.record.account_id,
                does="nice",
            )
            self._note_enforced(state, one, excess, "nice")

    def _note_enforced(self, state: _Watched, one: Limited, excess: Excess, action: str) -> None:
        change = Remark("limit.enforced", excess.data(action))
        self._actions.note(one.record, _texts(state, one.limits), change)

    def _log_once(self, state: _Watched, one: Limited, text: str) -> None:
        if state.logged != text:
            state.logged = text
            logs.event(logger, logging.WARNING, "limit_hindered", text, account=one.record.account_id)


def _texts(state: _Watched, limits: LimitsConfig) -> dict[str, str]:
    """Return each exceeded limit with what was measured, and what follows later."""
    texts: dict[str, str] = {}
    for limit, excess in state.judge.exceeded.items():
        action = limits.action(limit)
        when = waits_text(limits, action)
        texts[limit] = excess.text if when is None else f"{excess.text}; {action} {when}"
    return texts


__all__ = ["LOOK_SECONDS", "LimitWatch", "AccountControl"]
