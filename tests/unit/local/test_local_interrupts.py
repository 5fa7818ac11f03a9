"""Which interrupts start a graceful shutdown, and which force it."""

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from manager.local.interrupts import Interrupted, Interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def hang_up(_interrupts: Interrupts) -> None:
    signal.raise_signal(getattr(signal, "SIGHUP", signal.SIGTERM))


def request(interrupts: Interrupts) -> None:
    interrupts.request()


@pytest.mark.parametrize("graceful", [hang_up, request])
def test_a_hangup_or_request_never_forces_the_shutdown(graceful: Callable[[Interrupts], None]) -> None:
    with Interrupts() as interrupts:
        with pytest.raises(Interrupted):
            graceful(interrupts)
        interrupts.acknowledge()
        # The kernel and the shell may both send SIGHUP, and a user may run `manager down` twice.
        hang_up(interrupts)
        request(interrupts)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("graceful", [hang_up, request])
def test_neither_forces_the_shutdown_after_ctrl_c(graceful: Callable[[Interrupts], None]) -> None:
    with Interrupts() as interrupts:
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        interrupts.acknowledge()
        graceful(interrupts)


def test_nohup_keeps_sighup_ignored() -> None:
    script = (
        "import signal\n"
        "from manager.local.interrupts import Interrupts\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with Interrupts() as interrupts:\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    print('continues', interrupts.hangup)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("continues False\n", "")
