"""How a worker ends, as exit codes that its host reads. A leaf."""

from enum import IntEnum


class WorkerExit(IntEnum):
    #: It was asked to stop, and its session is closed.
    STOPPED = 0
    #: Its own code failed; the log has the traceback.
    CRASHED = 70
    #: The session was never connected; the reason went to the host over the launch pipe.
    NOT_CONNECTED = 71
    #: The venue or its connection went away.
    CONNECTION_LOST = 72
    #: It was asked to stop, but the session could not be closed in order.
    STOPPED_UNCLEANLY = 73
    #: Another worker has its lease, or it could not be renewed in time.
    LEASE_LOST = 74
    #: It was asked to stop, and its session is closed; but the program that it ran was killed for that.
    STOPPED_BY_FORCE = 76


MEANINGS = {
    WorkerExit.STOPPED: "stopped in order",
    WorkerExit.CRASHED: "its own code failed",
    WorkerExit.NOT_CONNECTED: "its session was never connected",
    WorkerExit.CONNECTION_LOST: "its connection to the venue was lost",
    WorkerExit.STOPPED_UNCLEANLY: "it stopped, but could not close its session in order",
    WorkerExit.LEASE_LOST: "it lost its lease",
    WorkerExit.STOPPED_BY_FORCE: "its program did not stop in time and was killed",
}
