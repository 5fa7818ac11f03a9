"""Generates pages and parts of pages of the documentation from the code.

`.ci/reference-docs` writes them. Tests fail if one of them is out of date.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

import click
from pydantic import AwareDatetime
from pydantic.fields import FieldInfo

from manager.api.openapi import document
from manager.api.problems import PROBLEMS
from manager.cli.main import cli
from manager.doctor.check import CODES
from manager.fleet.host_report import ClockChangeReport, DrainReport, HostReport
from manager.fleet.run_types import Run
from manager.local.service_unit import UnitPlan, unit_text
from manager.models import OpenPayload, WorkerMetrics, WorkerPlacement

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.metrics import full_page, parsed

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
OPENAPI = ROOT / "manager" / "api" / "openapi.json"
REGENERATE = "run .ci/reference-docs"


def log_actions() -> dict[str, set[tuple[str, str]]]:
    """Return each action of the log with the levels and modules that log it."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path in sorted([*(ROOT / "manager").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]):
        module = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _is_event(node) and len(node.args) >= 3:
                for name in _texts(node.args[2]):
                    found.setdefault(name, set()).update((level, module) for level in _levels(node.args[1]))
    return found


def _is_event(node: ast.Call) -> bool:
    function = node.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "event"
        and isinstance(function.value, ast.Name)
        and function.value.id == "logs"
    )


