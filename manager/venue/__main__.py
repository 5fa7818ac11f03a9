"""`python -m manager.venue`: run a paper venue until SIGTERM or Ctrl-C."""

import argparse
import signal
import sqlite3
import sys
import time
from pathlib import Path

from manager.system import atomic_file, logs
from manager.system.processes import raise_file_limit
from manager.venue.broker import Broker
from manager.venue.handler import RequestHandler
from manager.venue.ledger import Ledger
from manager.venue.prices import Prices, ReplayPrices, SeededPrices
from manager.venue.server import VenueError, VenueServer


def main() -> int:
    options = _options()
    logs.configure(level=options.log_level)
    raise_file_limit()
    try:
        options.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        prices: Prices
        if options.replay is not None:
            prices = ReplayPrices(options.replay, time.time, options.speed)
        else:
            prices = SeededPrices(options.seed, time.time)
        ledger = Ledger(options.dir / "venue.sqlite")
        server = VenueServer(options.listen, RequestHandler(ledger, Broker(ledger, prices, time.time)))
    except (VenueError, ValueError, OSError, sqlite3.Error) as error:
        print(f"error: the paper venue cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if options.address_file is not None:
        atomic_file.write(options.address_file, server.address, mode=0o666)
    print(f"ready {server.address}", flush=True)  # noqa: T201
    try:
        server.serve()
    finally:
        ledger.close()
        if options.address_file is not None:
            options.address_file.unlink(missing_ok=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m manager.venue", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="directory of its database")
    parser.add_argument("--listen", required=True, help="unix:/path or tcp:host:port (port 0: any free one)")
    parser.add_argument("--address-file", type=Path, help="write the address there while it listens")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the prices: equal seeds give equal prices"
    )
    parser.add_argument("--replay", type=Path, help="a directory of SYMBOL.csv bars to replay instead")
    parser.add_argument("--speed", type=float, default=1.0, help="speed of the replay")
    parser.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
