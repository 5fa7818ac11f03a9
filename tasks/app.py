"""The Celery app of host agents, and the bootstep that runs the agent."""

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

#: Header with the number of times that a task was forwarded.
_HOPS: Final = "manager_hops"
#: Newest batches that the housekeeping looks at.
_BATCHES: Final = 20
#: Maximum length of a caller's description of itself.
_MAX_TEXT: Final = 200

app = Celery("tasks", include=["tasks.workers", "tasks.configs", "tasks.batches", "tasks.maintenance"])
app.config_from_object(celery_settings())
# A result that a host cannot store is lost to its caller, so a host retries until Redis is back. Senders fail
# fast.
app.conf.result_backend_always_retry = True
# Set for this app's Celery workers only: a process that sends or reads keeps Celery's consumer.
app.conf.worker_consumer = "tasks.consumer:CheckedConsumer"


class HostAgentStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the host agent with the Celery worker, and closes it with it.

    It is a step of the Celery worker, because the consumer's steps start again at every reconnect. `stop`
    also runs when Celery's consumer crashes, so it does not stop trading workers.
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
            # Only a signal or a remote shutdown sets this, never a failure.
            self.agent.close(clean=worker_state.should_stop is not None)

    terminate = stop


class _Running:
    """A running agent's parts, and services over its pool and the fleet."""

    def __init__(self, agent: HostAgent) -> None:
        self.commands = agent.commands
        self.self_test = agent.self_test
        self.audit_writer = agent.audit_writer
        self.settings = agent.settings
        self.host = WorkerManagerService(agent.config_service, agent.pool, agent.validator)
        pool = celery_worker_pool(agent.settings)
        self.batches = pool.batch_sender
        self.fleet = WorkerManagerService(agent.config_service, pool, agent.validator)


_running: _Running | None = None


def host_service() -> WorkerManagerService:
    """Return the service over this host's pool.

    Raises HostAgentError without a running agent.
    """
    return _services().host


def fleet_service() -> WorkerManagerService:
    """Return the service over the fleet.

    Raises HostAgentError without a running agent.
    """
    return _services().fleet


def validate_here(account_id: str) -> ValidationResult:
    """Validate an account on this host: files, credentials, way to its venue.

    Raises:
        AccountNotFoundError: There is no account file.
        InvalidAccountIdError: The id is not valid.
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
        raise HostAgentError("this Celery worker is not a running host agent: start it with `manager host`")
    return _running


def run_command(
    task: Any, account_id: str, command: Callable[[HostCommands, CommandContext], T | Forward]
) -> T:
    """Run the task's command here, or forward the task to the account's host.

    A forwarded task keeps its id.

    The outcome goes to the audit trail.
    """
    running = _services()
    context = _context_of(task)
    what = str(task.name).removeprefix("tasks.").removesuffix("_worker")
    running.self_test.begin_command()
    try:
        answer = command(running.commands, context)
    except ManagerError as error:
        running.audit_writer.note(what, account_id, context.by, context.token, error.code, str(error))
        # Celery copies the code positions of every frame of a traceback (600 kB for a refusal) into a
        # reference cycle.
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
    """Send the task to another host's queue.

    Return the exception that Celery expects instead of a result.
    """
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
    """Return the audit outcome of a successful stop.

    It is `ok`, or `forced` with the reason.
    """
    info = running.host.get_worker_info(account_id)
    if info is not None and info.placement.forced:
        return "forced", info.error or ""
    return "ok", ""


def record_refusal(task: Any, error: ManagerError) -> ManagerError:
    """Record a task's refusal in the audit trail and return the error."""
    if _running is not None:
        context = _context_of(task)
        what = str(task.name).removeprefix("tasks.")
        _running.audit_writer.note(what, "", context.by, context.token, error.code, str(error))
    return error


def _context_of(task: Any) -> CommandContext:
    """Read the headers, whose contents are untrusted."""
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


def self_test_received() -> None:
    """Record that this agent's message to itself has arrived."""
    if _running is not None:
        _running.self_test.received()


def tidy_fleet() -> None:
    """Run fleet-wide housekeeping."""
    running = _services()
    running.commands.tidy()
    running.batches.announce_ended(_BATCHES)


def _send_self_test(settings: Settings) -> None:
    app.send_task(
        wire.SELF_TEST,
        queue=wire.host_queue(settings.host),
        expires=settings.self_test_seconds * 6,
        ignore_result=True,
    )


def _answer(task_id: str, outcome: "bool | ManagerError") -> None:
    """Store the result of an urgent stop while its task still waits."""
    state = states.SUCCESS if outcome is True else states.FAILURE
    try:
        app.backend.store_result(task_id, outcome, state)
    except Exception as error:
        # The task stores the result again when it runs.
        logs.event(logger, logging.WARNING, "result_store_failed", str(error))


def _settings_of(worker: Any) -> Settings:
    """Return the settings, with the host's name from MANAGER_HOST or `-Q`."""
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
        raise SettingsError(f"a host agent serves one host, but -Q names {', '.join(named)}")
    if named:
        return settings.model_copy(update={"host": named[0]})
    worker.app.amqp.queues.select_add(wire.host_queue(settings.host))
    return settings


def _refuse(message: str) -> NoReturn:
    """Exit with one line of text, which Celery's traceback would hide."""
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
    # Celery's lines for received and finished tasks repeat those of the pool.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING if settings.log_level != "DEBUG" else logging.DEBUG)


app.steps["worker"].add(HostAgentStep)

__all__ = [
    "app",
    "run_command",
    "fleet_service",
    "self_test_received",
    "host_service",
    "record_refusal",
    "tidy_fleet",
]