def _texts(node: ast.expr) -> Iterator[str]:
    for child in _results(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value


def _levels(node: ast.expr) -> list[str]:
    names = [child.attr.lower() for child in _results(node) if isinstance(child, ast.Attribute)]
    return names or ["varies"]


def _results(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the possible results of an expression, such as both arms of `if`."""
    if isinstance(node, ast.IfExp):
        yield from _results(node.body)
        yield from _results(node.orelse)
    else:
        yield node


def log_events_page() -> str:
    """Return docs/reference/log-events.md."""
    rows = []
    for action, places in sorted(log_actions().items()):
        levels = ", ".join(sorted({level for level, _ in places}))
        modules = ", ".join(f"`{module}`" for module in sorted({module for _, module in places}))
        rows.append(f"| `{action}` | {levels} | {modules} |")
    return "\n".join(
        [
            "# Log events",
            "",
            "This page lists every action name that the log of a worker or a host agent can contain.",
            "",
            "A log line has a time, a level, an action, a message and fields such as `account=account-001`.",
            "With `MANAGER_LOG_JSON=true` each line is a JSON object, and `action` is one of its keys.",
            "Search for actions, not for messages: a message may change between versions.",
            "",
            "This page is generated from the source by `.ci/reference-docs`.",
            "",
            "| action | level | logged by |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def commands_page() -> str:
    """Return docs/reference/commands.md."""
    lines = [
        "# Commands",
        "",
        "This page lists every command of `manager` with its arguments and options.",
        "",
        "`manager COMMAND --help` shows the same text.",
        "This page is generated from it by `.ci/reference-docs`.",
        "",
        _text(cli.epilog or ""),
        "",
    ]
    with click.Context(cli, info_name="manager") as context:
        for name in sorted(cli.commands):
            command = cli.commands[name]
            if not command.hidden:
                lines += _command(command, click.Context(command, info_name=name, parent=context), 2)
    return "\n".join(lines)


def _command(command: click.Command, context: click.Context, level: int) -> list[str]:
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    lines = [f"{'#' * level} {context.command_path}", "", "```", usage, "```", ""]
    for paragraph in re.split(r"\n\s*\n", command.help or ""):
        lines += [_text(paragraph), ""]
    records = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in parameter.opts:
            records.append(record)
    if records:
        lines += ["| option | meaning |", "|---|---|"]
        lines += [f"| `{_cell(option)}` | {_cell(_text(meaning))} |" for option, meaning in records]
        lines.append("")
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            child = command.commands[name]
            lines += _command(child, click.Context(child, info_name=name, parent=context), level + 1)
    return lines


def _text(text: str) -> str:
    return " ".join(text.replace("\b", "").split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


#: Title → the model whose keys the section lists.
PAYLOADS: dict[str, type[OpenPayload]] = {
    "WorkerInfo.metadata: placement": WorkerPlacement,
    "WorkerInfo.metadata: metrics": WorkerMetrics,
    "HostState.data": HostReport,
    "HostState.data: drain": DrainReport,
    "HostState.data: clock_change": ClockChangeReport,
}

_TYPES = {str: "text", int: "integer", float: "number", bool: "true or false", AwareDatetime: "time"}


def payloads_page() -> str:
    """Return docs/reference/payloads.md."""
    lines = [
        "# Payload keys",
        "",
        "This page lists every key of `WorkerInfo.metadata`, of a host agent's report and of a run.",
        "",
        "A key is missing if its value is not known. A value can also be `null`.",
        "Later versions may add keys.",
        "In Python, `info.placement`, `info.metrics` and `host.report` read these keys typed.",
        "There a key that is missing or has an invalid value is `None`.",
        "This page is generated from the models by `.ci/reference-docs`.",
        "",
        "The column “written by” names the host agent, the worker process, the batch task, or the reader.",
        "The reader is the process that requests the worker's information and computes the value.",
        "",
    ]
    for title, model in PAYLOADS.items():
        lines += [f"## {title}", "", _text((model.__doc__ or "").partition("\n\n")[0]), ""]
        lines += ["| key | type | unit | written by | meaning |", "|---|---|---|---|---|"]
        lines += [_payload_row(name, field) for name, field in model.model_fields.items()]
        lines.append("")
    return "\n".join([*lines, *_run_section()])


def _run_section() -> list[str]:
    """Return the section about the run history."""
    rows = [
        f"| `{name}` | {_type_name(field.annotation)} | {_cell(field.description or '')} |"
        for name, field in Run.model_fields.items()
    ]
    return [
        "## Run",
        "",
        "One run in the history: the life of one worker. `manager history --json`, `service.runs()` and",
        "`GET /accounts/{account_id}/runs` return it. The host agent writes every key.",
        "",
        *("| key | type | meaning |", "|---|---|---|"),
        *rows,
        "",
    ]


def _payload_row(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if not isinstance(extra, dict) or not field.description:
        raise ValueError(f"{name} is not declared with `key`")
    cells = (f"`{name}`", _type_name(field.annotation), extra["unit"], extra["by"], _cell(field.description))
    return f"| {' | '.join(map(str, cells))} |"


def _type_name(annotation: Any) -> str:
    """Return the name of a JSON type; None is left out."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is UnionType or str(origin) == "typing.Union":
        return " or ".join(_type_name(one) for one in arguments if one is not type(None))
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict and arguments[1] is Any:
        return "object"
    if origin is dict:
        return f"object of {_type_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, OpenPayload):
        return "object"
    return _TYPES[annotation]


#: Title → start of the names of its metrics; the first one that fits counts.
METRICS: dict[str, str | tuple[str, ...]] = {
    "Accounts that have their own series": "manager_account_",
    "Hosts": "manager_host",
    "The API": ("manager_api_", "manager_stream_"),
    "The fleet": "manager_",
}


def metrics_page() -> str:
    """Return docs/reference/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "This page lists every metric of `GET /metrics` with its type, labels and meaning.",
        "",
        "[Watch a fleet with Prometheus](../howto/metrics.md) explains how to scrape them.",
        "The page is in Prometheus's text format 0.0.4 and has no timestamps.",
        "A metric without a value is left out. This page is generated from the code by `.ci/reference-docs`.",
        "",
        "- The page holds the fleet as it is at the scrape.",
        "  An account or host that is gone is not on the next page.",
        "- While Redis is unreachable, `manager_redis_up` is 0.",
        "  No series of an account, a host or the fleet is on the page then.",
        "- An account whose state is `unknown` has a state and no figures.",
        "- Series of an account have the label `account`; money also has `currency`.",
        "  The current state and the current health are labels of one series each.",
        "  Everything else that changes is a label of `manager_account_info`.",
        "- Money and positions are of running accounts only: a sum falls when an account stops.",
        "",
    ]
    left = parsed(full_page())
    for title, start in METRICS.items():
        lines += [f"## {title}", "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        for name in [name for name in left if name.startswith(start)]:
            family = left.pop(name)
            labels = dict.fromkeys(label for sample in family.samples for label in sample.labels)
            shown = ", ".join(f"`{label}`" for label in labels)
            lines.append(f"| `{name}` | {family.type} | {shown} | {_cell(family.documentation)} |")
        lines.append("")
    return "\n".join(lines)


def api_page() -> str:
    """Return docs/reference/api.md."""
    lines = [
        "# HTTP API",
        "",
        "This page lists every operation of the HTTP API with its scope, and every code of a problem.",
        "",
        "[Command a fleet over HTTP](../howto/api.md) explains how to use them. The OpenAPI 3.1 document at",
        "`/api/v1/openapi.json` describes parameters, bodies and answers.",
        "This page is generated from the code by `.ci/reference-docs`.",
        "",
        "## Operations",
        "",
        "Paths begin with `/api/v1`. An operation without a scope needs any token or session, or none:",
        "`/healthz`, `/readyz` and `POST /session`. `/metrics` (scope `metrics`) and `/docs/errors`",
        "are beside `/api/v1`.",
        "",
        "| operation | scope | meaning |",
        "|---|---|---|",
    ]
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            scope = f"`{operation['x-scope']}`" if "x-scope" in operation else ""
            meaning = _cell(operation["description"].partition("\n\n")[0])
            lines.append(f"| `{method.upper()} {path.removeprefix('/api/v1')}` | {scope} | {meaning} |")
    lines += [
        "",
        "## Problems",
        "",
        "Every error is a problem by RFC 9457 with media type `application/problem+json`. Its `code` is",
        "stable between versions, `detail` says what happened and what to do, and `request_id` finds the",
        "request in the API's log.",
        "Codes of the manager's own errors are explained in [errors](errors.md).",
        "",
        "| status | code | meaning |",
        "|---|---|---|",
    ]
    for code, row in sorted(PROBLEMS.items(), key=lambda one: (one[1].status, one[0])):
        lines.append(f"| {row.status} | `{code}` | {row.title} |")
    return "\n".join([*lines, ""])


PAGES = {
    "api.md": api_page,
    "commands.md": commands_page,
    "log-events.md": log_events_page,
    "metrics.md": metrics_page,
    "payloads.md": payloads_page,
}


def write_unit() -> None:
    """Write the systemd unit into docs/howto/service.md."""
    page = ROOT / "docs" / "howto" / "service.md"
    text = unit_text(
        UnitPlan(
            name="worker-manager",
            runs="host",
            argv=["/opt/worker-manager/.venv/bin/manager", "host"],
            environment_file=Path("/etc/worker-manager.env"),
            user="trading",
        )
    )
    block = f"```ini\n# /etc/systemd/system/worker-manager.service\n{text}```\n"
    page.write_text(re.sub(r"(?s)```ini\n# /etc/systemd.*?```\n", lambda _: block, page.read_text()))


def write_checks() -> None:
    """Write the codes of `manager doctor` into docs/reference/doctor.md."""
    page = REFERENCE / "doctor.md"
    table = "".join(f"| `{code}` | {meaning} |\n" for code, meaning in CODES.items())
    page.write_text(re.sub(r"(?m)(?:^\| `\w+` \| .* \|\n)+", lambda _: table, page.read_text(), count=1))


def openapi_text() -> str:
    """Return manager/api/openapi.json, which the wheel contains."""
    return json.dumps(document(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every generated page and part."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
    write_unit()
    write_checks()
    OPENAPI.write_text(openapi_text())


if __name__ == "__main__":
    main()
