"""The first code of a worker process: read the order from the launch pipe, build the worker, run it, leave.

`run` is called in a forked child of the preloaded process, or by `python -m manager.session` in a fresh interpreter.
"""

import contextlib
import faulthandler
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from manager.fleet.leases import LeaseBeats
from manager.fleet.redis_client import open_client
from manager.fleet.store import beats_key
from manager.gateways import GatewayOptions, make_gateway
from manager.session.cycle import ObserveCycle
from manager.session.exit_codes import WorkerExit
from manager.session.guardian import start_guardian
from manager.session.heartbeat_file import BeatWriter
from manager.session.launch_spec import WorkerOrder
from manager.session.lease import last_moment
from manager.session.note import hold_note, process_name
from manager.session.title import set_title
from manager.session.worker import Worker
from manager.system import logs
from manager.system.masking import Masker
from manager.system.processes import prevent_core_dumps

logger = logging.getLogger(__name__)


def run(reader: BinaryIO, writer: BinaryIO) -> int:
    """Run the worker whose order comes from `reader`; returns its exit code. Raises nothing."""
    # Before the first secret is here.
    prevent_core_dumps()
    line = reader.readline()
    if not line.endswith(b"\n"):
        return WorkerExit.CRASHED  # the host died before it could give the order: nothing was started
    order = WorkerOrder.from_json(line)
    del line
    mask = Masker(order.all_secrets())
    _prepare_logging(order, mask)
    # Before anything else: from its first call to the venue on, a new agent must be able to find this process.
    if order.note is not None:
        hold_note(order.beat_file, order.note)
    beat = BeatWriter(order.beat_file, mask)
    notify = _notifier(writer, mask)
    try:
        return _build(order, beat, notify).run()
    except BaseException as error:
        logger.exception("the worker failed")
        text = f"{type(error).__name__}: {error}"
        beat.last_words(text)
        notify({"event": "failed", "code": "crashed", "message": text, "retryable": True})
        return WorkerExit.CRASHED
    finally:
        logging.shutdown()


def _build(order: WorkerOrder, beat: BeatWriter, notify: Callable[[Mapping[str, Any]], None]) -> Worker:
    guardian = None
    if order.lease_seconds > 0:
        guardian = start_guardian(last_moment(order.leased_at, order.lease_seconds), beat)
    config = order.config
    gateway = make_gateway(config.gateway, gateway_options(order))
    sender = (
        None
        if order.redis_url is None
        else LeaseBeats(
            open_client(order.redis_url.get_secret_value()),
            host=order.host,
            beats_key=beats_key(order.host),
            claims=order.claims,
            epoch=order.epoch,
            ttl_seconds=order.lease_seconds,
            home=order.home,
        )
    )
    extend = guardian.extend if guardian is not None else None
    worker = Worker(order, gateway, ObserveCycle(config), beat, sender, notify, extend)
    if guardian is not None:
        guardian.watch(worker.lose_lease)
    return worker


def gateway_options(order: WorkerOrder) -> GatewayOptions:
    """Return what the account's gateway is made from."""
    config = order.config
    return GatewayOptions(
        account_id=config.account_id,
        worker_id=order.worker_id,
        epoch=order.epoch,
        failover=order.lease_seconds > 0,
        login=config.login,
        server=config.server,
        password=order.password,
        venue_address=order.venue_address,
        symbols=config.enabled_symbols(),
        private_dir=order.private_dir,
        command=config.command,
        directory=order.directory,
        ready=config.ready,
        stop=config.stop,
        health=config.health,
        environment=order.environment,
        options=order.options,
        secrets=order.secrets,
    )


def _prepare_logging(order: WorkerOrder, mask: Masker) -> None:
    logs.configure(level=order.log_level, as_json=order.log_json, file=order.log_file, secrets=mask.secrets)
    # What the interpreter itself says when it dies by SIGSEGV belongs with the rest.
    fd = os.open(order.log_file, os.O_WRONLY | os.O_APPEND)
    os.dup2(fd, 2)
    os.close(fd)
    faulthandler.enable(file=2, all_threads=True)
    # A gateway from elsewhere may print what it was given; a thread that fails prints its traceback.
    logs.catch_printing(mask)
    set_title(f"worker-manager: {order.account_id}")
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(process_name(order.account_id))


def _notifier(writer: BinaryIO, mask: Masker) -> Callable[[Mapping[str, Any]], None]:
    def notify(message: Mapping[str, Any]) -> None:
        if "message" in message:
            message = {**message, "message": mask(str(message["message"]))}
        # The host may have died meanwhile; the worker lives on and will be found through its record.
        with contextlib.suppress(OSError, ValueError):
            writer.write(json.dumps(message).encode() + b"\n")
            writer.flush()

    return notify
