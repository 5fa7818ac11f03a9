"""A kernel timer that kills this process at a given time (Linux).

It needs no other process and no thread: it fires while this process or its guardian is paused, and after the
guardian has died. It counts while the machine is suspended, as `lease_clock` does.
"""

import ctypes
import signal
import sys
from typing import Any, Final

_CLOCK_BOOTTIME: Final = 7
_TIMER_ABSTIME: Final = 1
_SIGEV_SIGNAL: Final = 0
#: Size of the C library's `struct sigevent` in bytes.
_SIGEVENT_SIZE: Final = 64


class _SigEvent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_char * (_SIGEVENT_SIZE - ctypes.sizeof(ctypes.c_void_p) - 8)),
    )


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class KillTimer:
    """Kills this process at the time that was set last."""

    def __init__(self, library: Any) -> None:
        """Create the timer. Raises OSError if the kernel refuses it."""
        self._library = library
        self._timer = ctypes.c_void_p()
        event = _SigEvent(value=None, signo=int(getattr(signal, "SIGKILL", 9)), notify=_SIGEV_SIGNAL)
        if library.timer_create(_CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(self._timer)) != 0:
            raise OSError(ctypes.get_errno(), "timer_create")

    def set(self, moment: float) -> None:
        """Replace the time, in seconds of `lease_clock`. Raises OSError."""
        seconds = max(0.0, moment)
        # A value of zero would disarm the timer.
        whole, part = int(seconds), max(1, int(seconds % 1 * 1e9))
        spec = _TimerSpec(interval=_TimeSpec(0, 0), value=_TimeSpec(whole, part))
        if self._library.timer_settime(self._timer, _TIMER_ABSTIME, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timer_settime")


def make_kill_timer() -> KillTimer | None:
    """Return a timer that is not set; None if the system has none."""
    if sys.platform != "linux":
        return None
    for name in (None, "librt.so.1"):  # before glibc 2.34 the timers are in librt
        try:
            library = ctypes.CDLL(name, use_errno=True)
            return KillTimer(library)
        except (OSError, AttributeError):
            continue
    return None
