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
from urllib.parse import urlsplit

from manager import logs
from manager.fleet.client import open_client
from manager.fleet.leases import LeaseBeats
from manager.fleet.store import beats_key
from manager.gateways import GatewayOptions, make_gateway
from manager.session.beat import BeatWriter
from manager.session.cycle import ObserveCycle
from manager.session.exits import WorkerExit
from manager.session.guardian import start_guardian
from manager.session.lease import last_moment
from manager.session.order import WorkerOrder
from manager.session.worker import Worker

logger = logging.getLogger(__name__)


def run(reader: BinaryIO, writer: BinaryIO) -> int:
    """Run the worker whose order comes from `reader`; returns its exit code. Raises nothing."""
    line = reader.readline()
    if not line.endswith(b"\n"):
        return WorkerExit.CRASHED  # the host died before it could give the order: nothing was started
    order = WorkerOrder.from_json(line)
    del line
    _prepare_logging(order)
    beat = BeatWriter(order.beat_file)
    notify = _notifier(writer)
    try:
        return _build(order, beat, notify).run()
    except BaseException as error:
        logger.exception("the worker failed")
        text = logs.mask(f"{type(error).__name__}: {error}", _secrets(order))
        beat.last_words(text)
        notify({"event": "failed", "code": "crashed", "message": text, "retryable": True})
        return WorkerExit.CRASHED
    finally:
        logging.shutdown()


def _build(order: WorkerOrder, beat: BeatWriter, notify: Callable[[Mapping[str, Any]], None]) -> Worker:
    extend = None
    if order.lease_seconds > 0:
        extend = start_guardian(last_moment(order.leased_at, order.lease_seconds), beat)
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
    return Worker(order, gateway, ObserveCycle(config), beat, sender, notify, extend)


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
        environment=config.environment,
        options=config.options,
    )


def _prepare_logging(order: WorkerOrder) -> None:
    logs.configure(
        level=order.log_level, as_json=order.log_json, file=order.log_file, secrets=_secrets(order)
    )
    # What the interpreter itself says when it dies by SIGSEGV belongs with the rest.
    fd = os.open(order.log_file, os.O_WRONLY | os.O_APPEND)
    os.dup2(fd, 2)
    os.close(fd)
    faulthandler.enable(all_threads=True)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(f"wm:{order.account_id}"[:15])


def _secrets(order: WorkerOrder) -> list[str]:
    secrets = [order.control_token.get_secret_value()]
    if order.password is not None:
        secrets.append(order.password.get_secret_value())
    if order.redis_url is not None:
        password = urlsplit(order.redis_url.get_secret_value()).password
        secrets += [password] if password else []
    return secrets


def _notifier(writer: BinaryIO) -> Callable[[Mapping[str, Any]], None]:
    def notify(message: Mapping[str, Any]) -> None:
        # The host may have died meanwhile; the worker lives on and will be found through its record.
        with contextlib.suppress(OSError, ValueError):
            writer.write(json.dumps(message).encode() + b"\n")
            writer.flush()

    return notify
