"""Runs callers with other Celery versions and Node against a host agent.

    python benchmarks/clients.py 5.3.6+kombu==5.3.7 5.4.0+packaging 5.5.3 5.6.3 5.7.0 --node

Each version of Celery (and, after `+`, further packages) is installed into a new virtual environment without
this project. `--node` adds a caller with the npm package celery-node. A caller gets only the URL of Redis.
The results are compared with the sessions that the paper venue counted. Exits with 1 if a caller failed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from common import fleet, machine, sessions_of, table
from support.fleet import Fleet

#: The calls of a caller. It prints its versions, and for each step True or the problem.
_PYTHON: Final = """
import faulthandler, json, sys
from celery import Celery, group

faulthandler.dump_traceback_later(60, exit=True)  # a caller that hangs prints its stacks

url = sys.argv[1]
app = Celery(broker=url, backend=url)
steps = {}

def step(name, ask, right):
    try:
        answer = ask()
        steps[name] = True if right(answer) else f"unexpected answer {answer!r}"
    except Exception as error:
        steps[name] = f"{type(error).__name__}: {error}"

def send(name, *args, sender=app, **options):
    return sender.send_task(f"tasks.{name}", args=args, **options).get(timeout=30)

def refused(**options):
    try:
        return send("get_worker_info", "account-001", **options)
    except Exception as error:
        return type(error).__name__

others = ["account-002", "account-003", "account-004"]
step("start", lambda: send("start_worker", "account-001"), lambda a: a["status"] == "running")
step("info", lambda: send("get_worker_info", "account-001"), lambda a: a["status"] == "running")
step("validate", lambda: send("validate_config", "account-001"), lambda a: a["valid"] is True)
started = group(app.signature("tasks.start_worker", args=[a]) for a in others)
step(
    "group of 3 starts",
    lambda: started.apply_async().get(timeout=60),
    lambda a: [one["account_id"] for one in a if one["status"] == "running"] == others,
)
old = Celery(broker=url, backend=url)
old.conf.task_protocol = 1
step("protocol 1", lambda: refused(sender=old), lambda a: a == "InvalidPayloadError")
step("compression", lambda: refused(compression="gzip"), lambda a: a == "InvalidPayloadError")
step("stop", lambda: send("stop_worker", "account-001"), lambda a: a is True)
stopped = group(app.signature("tasks.stop_worker", args=[a]) for a in others)
step("group of 3 stops", lambda: stopped.apply_async().get(timeout=60), lambda a: a == [True] * 3)

import celery, kombu, redis
versions = f"celery {celery.__version__}, kombu {kombu.__version__}, redis-py {redis.__version__}"
print(json.dumps([versions, steps]))
"""

_NODE: Final = """
const celery = require("celery-node");
const url = process.argv[2];
const client = celery.createClient(url, url);
const steps = {};

async function step(name, sender, task, args, right, refused) {
  try {
    const answer = await sender.createTask("tasks." + task).applyAsync(args).get(30000);
    steps[name] = right && right(answer) ? true : "unexpected answer " + JSON.stringify(answer);
  } catch (error) {
    const text = error.message + " " + JSON.stringify(error);  // it holds exc_type and exc_message
    steps[name] = refused && text.includes(refused) ? true : text;
  }
}

