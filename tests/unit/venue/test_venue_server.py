"""The paper venue as its clients see it: overlaps, faults, restarts."""

import os
import socket
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from support.venue import VenueProcess
from support.waiting import eventually

from manager.gateways.base import (
    AuthenticationFailed,
    ConnectionLost,
    ConnectTimeout,
    GatewayError,
    InvalidRequest,
    OutcomeUnknown,
    PriceMoved,
    Side,
    TradingDisabled,
    VenueNotFound,
    WrongAccount,
)
from manager.gateways.paper.gateway import PaperGateway


def soon(seconds: float = 5) -> float:
    return time.monotonic() + seconds


def connected(venue: VenueProcess, login: int = 5001) -> PaperGateway:
    gateway = venue.gateway(login)
    gateway.connect(soon())
    return gateway


def test_an_overlap_is_counted_and_logged_with_both_ends(venue: VenueProcess) -> None:
    first, second = connected(venue), venue.gateway()
    second.connect(soon())
    with venue.admin() as admin:
        stats = admin.stats()
        assert (stats["overlaps"], stats["sessions"]) == (1, 2)
        assert admin.accounts()[0]["overlaps"] == 1
    (line,) = [line for line in venue.log().splitlines() if "OVERLAP" in line]
    assert "server=Paper-1 login=5001" in line
    assert line.count(f"pid {os.getpid()}") == 2
    first.disconnect()
    second.disconnect()


