"""The entry point of a worker process.

`run` is called in a forked child of the preloaded process, or by `python -m manager.session` in a new
interpreter.
"""

import contextlib
import faulthandler
import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from manager.errors import DiskRefusesError
from manager.fleet.keys import beats_key
from manager.fleet.leases import LeaseBeats
from manager.fleet.redis_client import open_client
from manager.gateways import GatewayOptions, make_gateway
from manager.session.exit_codes import WorkerExit
from manager.session.guardian import start_guardian
from manager.session.heartbeat_file import HeartbeatWriter
from manager.session.launch_spec import LaunchSpec
from manager.session.lease import last_moment
from manager.session.note import hold_note, process_name
from manager.session.title import set_title
from manager.session.worker import Worker
from manager.system import logs
from manager.system.masking import Masker
from manager.system.processes import prevent_core_dumps
from manager.system.storage import disk_refuses, explain
from manager.trading.cycle import ObserveCycle

logger = logging.getLogger(__name__)


def run(reader: BinaryIO, writer: BinaryIO) -> int:
    """Run the worker whose launch specification comes from `reader`.

    Return its exit code. Raises nothing.
    """
    # Before the first secret is in memory.
    prevent_core_dumps()
    line = reader.readline()
    if not line.endswith(b"\n"):
        return WorkerExit.CRASHED  # the host died before it sent the specification: nothing was started
    spec = LaunchSpec.from_json(line)
    del line
    mask = Masker(spec.all_secrets())
    notify = _notifier(writer, mask)
    beat: HeartbeatWriter | None = None
    try:
        _prepare_logging(spec, mask)
        # First, so that a new agent finds this process from its first call to the venue on.
        if spec.note is not None:
            hold_note(spec.beat_file, spec.note)
        beat = HeartbeatWriter(spec.beat_file, mask)
        return _build(spec, beat, notify).run()
    except BaseException as error:
        code, text = "crashed", f"{type(error).__name__}: {error}"
        if beat is None and isinstance(error, OSError):
            # A file could not be created: the text names it.
            code = DiskRefusesError.code if disk_refuses(error) else code
            text = explain(error, Path(error.filename or spec.beat_file))
        else:
            logger.exception("the worker failed")
        if beat is not None:
            beat.exit_reason(text)
        notify({"event": "failed", "code": code, "message": text, "retryable": True})
        return WorkerExit.CRASHED
    finally:
        logging.shutdown()


def _build(spec: LaunchSpec, beat: HeartbeatWriter, notify: Callable[[Mapping[str, Any]], None]) -> Worker:
    guardian = None
    if spec.lease_seconds > 0:
        guardian = start_guardian(last_moment(spec.leased_at, spec.lease_seconds), beat)
    config = spec.config
    gateway = make_gateway(config.gateway, gateway_options(spec))
    sender = (
        None
        if spec.redis_url is None
        else LeaseBeats(
            open_client(spec.redis_url.get_secret_value()),
            host=spec.host,
            beats_key=beats_key(spec.host),
            claims=spec.claims,
            epoch=spec.epoch,
            ttl_seconds=spec.lease_seconds,
            home=spec.home,
        )
    )
    extend = guardian.extend if guardian is not None else None
    worker = Worker(spec, gateway, ObserveCycle(config), beat, sender, notify, extend)
    if guardian is not None:
        guardian.watch(worker.lose_lease)
    return worker


def gateway_options(spec: LaunchSpec) -> GatewayOptions:
    """Return the options from which the account's gateway is created."""
    config = spec.config
    return GatewayOptions(
        account_id=config.account_id,
        worker_id=spec.worker_id,
        epoch=spec.epoch,
        failover=spec.lease_seconds > 0,
        login=config.login,
        server=config.server,
        password=spec.password,
        path=config.path,
        portable=config.portable,
        timeout=config.timeout,
        venue_address=spec.venue_address,
        symbols=config.enabled_symbols(),
        private_dir=spec.private_dir,
        command=config.command,
        directory=spec.directory,
        state_dir=spec.state_dir,
        user=config.user,
        group=config.group,
        umask=0o022 if config.umask is None else int(config.umask.removeprefix("0o"), 8),
        open_files=config.limits.open_files,
        ready=config.ready,
        stop=config.stop,
        health=config.health,
        environment=spec.environment,
        options=spec.options,
        secrets=spec.secrets,
    )


def _prepare_logging(spec: LaunchSpec, mask: Masker) -> None:
    logs.configure(
        level=spec.log_level,
        as_json=spec.log_json,
        file=spec.log_file,
        secrets=mask.secrets,
        max_bytes=spec.log_file_bytes,
        backups=spec.log_files - 1,
        # The interpreter's output at a SIGSEGV goes to the same log.
        also_stderr=True,
    )
    for name in ("manager.program", "manager.printed"):
        # A program's output does not depend on the manager's log level.
        logging.getLogger(name).setLevel(min(logging.INFO, logging.getLogger().level))
    faulthandler.enable(file=2, all_threads=True)
    # A third-party gateway may print secrets, and a failing thread prints its traceback.
    logs.catch_printing(mask)
    set_title(f"worker-manager: {spec.account_id}")
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(process_name(spec.account_id))


def _notifier(writer: BinaryIO, mask: Masker) -> Callable[[Mapping[str, Any]], None]:
    def notify(message: Mapping[str, Any]) -> None:
        if "message" in message:
            message = {**message, "message": mask(str(message["message"]))}
        # The host agent may have died; the worker continues, and the next agent adopts it by its record.
        with contextlib.suppress(OSError, ValueError):
            writer.write(json.dumps(message).encode() + b"\n")
            writer.flush()

    return notify
