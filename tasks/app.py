"""The Celery app of host agents, and the bootstep that starts and ends the agent's own half."""

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn, TypeVar

from celery import Celery, bootsteps, states
from celery.signals import setup_logging
from celery.worker import state as worker_state

from manager import wire
from manager.client.celery_app import celery_settings
from manager.errors import HostAgentError, ManagerError, SettingsError
from manager.factory import celery_worker_pool, configuration
from manager.gateways import reach_problem
from manager.host.agent import HostAgent
from manager.host.commands import MAX_HOPS, CommandContext, Forward, HostCommands
from manager.models import ValidationResult
from manager.service import WorkerManagerService
from manager.settings import Settings, load_settings
from manager.system import logs
from manager.system.masking import url_secrets
from manager.system.processes import prevent_core_dumps, raise_file_limit
from manager.system.storage import explain
from manager.system.thread_pool import without_traceback

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A header of a task that was passed on: how often.
_HOPS: Final = "manager_hops"
#: Characters of what a caller says of itself.
_MAX_TEXT: Final = 200

app = Celery("tasks", include=["tasks.workers", "tasks.configs", "tasks.batches", "tasks.maintenance"])
app.config_from_object(celery_settings())
# What a host could not store is lost to its caller, so a host tries until Redis is back; senders fail fast instead.
app.conf.result_backend_always_retry = True
# A setting of this app's Celery workers alone: a process that only sends or looks keeps Celery's own behaviour.
app.conf.worker_consumer = "tasks.consumer:CheckedConsumer"


class HostAgentStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the host agent with the Celery worker, and ends it with it.

    A step of the worker, not of its consumer: those start again at every reconnect. Its `stop` runs as well when
    Celery's consumer crashes, so it must not stop a trading worker, and does not.
    """

    requires: ClassVar[set[str]] = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        pool = worker.pool_cls if isinstance(worker.pool_cls, str) else worker.pool_cls.__module__
        if "thread" not in pool:
            _refuse(
                f"a host agent needs Celery's threads pool, not {pool.rpartition('.')[2]}: start it with "
                "`manager host`, or `celery -A tasks worker -P threads`"
            )
        self.agent: HostAgent | None = None

    def start(self, worker: Any) -> None:
        global _running  # noqa: PLW0603 - the tasks of this process must find its one agent
        raise_file_limit()
        prevent_core_dumps()
        try:
            settings = _settings_of(worker)
            agent = HostAgent(settings, configuration(settings), _answer, lambda: _send_self_test(settings))
            agent.start()
        except ManagerError as error:
            _refuse(str(error))
        except OSError as error:
            _refuse(explain(error, Path(error.filename or settings.state_dir)))
        self.agent = agent
        _running = _Running(agent)

    def stop(self, worker: Any) -> None:
        global _running  # noqa: PLW0603
        _running = None
        if self.agent is not None:
            # Set by a signal or a remote shutdown, and by nothing that goes wrong.
            self.agent.close(in_order=worker_state.should_stop is not None)

    terminate = stop


class _Running:
    """The two services of a running agent: one over its own pool, one over the whole fleet."""

    def __init__(self, agent: HostAgent) -> None:
        self.commands = agent.commands
        self.self_test = agent.self_test
        self.audit_writer = agent.audit_writer
        self.settings = agent.settings
        self.host = WorkerManagerService(agent.config_service, agent.pool, agent.validator)
        self.fleet = WorkerManagerService(
            agent.config_service, celery_worker_pool(agent.settings), agent.validator
        )


_running: _Running | None = None


def host_service() -> WorkerManagerService:
    """Return the service over this host's own pool. Raises HostAgentError outside a running host agent."""
    return _services().host


def fleet_service() -> WorkerManagerService:
    """Return the service over the whole fleet, as a manager sees it."""
    return _services().fleet


def checked_here(account_id: str) -> ValidationResult:
    """Check an account as this host sees it: its files, its credentials, and whether its venue can be reached.

    Raises AccountNotFoundError, InvalidAccountIdError.
    """
    running = _services()
    result = running.host.validate_config(account_id)
    if not result.valid:
        return result
    config = running.host.config_service.load_account_config(account_id)
    problem = reach_problem(config, running.settings)
    if problem is None:
        return result
    return result.model_copy(update={"warnings": (*result.warnings, f"{account_id}: {problem}")})


def _services() -> _Running:
    if _running is None:
        raise HostAgentError("this Celery worker is no running host agent: start it with `manager host`")
    return _running


def carried_out(
    task: Any, account_id: str, command: Callable[[HostCommands, CommandContext], T | Forward]
) -> T:
    """Carry out the task's command here, or pass it on to the host whose it is; the caller's task id stays the same.

    What became of it goes into the audit trail.
    """
    running = _services()
    context = _context_of(task)
    what = str(task.name).removeprefix("tasks.").removesuffix("_worker")
    running.self_test.begin_command()
    try:
        answer = command(running.commands, context)
    except ManagerError as error:
        running.audit_writer.note(what, account_id, context.by, context.token, error.code, str(error))
        # Celery copies the code positions of every frame in a traceback, 600 kB for a refusal, into a reference cycle.
        refusal = without_traceback(error)
    else:
        if isinstance(answer, Forward):
            raise _forwarded(task, context, answer.host)
        outcome, text = _outcome(running, account_id) if what == "stop" else ("ok", "")
        running.audit_writer.note(what, account_id, context.by, context.token, outcome, text)
        return answer
    finally:
        running.self_test.end_command()
    raise refusal