def test_other_logins_and_one_after_the_other_are_no_overlap(venue: VenueProcess) -> None:
    held = connected(venue, 1)
    for _ in range(3):
        connected(venue, 2).disconnect()
    with venue.admin() as admin:
        assert admin.stats()["overlaps"] == 0
    held.disconnect()


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is of POSIX")
def test_a_restart_right_after_kill_9_is_never_a_false_overlap(venue: VenueProcess) -> None:
    script = (
        "import sys, time\n"
        "from manager.gateways.paper.client import VenueLink\n"
        "link = VenueLink(sys.argv[1], time.monotonic() + 5)\n"
        "login = {'op': 'login', 'server': 'Paper-1', 'login': 5001, 'password': 'right'}\n"
        "link.ask(login, time.monotonic() + 5)\n"
        'link._socket.sendall(b\'{"op": "account"}\\n\' * 20)\n'
        "print('in', flush=True)\n"
        "time.sleep(60)\n"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", script, venue.address], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"in\n"
            child.kill()
            child.wait()
            connected(venue).disconnect()
    with venue.admin() as admin:
        assert admin.stats() == {"sessions": 0, "overlaps": 0, "live": []}


def test_the_first_login_enrols_and_the_password_holds_from_then_on(short_dir: Path) -> None:
    venue = VenueProcess(short_dir)
    gateway = connected(venue)
    position = gateway.submit_order("o", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
    gateway.disconnect()
    venue.close()
    venue = VenueProcess(short_dir)
    try:
        with pytest.raises(AuthenticationFailed):
            venue.gateway(password="other").connect(soon())
        again = connected(venue)
        assert [held.id for held in again.positions()] == [position.id], "positions outlive a venue"
        again.disconnect()
    finally:
        venue.close()
    for path in short_dir.iterdir():
        if path.is_file():
            assert b"right" not in path.read_bytes(), f"the password in clear in {path.name}"


FAULTS: list[tuple[str, type[GatewayError]]] = [
    ("auth_failure", AuthenticationFailed),
    ("connect_timeout", ConnectTimeout),
    ("connection_lost", ConnectionLost),
    ("wrong_account", WrongAccount),
]


@pytest.mark.parametrize(("kind", "error"), FAULTS)
def test_faults_at_login(venue: VenueProcess, kind: str, error: type[GatewayError]) -> None:
    with venue.admin() as admin:
        admin.script_fault("Paper-1", 5001, kind, count=1)
        began = time.monotonic()
        with pytest.raises(error):
            venue.gateway().connect(soon(0.3))
        assert time.monotonic() - began < 2
        connected(venue).disconnect()
        assert admin.stats()["sessions"] == 0, "a failed login leaves no session"


def test_faults_in_a_session(venue: VenueProcess) -> None:
    gateway = connected(venue)
    volume = Decimal("0.1")
    with venue.admin() as admin:
        admin.script_fault("Paper-1", 5001, "requote", count=1)
        with pytest.raises(PriceMoved):
            gateway.submit_order("a", symbol="EURUSD", side=Side.BUY, volume=volume)
        admin.script_fault("Paper-1", 5001, "trading_disabled")
        health = gateway.check()
        assert (health.venue_connected, health.can_trade) == (True, False)
        assert health.reason == "trading is disabled for this account"
        with pytest.raises(TradingDisabled):
            gateway.submit_order("a", symbol="EURUSD", side=Side.BUY, volume=volume)
        admin.clear_faults("Paper-1", 5001)
        admin.script_fault("Paper-1", 5001, "wrong_account", count=1)
        assert gateway.check().account_matches is False
        admin.script_fault("Paper-1", 5001, "connection_lost", after=2, count=1, on=("account",))
        gateway.account()
        gateway.account()
        with pytest.raises(ConnectionLost):
            gateway.account()
        assert gateway.check().ipc_ok is False


def test_a_lost_reply_is_outcome_unknown_and_the_order_was_carried_out(venue: VenueProcess) -> None:
    gateway = connected(venue)
    with venue.admin() as admin:
        admin.script_fault("Paper-1", 5001, "reply_lost", count=1)
    with pytest.raises(OutcomeUnknown) as caught:
        gateway.submit_order("a", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
    assert caught.value.outcome_unknown
    again = connected(venue)
    (held,) = again.positions()
    sent_again = again.submit_order("a", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
    assert sent_again.id == held.id
    again.disconnect()


def test_a_slow_answer_delays_no_other_client(venue: VenueProcess) -> None:
    slow, other = connected(venue, 1), connected(venue, 2)
    with venue.admin() as admin:
        admin.script_fault("Paper-1", 1, "slow", seconds=0.3, count=1)
    began = time.monotonic()
    slow_link = slow._link
    assert slow_link is not None
    slow_link._socket.sendall(b'{"op": "account"}\n')
    other.account()
    assert time.monotonic() - began < 0.25
    assert b"balance" in slow_link._socket.recv(4096)
    assert time.monotonic() - began >= 0.3
    other.disconnect()
    slow.disconnect()


def stranger_to(venue: VenueProcess) -> socket.socket:
    if sys.platform == "win32":
        pytest.skip("Windows' Python has no Unix sockets")
    stranger = socket.socket(socket.AF_UNIX)
    stranger.settimeout(5)
    stranger.connect(venue.address.removeprefix("unix:"))
    return stranger


@pytest.mark.parametrize(
    "junk",
    [b"\n", b"hello\n", b"[]\n", b"{}\n", b'{"op": 7}\n', b'{"op": "account"}\n', b"[" * 60_000 + b"\n"],
)
def test_junk_is_answered_and_affects_no_other_client(venue: VenueProcess, junk: bytes) -> None:
    gateway = connected(venue)
    with stranger_to(venue) as stranger:
        stranger.sendall(junk)
        assert b"invalid_request" in stranger.recv(4096)
    assert gateway.account().balance > 0
    gateway.disconnect()


def test_a_line_without_end_is_cut_off(venue: VenueProcess) -> None:
    with stranger_to(venue) as stranger, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(200):
            stranger.sendall(b"x" * 65_536)


def test_a_second_venue_on_one_directory_is_refused(venue: VenueProcess) -> None:
    def second(listen: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "manager.venue", "--dir", str(venue.directory), "--listen", listen],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 1
        return done.stderr

    assert "does another venue run on it?" in second("tcp:127.0.0.1:0")
    assert f"another venue listens on {venue.directory}/venue.sock" in second_beside(venue)


def second_beside(venue: VenueProcess) -> str:
    other = venue.directory / "other"
    done = subprocess.run(
        [sys.executable, "-m", "manager.venue", "--dir", str(other), "--listen", venue.address],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


def test_where_no_venue_is_the_error_names_the_address(venue: VenueProcess) -> None:
    gateway = venue.gateway()
    venue.close()
    with pytest.raises(VenueNotFound, match=f"no venue at {venue.address}: No such file"):
        gateway.connect(soon())


def test_the_socket_of_a_dead_venue_is_replaced_and_private(short_dir: Path) -> None:
    first = VenueProcess(short_dir)
    first.process.kill()
    first.process.wait()
    first.close()
    assert (short_dir / "venue.sock").exists()
    second = VenueProcess(short_dir)
    try:
        assert ((short_dir / "venue.sock").stat().st_mode & 0o777) == 0o600
        connected(second).disconnect()
    finally:
        second.close()
    assert not (short_dir / "venue.sock").exists()


def test_over_tcp(short_dir: Path) -> None:
    venue = VenueProcess(short_dir, "--address-file", str(short_dir / "address"), listen="tcp:127.0.0.1:0")
    try:
        assert (short_dir / "address").read_text() == venue.address
        connected(venue).disconnect()
    finally:
        venue.close()
    assert not (short_dir / "address").exists()


def test_the_administrator_gets_the_reason_of_a_refusal(venue: VenueProcess) -> None:
    with venue.admin() as admin:
        with pytest.raises(InvalidRequest, match="'boom' is not a fault; there are auth_failure"):
            admin.script_fault("S", 1, "boom")
        admin.create_account("S", 1, "x", balance="500", position_mode="netting")
        with pytest.raises(InvalidRequest, match="exists already"):
            admin.create_account("S", 1, "x")
        assert eventually(admin.accounts)[0]["balance"] == "500"
