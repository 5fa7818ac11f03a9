"""A real paper venue for a test, in a process on a Unix socket."""

import subprocess
import sys
from pathlib import Path

from pydantic import SecretStr

from manager.gateways import GatewayOptions
from manager.gateways.paper.client import VenueAdmin
from manager.gateways.paper.gateway import PaperGateway


class VenueProcess:
    def __init__(self, directory: Path, *options: str, listen: str | None = None) -> None:
        self.directory = directory
        with (directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "manager.venue", "--dir", str(directory)),
                    *("--listen", listen or f"unix:{directory}/venue.sock", *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        word = self.process.stdout.readline().split()
        assert word[:1] == ["ready"], self.log()
        self.address = word[1]

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def admin(self) -> VenueAdmin:
        return VenueAdmin(self.address)

    def gateway(
        self, login: int | str = 5001, *, password: str = "right", server: str = "Paper-1"
    ) -> PaperGateway:
        return PaperGateway(
            GatewayOptions(
                account_id=f"account-{login}",
                worker_id=f"w-{login}",
                login=login,
                server=server,
                password=SecretStr(password),
                venue_address=self.address,
                private_dir=self.directory / "private",
            )
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()
