"""Table of PM2's keys: translated ones, and notes for the others."""

from collections.abc import Mapping
from typing import Final

HANDLED: Final = frozenset(
    {
        *(
            "name",
            "script",
            "exec",
            "autostart",
            "args",
            "cwd",
            "env",
            "interpreter",
            "exec_interpreter",
            "interpreter_args",
        ),
        *(
            "interpreterArgs",
            "node_args",
            "instances",
            "exec_mode",
            "namespace",
            "kill_timeout",
            "min_uptime",
        ),
        *("max_memory_restart", "autorestart", "max_restarts", "restart_delay", "exp_backoff_restart_delay"),
        *("user", "uid", "gid", "env_file", "wait_ready", "instance_var", "watch"),
    }
)
_LOG: Final = "its output goes to the worker's log (`manager logs ACCOUNT`), which rotates by itself"
NOTED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("out_file", "output", "error_file", "error", "log_file", "log", "log_type", "log_date_format"),
            *(
                "merge_logs",
                "combine_logs",
                "time",
                "disable_logs",
                "out",
                "out_log",
                "err",
                "err_file",
                "err_log",
            ),
        ),
        _LOG,
    ),
    "pid_file": "`manager ps` shows the pid",
    "pid": "`manager ps` shows the pid",
    "watch_delay": "files are not watched",
    "kill_retry_time": "a stop does not poll for the end of the program",
    "ignore_watch": "files are not watched",
    "watch_options": "files are not watched",
    "listen_timeout": "`ready` and `timeout` define when the program is started",
    "source_map_support": "PM2 loads this into Node; add `--enable-source-maps` to the command",
    **dict.fromkeys(
        (
            "vizion",
            "pmx",
            "automation",
            "treekill",
            "force",
            "append_env_to_name",
            "disable_trace",
            "disable_source_map_support",
            "windowsHide",
            *("trace", "v8", "event_loop_inspector", "deep_monitoring", "io", "write", "install_url"),
        ),
        "has no equivalent here and needs none",
    ),
}
LOST: Final[Mapping[str, str]] = {
    "port": "write it into `environment` as PORT",
    "name_prefix": "rename the account files",
    "cron": "let cron run `manager restart ACCOUNT` at these times",
    "cron_restart": "let cron run `manager restart ACCOUNT` at these times",
    "shutdown_with_message": "the program is sent a signal instead of a message: handle SIGINT in it",
    "stop_exit_codes": "a program that ends is restarted whatever its exit code: set "
    "`recovery: {max_restarts: 0}` if it ends when its work is done",
    "post_update": "run it yourself after an update, then `manager restart ACCOUNT`",
    "increment_var": "give each account file its own value in `environment`",
    "filter_env": "a program gets only PATH, HOME, LANG and a few others, and what `environment` lists",
}
