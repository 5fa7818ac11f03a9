"""Runs every example of docs/howto/enqueue.md unchanged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.fleet import Fleet, plain_celery

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = dict(
    re.findall(
        r"<!-- example: (\w+) -->\n```python\n(.*?)```",
        (ROOT / "docs" / "howto" / "enqueue.md").read_text(),
        re.S,
    )
)


def with_package(fleet: Fleet, script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=fleet.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_python_block_is_an_example_that_is_run() -> None:
    blocks = (ROOT / "docs" / "howto" / "enqueue.md").read_text().count("```python")
    assert set(EXAMPLES) == {"celery", "outcome", "package", "fake", "asyncio", "events"}
    assert blocks == len(EXAMPLES)


@pytest.mark.long
def test_the_examples_do_what_they_say(fleet: Fleet) -> None:
    fleet.add_accounts(3)
    celery_url = "redis+socket://" + fleet.redis.url.removeprefix("unix://")
    out = plain_celery(fleet, f"url = {celery_url!r}\n{EXAMPLES['celery']}")
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["running", fleet.host]
    assert [line.split(":")[0] for line in lines[1:3]] == ["running", "running"]
    assert lines[3] == "True"

    out = plain_celery(fleet, f"url = {celery_url!r}\n{EXAMPLES['outcome']}")
    assert out.startswith("AccountNotFoundError no account no-such-account: ")

    out = with_package(fleet, EXAMPLES["package"])
    assert out.splitlines()[0] == "running 10000.00"
    assert "did you mean account-001" in out
    assert out.splitlines()[-1] == "3 run, 0 failed"

    out = with_package(fleet, EXAMPLES["asyncio"])
    assert out.splitlines()[0] == "['running', 'running']"
    assert out.splitlines()[-1].endswith(" running")

    events = f"url = {fleet.redis.url!r}\n{EXAMPLES['events']}"
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nsys.modules['manager'] = None\n" + events],
        env={"PATH": os.environ.get("PATH", "")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "account-001 running" in done.stdout
