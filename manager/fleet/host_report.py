"""A host agent's status report, which it writes to Redis each second."""

from typing import Annotated, Any, Final

from pydantic import Field

from manager.models import Count, Number, OpenPayload, key

#: At most a petabyte: a false figure in Redis must not draw every worker to one host.
Megabytes = Annotated[int, Field(ge=0, le=1 << 30)]

_AGENT: Final = "host agent"


class DrainReport(OpenPayload):
    """The progress of a host's drain."""

    leaving: Count | None = key("Workers that are leaving now.", by=_AGENT)
    staying: Count | None = key("Workers that cannot leave now.", by=_AGENT)
    why: dict[str, str] | None = key("Account → why it cannot leave; the first few accounts only.", by=_AGENT)


class ClockChangeReport(OpenPayload):
    """The machine's latest suspend or clock change of the last day."""

    kind: str | None = key("`suspended`, `set_forward` or `set_back`.", by=_AGENT)
    seconds: Number | None = key(
        "How long the machine was suspended, or by how much.", by=_AGENT, unit="seconds"
    )
    text: str | None = key("What happened, for people.", by=_AGENT)
    age_seconds: Number | None = key("How long ago the agent noticed it.", by=_AGENT, unit="seconds")


class HostReport(OpenPayload):
    """Keys of `HostState.data`: a host agent's status report."""

    pid: Count | None = key("The process id of the agent.", by=_AGENT)
    start_time: str | None = key("Identifies the process together with `pid`, which is reused.", by=_AGENT)
    machine: str | None = key("The id of the machine or container.", by=_AGENT)
    version: str | None = key("The version of the agent's software.", by=_AGENT)
    python: str | None = key("The version of Python.", by=_AGENT)
    tzdata: str | None = key("The version of the time zone rules.", by=_AGENT)
    started_at: str | None = key("When the agent started.", by=_AGENT, unit="ISO 8601, UTC")
    workers: Count | None = key("Workers that have a process.", by=_AGENT)
    states: dict[str, Count] | None = key("State → how many workers are in it.", by=_AGENT)
    heard_seconds_ago: Number | None = key(
        "How long ago the agent received a message, its own self-test included.", by=_AGENT, unit="seconds"
    )
    looks: Count | None = key("Ticks of the reconciler since the agent started.", by=_AGENT)
    trouble: str | None = key("Why the agent cannot do all of its work.", by=_AGENT)
    clock_change: ClockChangeReport | None = key("The latest suspend or clock change.", by=_AGENT)
    drain: DrainReport | None = key("How far the drain is; none if the host is not draining.", by=_AGENT)
    commands: list[str] | None = key("The commands that the agent knows.", by=_AGENT)
    config_source: str | None = key("The setting `MANAGER_CONFIG_SOURCE`.", by=_AGENT)
    config_version: Count | None = key("The pushed configuration in use.", by=_AGENT)
    labels: dict[str, str] | None = key("The labels of the host.", by=_AGENT)
    capacity: Count | None = key("The most workers it may have; 0: limited by memory alone.", by=_AGENT)
    memory_mb: Megabytes | None = key("Memory of the machine or container.", by=_AGENT, unit="MiB")
    available_mb: Megabytes | None = key("Memory that is available now.", by=_AGENT, unit="MiB")
    load: Number | None = key("Load average of the last minute per processor.", by=_AGENT)
    limits: dict[str, Any] | None = key(
        "How the host enforces limits of accounts: `mechanism` (`cgroup`, `watched` or `off`), "
        "`controllers`, and `why` not a better one.",
        by=_AGENT,
    )
    time: Number | None = key(
        "The host's clock when it wrote the report.", by=_AGENT, unit="seconds since 1970"
    )
    word: Count | None = key(
        "The number of this report; the agent notices by it when Redis lost data.", by=_AGENT
    )
