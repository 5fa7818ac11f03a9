"""Programs do not inherit the privileges that an agent has over other processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("nice values and the out-of-memory killer of Linux", allow_module_level=True)

#: Runs in a separate process, so that no other test inherits its attributes.
AGENT = """
import contextlib, os, sys, time
from pathlib import Path
from manager.config.models import ReadyConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.command.gateway import CommandGateway
nice, score, policy = (int(text) for text in sys.argv[2:])
with contextlib.suppress(PermissionError):  # a container may not lower it
    Path("/proc/self/oom_score_adj").write_text(str(score))
os.setpriority(os.PRIO_PROCESS, 0, nice)
os.sched_setscheduler(0, policy, os.sched_param(1 if policy == os.SCHED_RR else 0))
directory = Path(sys.argv[1])
script = (
    "import json, os\\n"
    "score = int(open('/proc/self/oom_score_adj').read())\\n"
    "found = [os.getpriority(os.PRIO_PROCESS, 0), score, os.sched_getscheduler(0)]\\n"
    "open('found', 'w').write(json.dumps(found))\\nprint('up')\\nimport time; time.sleep(60)\\n"
)
gateway = CommandGateway(
    GatewayOptions(
        account_id="a", worker_id=f"w-privileges-{os.getpid()}",
        private_dir=directory / "p", directory=directory,
        command=(sys.executable, "-c", script), ready=ReadyConfig(line="up"),
        stop=StopConfig(deadline_seconds=5),
    )
)
gateway.connect(time.monotonic() + 20)
gateway.disconnect()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a process more than others have")
@pytest.mark.parametrize(
    ("agent", "program"),
    [
        ((-5, -500, os.SCHED_OTHER), [0, 0, os.SCHED_OTHER]),
        ((0, -1000, os.SCHED_RR), [0, 0, os.SCHED_OTHER]),
        ((5, 300, os.SCHED_BATCH), [5, 300, os.SCHED_BATCH]),
    ],
)
def test_privileges_of_the_agent_are_not_inherited(
    tmp_path: Path, agent: tuple[int, int, int], program: list[int]
) -> None:
    subprocess.run([sys.executable, "-c", AGENT, str(tmp_path), *map(str, agent)], check=True, timeout=60)
    assert json.loads((tmp_path / "found").read_text()) == program
