"""Table of docker-compose's keys: translated ones, and notes for others."""

from collections.abc import Mapping
from typing import Final

HANDLED: Final = frozenset(
    {
        *(
            "command",
            "entrypoint",
            "environment",
            "env_file",
            "working_dir",
            "stop_signal",
            "stop_grace_period",
        ),
        *(
            "restart",
            "user",
            "image",
            "build",
            "healthcheck",
            "deploy",
            "scale",
            "mem_limit",
            "memswap_limit",
        ),
        *("profiles",),
    }
)
NOTED: Final[Mapping[str, str]] = {
    "depends_on": "accounts start at the same time: let the program wait for what it needs",
    "links": "accounts start at the same time: let the program wait for what it needs",
    "logging": "its output goes to the worker's log (`manager logs ACCOUNT`), which rotates by itself",
    "container_name": "the account's id is the service's name",
    "labels": "labels of a container are for other tools; `labels` of an account select it (`-l KEY=VALUE`)",
    **dict.fromkeys(
        (
            "init",
            "tty",
            "stdin_open",
            "hostname",
            "pull_policy",
            "platform",
            "expose",
            "develop",
            "annotations",
        ),
        "concerns a container, and has no equivalent here",
    ),
}
LOST: Final[Mapping[str, str]] = {
    "ports": "the program listens on the host itself: let it open the published port",
    "volumes": "container paths do not exist here: use the host's paths in `command` and `environment`",
    "networks": "names of services are not addresses here: use 127.0.0.1 or the host's name",
    "network_mode": "the program uses the host's network",
    "extra_hosts": "put these names into the host's /etc/hosts",
    "dns": "the program uses the host's name servers",
    "secrets": (
        "put each secret into a file below `secrets/` (mode 0600) and refer to it in `environment` as "
        "file:secrets/NAME"
    ),
    "configs": "put these files on the host and use their paths there",
    "extends": "is not followed: also import the file that it names, or add its keys here",
    "ulimits": "programs start with a soft limit of 1,024 open files; for another: `limits: {open_files: N}`",
    "cpus": "write `limits: {cpu_percent: N, on_exceed: throttle}`, in percent of one core",
    "cpu_quota": "write `limits: {cpu_percent: N, on_exceed: throttle}`, in percent of one core",
    "pids_limit": "write `limits: {processes: N}`; processes are counted, not threads",
    **dict.fromkeys(
        ("cpu_shares", "cpuset", "blkio_config", "oom_score_adj"),
        "this resource is not limited here: use the means of the host",
    ),
    **dict.fromkeys(
        (
            "cap_add",
            "cap_drop",
            "privileged",
            "security_opt",
            "read_only",
            "tmpfs",
            "devices",
            "sysctls",
            "shm_size",
        ),
        "a program has the rights of the host agent's user and is not isolated",
    ),
}
