"""A worker's title: `ps` distinguishes workers; no other memory changes."""

import subprocess
import sys

import psutil
import pytest

from manager.session.title import ROOM

CODE = (
    "import sys\nfrom manager.session.title import set_title\n"
    "print(set_title(sys.stdin.readline().strip()), flush=True)\nsys.stdin.read()"
)


@pytest.mark.skipif(sys.platform != "linux", reason="titles are of Linux")
@pytest.mark.parametrize("title", ["worker-manager: account-001", "worker-manager: " + "a" * 64])
def test_a_process_shows_its_title_and_keeps_its_environment(title: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CODE, ROOM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"FIRST": "untouched"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(title + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "True\n"
        shown = psutil.Process(process.pid)
        assert " ".join(shown.cmdline()).rstrip() == title
        assert shown.environ()["FIRST"] == "untouched"
        process.stdin.close()
