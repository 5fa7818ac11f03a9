"""Which interrupts start a polite end, and which make it impatient."""

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


@pytest.mark.parametrize("polite", [hang_up, request])
def test_a_closed_terminal_and_a_request_are_never_impatient(polite: Callable[[Interrupts], None]) -> None:
    with Interrupts() as interrupts:
        with pytest.raises(Interrupted):
            polite(interrupts)
        interrupts.acknowledge()
        # The kernel and the shell may both send a hang-up, and `manager down` may be called twice.
        hang_up(interrupts)
        request(interrupts)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("polite", [hang_up, request])
def test_neither_is_impatient_after_ctrl_c(polite: Callable[[Interrupts], None]) -> None:
    with Interrupts() as interrupts:
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        interrupts.acknowledge()
        polite(interrupts)


def test_under_nohup_a_hang_up_stays_ignored() -> None:
    script = (
        "import signal\n"
        "from manager.local.interrupts import Interrupts\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with Interrupts() as interrupts:\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    print('goes on', interrupts.hangup)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("goes on False\n", "")