(async () => {
  await step("start", client, "start_worker", ["account-001"], (a) => a.status === "running");
  await step("info", client, "get_worker_info", ["account-001"], (a) => a.status === "running");
  await step("validate", client, "validate_config", ["account-001"], (a) => a.valid === true);
  const old = celery.createClient(url, url);
  old.conf.TASK_PROTOCOL = 1;
  await step("protocol 1", old, "get_worker_info", ["account-001"], null, "InvalidPayloadError");
  await step("stop", client, "stop_worker", ["account-001"], (a) => a === true);
  const version = require("celery-node/package.json").version;
  console.log(JSON.stringify(["celery-node " + version + ", Node " + process.version, steps]));
  process.exit(0);
})();
"""

STEPS: Final = (
    "start",
    "info",
    "validate",
    "group of 3 starts",
    "protocol 1",
    "compression",
    "stop",
    "group of 3 stops",
)
#: Steps that succeed if the caller gets a refusal of its message.
_REFUSED: Final = ("protocol 1", "compression")


def install_celery(directory: Path, version: str) -> Path:
    """Return an interpreter with this Celery and without the project."""
    celery, *more = version.split("+")
    name = f"celery-{version}"
    python = directory / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        pip = [str(python), "-m", "pip", "install", "-qq"]
        subprocess.run([*pip, f"celery[redis]=={celery}", *more], check=True)
    return python


def install_node(directory: Path) -> Path:
    """Return a directory with the npm package `celery-node`."""
    if not (directory / "node_modules").exists():
        subprocess.run(
            [
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--silent",
                "--prefix",
                str(directory),
                "celery-node",
            ],
            check=True,
        )
    return directory


def ask(name: str, argv: Sequence[str], directory: Path) -> tuple[str, dict[str, Any]]:
    """Run a caller; return its versions and the results of its steps."""
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        return f"{name} (hung, or ended with an error)", {"start": done.stderr or done.stdout}
    versions, steps = json.loads(done.stdout)
    return str(versions), dict(steps)


def row(found: Fleet, name: str, argv: Sequence[str], directory: Path) -> tuple[list[object], list[str]]:
    """Return one caller's row of the table, and its problems."""
    before = sessions_of(found)[0]
    began = time.perf_counter()
    versions, steps = ask(name, argv, directory)
    took = time.perf_counter() - began
    ever, live, overlaps = sessions_of(found)
    sessions = ever - before
    wrong = [f"{name}: {step}: {outcome}" for step, outcome in steps.items() if outcome is not True]
    expected = 4 if "group of 3 starts" in steps else 1
    if (sessions, live, overlaps) != (expected, 0, 0) or found.workers():
        wrong.append(f"{name}: {sessions} sessions, {live} left, {overlaps} overlaps")
        found.run("stop-all")  # so that nothing runs for the next caller
    cells = [
        "-"
        if step not in steps
        else "FAILED"
        if steps[step] is not True
        else "refused"
        if step in _REFUSED
        else "ok"
        for step in STEPS
    ]
    return [versions, *cells, f"{sessions}, {live} left, {overlaps} overlaps", f"{took:.1f}"], wrong


def run(versions: Sequence[str], *, node: bool, server: str | None, venvs: Path) -> list[str]:
    program, node_program = venvs / "client.py", venvs / "client.js"
    program.write_text(_PYTHON)
    node_program.write_text(_NODE)
    with fleet(server=server, tcp=True) as found:
        found.add_accounts(4)
        with found.redis.client() as client:
            details = client.info("server")
            port = client.config_get("port")["port"]
        url = f"redis://127.0.0.1:{port}/0"
        rows, wrong = [], []
        for version in versions:
            python = install_celery(venvs, version)
            cells, faults = row(found, version, [str(python), str(program), url], venvs)
            rows.append(cells)
            wrong += faults
        if node:
            directory = install_node(venvs)
            cells, faults = row(found, "node", ["node", str(node_program), url], directory)
            rows.append(cells)
            wrong += faults
    server_name = (
        f"Valkey {details['valkey_version']}"
        if "valkey_version" in details
        else f"Redis {details['redis_version']}"
    )
    print(f"{machine()}; {server_name}\n")
    print(table(["caller", *STEPS, "sessions", "s"], rows))
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="*", help="versions of Celery, CELERY[+PACKAGE[==VERSION]]...")
    parser.add_argument(
        "--node", action="store_true", help="also run a caller with the npm package celery-node"
    )
    parser.add_argument("--server", help="a Redis or Valkey server program (default: that of the tests)")
    parser.add_argument("--venvs", type=Path, help="install into this directory and keep it")
    options = parser.parse_args()
    if options.venvs is not None:
        options.venvs.mkdir(parents=True, exist_ok=True)
    venvs = (options.venvs or Path(tempfile.mkdtemp(prefix="wm-clients-"))).resolve()
    try:
        wrong = run(options.versions, node=options.node, server=options.server, venvs=venvs)
    finally:
        if options.venvs is None:
            shutil.rmtree(venvs, ignore_errors=True)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
