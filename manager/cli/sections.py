"""The sections of `manager --help`, with one line for each command.

Add a new command here.
"""

from collections.abc import Mapping
from typing import Final

#: Section → command → summary. A summary fits one line of an 80-column terminal.
SECTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "Fleet": {
        "start-all": "Start every enabled account.",
        "stop-all": "Stop every worker of the fleet, or of this machine (--local).",
        "batch": "Show the progress of a command for many accounts.",
    },
    "Accounts": {
        "start": "Start workers; return when their sessions are connected.",
        "stop": "Stop workers; return when their processes have ended.",
        "restart": "Stop and start workers with the current configuration.",
        "pause": "Keep sessions connected, but send no orders.",
        "resume": "Let paused sessions trade again.",
        "schedule": "Show what accounts do when, and override it.",
        "move": "Stop a worker and start it on another host.",
        "forget": "Clear the record of an account that has no worker.",
    },
    "Hosts": {
        "hosts": "List the hosts: state, version, workers, room, labels.",
        "drain": "Take a host out of service; its workers move or stop.",
        "resume-host": "Let a drained host run workers again.",
        "forget-host": "Remove a host that no longer exists.",
        "place": "Show on which host an account would run, and why.",
    },
    "Configuration": {
        "init": "Write commented example files for a new fleet.",
        "validate": "Check account files, here and on their hosts.",
        "config": "Show account files, and push them to every host.",
        "reload": "Show which accounts differ from their files.",
        "rollout": "Bring changed files or new software in steps.",
        "approve": "Approve changes of real accounts that raise exposure.",
        "import": "Write account files for programs of another supervisor.",
        "secure": "Set up TLS and restricted users for Redis.",
    },
    "Observe": {
        "ps": "List workers and their state (also: status, list, ls).",
        "top": "Show a live list of workers, with keys for commands.",
        "info": "Show all details of one account's worker.",
        "events": "Show changes of workers' states and health.",
        "history": "Show an account's past runs, and why they ended.",
        "logs": "Show the logs of workers on this machine.",
        "audit": "Show who sent which command, and its outcome.",
        "doctor": "Find problems of the fleet, and show how to fix them.",
        "versions": "Count workers by software and configuration.",
        "healthcheck": "Check this machine's host agent, for supervisors.",
    },
    "Run services": {
        "up": "Start everything on this machine, then every account.",
        "down": "Stop everything that `manager up` started here.",
        "host": "Run this machine's host agent in the foreground.",
        "flower": "Run Flower, read-only, in the foreground.",
        "scheduler": "Run the fleet's scheduler in the foreground.",
        "service": "Install the host agent as a system service.",
        "api": "Run the HTTP API in the foreground.",
        "token": "Create, list and revoke tokens of the HTTP API.",
    },
    "Help": {
        "version": "Show the versions of the manager and its packages.",
        "completion": "Print the completion script of a shell.",
        "man": "Print the manual page.",
    },
}
