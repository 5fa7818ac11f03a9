"""A trading bot: `python bot.py VENUE LOGIN PASSWORD`.

It logs in, prints that, and runs until a signal.
"""

import os
import sys
import time
from pathlib import Path

from pydantic import SecretStr

from manager.gateways import GatewayOptions
from manager.gateways.paper.gateway import PaperGateway


def main() -> None:
    venue, login, password = sys.argv[1:]
    gateway = PaperGateway(
        GatewayOptions(
            account_id=f"bot-{login}",
            worker_id=f"bot-{os.getpid()}",
            login=int(login),
            server="Paper-1",
            password=SecretStr(password),
            venue_address=venue,
            private_dir=Path("/nonexistent"),
        )
    )
    gateway.connect(time.monotonic() + 10)
    print("session", flush=True)
    while True:
        gateway.account()
        time.sleep(0.2)


if __name__ == "__main__":
    main()
