"""The exit codes of a worker, which its host agent reads. A leaf."""

from enum import IntEnum


class WorkerExit(IntEnum):
    """Exit codes of a worker process."""

    #: Stopped on request; the session is closed.
    STOPPED = 0
    #: The worker's code failed; the log has the traceback.
    CRASHED = 70
    #: The session was never connected; the host got the reason over the launch pipe.
    NOT_CONNECTED = 71
    #: The venue or the connection to it was lost.
    CONNECTION_LOST = 72
    #: Stopped on request, but the session could not be closed cleanly.
    STOPPED_UNCLEANLY = 73
    #: Another worker holds the lease, or it could not be renewed in time.
    LEASE_LOST = 74
    #: Stopped on request; the session is closed, but its program had to be killed.
    STOPPED_BY_FORCE = 76


MEANINGS = {
    WorkerExit.STOPPED: "stopped cleanly",
    WorkerExit.CRASHED: "its own code failed",
    WorkerExit.NOT_CONNECTED: "its session was never connected",
    WorkerExit.CONNECTION_LOST: "its connection to the venue was lost",
    WorkerExit.STOPPED_UNCLEANLY: "it stopped, but could not close its session cleanly",
    WorkerExit.LEASE_LOST: "it lost its lease",
    WorkerExit.STOPPED_BY_FORCE: "its program did not stop in time and was killed",
}
