"""After the output was closed, text goes to the log and writing raises nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and terminals of POSIX")

SCRIPT = """
import os, sys
from pathlib import Path
from rich.console import Console
from manager.local.resilient_output import ResilientOutput
output = ResilientOutput(sys.stdout, Path(sys.argv[1]))
console = Console(file=output)
sys.stderr.write("ready\\n")
sys.stdin.readline()
console.print("first"); console.print("second")
sys.stdout.flush()
sys.exit(7)
"""


def test_a_broken_pipe(tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stderr.readline() == b"ready\n"
        process.stdout.close()
        process.stdin.write(b"go on\n")
        process.stdin.flush()
        assert process.wait(timeout=20) == 7
        assert process.stderr.read() == b""
    assert log.read_text().splitlines() == ["first", "second"]
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_for_output_and_log() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, "/dev/full"],
            input="go on\n",
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
            check=False,
        )
    assert done.stderr == "ready\n"
