"""The check of how a host enforces limits of accounts."""

from collections.abc import Mapping
from typing import Any, Final

from manager.doctor.check import Check
from manager.settings import Settings

#: Controller → what it enforces.
_ENFORCES: Final = {
    "memory": "limits.memory_hard_mb",
    "cpu": "limits.cpu_percent with on_exceed: throttle",
    "pids": "limits.processes (against fork bombs)",
}
_ADVICE: Final = (
    "nothing is needed if watching is enough; for the kernel's enforcement run the agent by `manager service "
    "install` on systemd 254 or later"
)


def limits_check(host: str, report: Mapping[str, Any], settings: Settings) -> Check:
    """Return the finding about a host's mechanism, from its report."""
    where = f"host {host}"
    mechanism, why = report.get("mechanism"), str(report.get("why") or "")
    controllers = report.get("controllers")
    names = [str(one) for one in controllers] if isinstance(controllers, list) else []
    if mechanism == "off":
        return Check(
            code="limits",
            outcome="warning",
            where=where,
            found=f"{host}: limits of accounts are off ({why})",
            advice="remove MANAGER_LIMITS=off from the agent's environment and restart the agent",
        )
    if mechanism == "cgroup":
        enforced = ", ".join(_ENFORCES[name] for name in names if name in _ENFORCES)
        found = f"{host}: the kernel enforces {enforced} (cgroup v2); other limits are watched every 5 s"
        return Check(code="limits", outcome="ok", where=where, found=f"{found}; {why}" if why else found)
    found = (
        f"{host}: limits are watched every 5 s; a worker above limits.memory_hard_mb is killed then, not at "
        f"once by the kernel, because {why or 'it has no control groups'}"
    )
    wanted = settings.limits == "cgroup" and settings.host == host
    return Check(
        code="limits", outcome="warning" if wanted else "ok", where=where, found=found, advice=_ADVICE
    )