def _forwarded(task: Any, context: CommandContext, host: str) -> BaseException:
    """Send the task to another host's queue; returns what Celery wants raised in place of an answer."""
    onward = task.s(*task.request.args, **task.request.kwargs)
    headers = {_HOPS: context.hops + 1, wire.BY_HEADER: context.by}
    if context.version is not None:
        headers[wire.VERSION_HEADER] = context.version
    if context.generation:
        headers[wire.GENERATION_HEADER] = context.generation
    onward.set(queue=wire.host_queue(host), headers=headers)
    replaced: BaseException = task.replace(onward)
    return replaced


def _outcome(running: _Running, account_id: str) -> tuple[str, str]:
    """Return how a stop that succeeded ended, for the audit trail: `ok`, or `forced` with what was killed."""
    info = running.host.get_worker_info(account_id)
    if info is not None and info.placement.forced:
        return "forced", info.error or ""
    return "ok", ""


def refused(task: Any, error: ManagerError) -> ManagerError:
    """Put into the audit trail that a task was refused before it became a command; returns the error."""
    if _running is not None:
        context = _context_of(task)
        what = str(task.name).removeprefix("tasks.")
        _running.audit_writer.note(what, "", context.by, context.token, error.code, str(error))
    return error


def _context_of(task: Any) -> CommandContext:
    """Read the headers, in which anybody may have written anything."""
    request = task.request
    headers = request.headers if isinstance(request.headers, dict) else {}
    hops, by, version = headers.get(_HOPS), headers.get(wire.BY_HEADER), headers.get(wire.VERSION_HEADER)
    generation = headers.get(wire.GENERATION_HEADER)
    return CommandContext(
        token=str(request.id)[:_MAX_TEXT],
        hops=hops if isinstance(hops, int) and 0 <= hops <= MAX_HOPS else (0 if hops is None else MAX_HOPS),
        by=(by if isinstance(by, str) and by else f"task from {request.origin}")[:_MAX_TEXT],
        generation=generation if isinstance(generation, int) and 0 < generation < 2**53 else 0,
        version=None if version is None else str(version)[:_MAX_TEXT],
    )


def heard_self() -> None:
    """Note that this agent's message to itself has arrived."""
    if _running is not None:
        _running.self_test.heard()


def tidy_fleet() -> None:
    """Do what is due for the whole fleet."""
    _services().commands.tidy()


def _send_self_test(settings: Settings) -> None:
    app.send_task(
        wire.SELF_TEST,
        queue=wire.host_queue(settings.host),
        expires=settings.self_test_seconds * 6,
        ignore_result=True,
    )


def _answer(task_id: str, outcome: "bool | ManagerError") -> None:
    """Tell the caller of a stop that it is done, while its task still waits behind others."""
    state = states.SUCCESS if outcome is True else states.FAILURE
    try:
        app.backend.store_result(task_id, outcome, state)
    except Exception as error:
        # Its task tells too, once it is its turn.
        logs.event(logger, logging.WARNING, "answer_failed", str(error))


def _settings_of(worker: Any) -> Settings:
    """Return the settings, with the host's name from `-Q host.NAME` where MANAGER_HOST does not give one."""
    settings = load_settings()
    named = [
        host for host in map(wire.host_of_queue, worker.app.amqp.queues.consume_from) if host is not None
    ]
    if "host" in settings.model_fields_set:
        if settings.host not in named:
            raise SettingsError(
                f"this host is named {settings.host} (MANAGER_HOST) but does not listen to its queue: "
                f"start it with -Q {wire.SHARED_QUEUE},{wire.host_queue(settings.host)}"
            )
        return settings
    if len(named) > 1:
        raise SettingsError(f"one host agent is one host, but -Q names {', '.join(named)}")
    if named:
        return settings.model_copy(update={"host": named[0]})
    worker.app.amqp.queues.select_add(wire.host_queue(settings.host))
    return settings


def _refuse(message: str) -> NoReturn:
    """End the process with one clear line; a traceback of Celery's own would bury it."""
    logs.event(logger, logging.ERROR, "agent_refused", message)
    with contextlib.suppress(OSError):
        print(f"error: {message}", file=sys.stderr, flush=True)  # noqa: T201
    raise SystemExit(1)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logging(**_: Any) -> None:
    settings = load_settings()
    url = "" if settings.redis_url is None else settings.redis_url.get_secret_value()
    try:
        logs.configure(
            level=settings.log_level,
            as_json=settings.log_json,
            file=settings.log_file,
            secrets=url_secrets(url),
            max_bytes=settings.log_file_bytes,
            backups=settings.log_files - 1,
            also_stderr=settings.log_file is not None,
        )
    except OSError as error:
        _refuse(f"MANAGER_LOG_FILE: {error.filename or settings.log_file}: {error.strerror or error}")
    # One line for each received and finished task says nothing that the pool's own lines do not.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING if settings.log_level != "DEBUG" else logging.DEBUG)


app.steps["worker"].add(HostAgentStep)

__all__ = ["app", "carried_out", "fleet_service", "heard_self", "host_service", "refused", "tidy_fleet"]
