"""Routes for records: audit trail, batches, configuration versions.

Also runs the checks of `manager doctor`.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from manager.api.access import Configurer, Reader, by, may_read, readable, require_unlimited, require_whole
from manager.api.bodies import RollbackBody
from manager.api.models import AuditPage, BatchDetail, BatchPage, DoctorReport, RunPage
from manager.api.models_config import (
    ConfigDifference,
    ConfigVersionDetail,
    ConfigVersionPage,
    ConfigVersionSummary,
)
from manager.api.pages import PageQuery, Text, page
from manager.api.parts import ApiParts, Parts
from manager.api.problems import ProblemError
from manager.api.rendering import answer, to_json, utc
from manager.change.config_push import difference
from manager.fleet.audit import AuditEntry
from manager.fleet.batches import BatchRecord
from manager.fleet.config_versions import ConfigVersion
from manager.fleet.run_types import Run
from manager.models import BatchResult
from manager.system.text import printable

router = APIRouter(tags=["records"])

#: Audit entries of the first read. Each further read doubles the number, until the page is full.
_FIRST_READ: Final = 2_000
_MOST: Final = 200_000
#: Maximum number of listed batches.
_BATCHES: Final = 1000
_OUTCOMES: Final = ("done", "already", "resting", "skipped", "failed", "pending")
_COLUMNS: Final = (
    *("id", "time", "stage", "what", "account_id", "by", "host", "command", "outcome", "text"),
    "recorded_by",
)
VERSION_PATTERN: Final = r'^"[1-9][0-9]{0,8}"$'
Version = Annotated[int, Path(ge=1, le=10**9)]


class AuditQuery(PageQuery):
    """Query parameters that select audit entries."""

    account: Text | None = None
    what: Text | None = None
    by: Annotated[Text | None, Field(description="Part of the sender's name.")] = None
    outcome: Text | None = None
    command: Text | None = None

    def takes(self, entry: AuditEntry) -> bool:
        return (
            (self.account is None or entry.account_id == self.account)
            and (self.what is None or entry.what == self.what)
            and (self.by is None or self.by in entry.by)
            and (self.outcome is None or entry.outcome == self.outcome)
            and (self.command is None or entry.command == self.command)
        )


class ExportQuery(AuditQuery):
    """Query parameters of an export of the audit trail."""

    form: Literal["jsonl", "csv"] = "jsonl"


@router.get("/audit", response_model=AuditPage)
async def audit(parts: Parts, principal: Reader, query: Annotated[AuditQuery, Query()]) -> Response:
    """List the entries of the audit trail, newest first."""
    require_whole(principal)
    found, following = await run_in_threadpool(_audit_page, parts, query)
    return answer({"items": [_entry(one) for one in found], "next": following})


@router.get(
    "/audit/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {}, "text/csv": {}}}},
)
async def export(
    parts: Parts, principal: Reader, query: Annotated[ExportQuery, Query()]
) -> StreamingResponse:
    """Stream the whole audit trail, oldest first."""
    require_whole(principal)
    entries = (entry for entry in parts.audit.everything() if query.takes(entry))
    if query.form == "csv":
        return StreamingResponse(_csv(entries), media_type="text/csv")
    return StreamingResponse(
        (to_json(_entry(one)) + b"\n" for one in entries), media_type="application/jsonl"
    )


@router.get("/accounts/{account_id}/runs", response_model=RunPage)
async def runs(
    parts: Parts,
    principal: Reader,
    account_id: Annotated[str, Path(min_length=1, max_length=255)],
    query: Annotated[PageQuery, Query()],
) -> Response:
    """List the account's runs that have ended, newest first.

    Each host keeps about its newest 2,000 runs.
    """
    readable(principal, await parts.state(), account_id)
    kept = await run_in_threadpool(parts.service.runs, account_id, None)
    ordered = sorted(kept, key=_run_key, reverse=True)
    found = page(ordered, _run_key, query, descending=True, order="runs")
    items = [one.to_dict() for one in found.items]
    return answer({"items": items, "next": found.next, "total": found.total})


@router.get("/batches", response_model=BatchPage)
async def batches(parts: Parts, principal: Reader, query: Annotated[PageQuery, Query()]) -> Response:
    """List the batches of the last day, newest first."""
    require_whole(principal)

    def read() -> dict[str, Any]:
        records = sorted(parts.batches.batches(_BATCHES), key=_batch_key, reverse=True)
        found = page(records, _batch_key, query, descending=True, order="batches")
        items = [batch_summary(*parts.batches.batch_result(one.id)) for one in found.items]
        return {"items": items, "next": found.next, "total": found.total}

    return answer(await run_in_threadpool(read))


@router.get("/batches/{batch_id}", response_model=BatchDetail)
async def batch(
    parts: Parts, principal: Reader, batch_id: Annotated[str, Path(min_length=1, max_length=128)]
) -> Response:
    """Return a batch with the current outcome of each account."""
    detail = batch_detail(*await run_in_threadpool(parts.batches.batch_result, batch_id))
    if principal.readable:
        state = await parts.state()
        accounts = {key: one for key, one in detail["accounts"].items() if may_read(principal, state, key)}
        outcomes = [one["outcome"] for one in accounts.values()]
        detail |= {"accounts": accounts, "counts": {name: outcomes.count(name) for name in _OUTCOMES}}
    return answer(detail)


@router.get("/config/versions", response_model=ConfigVersionPage)
async def config_versions(parts: Parts, principal: Reader) -> Response:
    """List the stored versions of the account files, newest first."""
    require_whole(principal)

    def read() -> dict[str, Any]:
        current = parts.versions.current()
        items = [{**one.to_dict(), "time": utc(one.time)} for one in parts.versions.history()]
        return {"items": items, "current": None if current is None else current[0]}

    return answer(await run_in_threadpool(read))


@router.get("/config/versions/{version}", response_model=ConfigVersionDetail)
async def config_version(parts: Parts, principal: Reader, version: Version) -> Response:
    """Return one version of the account files, with their content.

    The files refer to credentials but contain none.
    """
    require_whole(principal)
    return answer(_version(await run_in_threadpool(parts.versions.read, version)))


class DifferenceQuery(BaseModel):
    """Query parameters that name two versions."""

    model_config = ConfigDict(extra="forbid")

    from_version: Annotated[int, Field(ge=1, le=10**9, alias="from")]
    to_version: Annotated[int, Field(ge=1, le=10**9, alias="to")]


@router.get("/config/diff", response_model=ConfigDifference)
async def config_difference(
    parts: Parts, principal: Reader, query: Annotated[DifferenceQuery, Query()]
) -> Response:
    """Return the difference of two versions as lines of a unified diff."""
    require_whole(principal)

    def read() -> list[str]:
        before, now = parts.versions.read(query.from_version), parts.versions.read(query.to_version)
        return difference(before.files, now.files)

    lines = await run_in_threadpool(read)
    return answer({"from_version": query.from_version, "to_version": query.to_version, "lines": lines})


async def _expected_version(
    if_match: Annotated[
        str | None, Header(alias="If-Match", pattern=VERSION_PATTERN, description='`"<current version>"`')
    ] = None,
) -> int:
    """Return the version in the If-Match header."""
    if if_match is None:
        raise ProblemError("precondition_required", 'give the current version as If-Match: "<version>"')
    return int(if_match.strip('"'))


@router.post("/config/rollback", response_model=ConfigVersionSummary)
async def config_rollback(
    request: Request,
    parts: Parts,
    expected: Annotated[int, Depends(_expected_version)],
    principal: Configurer,
    body: RollbackBody,
) -> Response:
    """Push an old version of the account files again, as a new version."""
    require_unlimited(principal)
    who = by(request)

    def roll_back() -> ConfigVersion:
        with parts.audit.refusals("config rollback", by=who):
            old = parts.versions.read(body.version)
            message = f"rolled back to version {body.version}"
            new = parts.versions.push(old.files, replaces=expected, by=who, message=message)
        parts.audit.note("config rollback", by=who, text=f"version {new}: as version {body.version}")
        return parts.versions.read(new)

    version = await run_in_threadpool(roll_back)
    return answer({**version.to_dict(), "time": utc(version.time)}, headers={"ETag": f'"{version.version}"'})


@router.get("/doctor", response_model=DoctorReport)
async def doctor(parts: Parts, principal: Reader) -> Response:
    """Run the checks of `manager doctor`. May take several seconds.

    Requests that come meanwhile get the findings of the same run.
    """
    require_whole(principal)
    checks = await parts.shared_checks.run(parts.doctor)
    return answer(
        {"ok": all(one.outcome != "failure" for one in checks), "checks": [one.to_dict() for one in checks]}
    )


def batch_summary(record: BatchRecord, result: BatchResult) -> dict[str, Any]:
    """Return a batch with its counts."""
    return {
        "id": record.id,
        "do": record.what,
        "by": record.by,
        "at": utc(record.time),
        "counts": {name: len(getattr(result, name)) for name in _OUTCOMES},
    }


def batch_detail(record: BatchRecord, result: BatchResult) -> dict[str, Any]:
    """Return a batch with the outcome of each account."""
    accounts: dict[str, dict[str, Any]] = {}
    for outcome, workers in (
        ("done", result.done),
        ("already", result.already),
        ("resting", result.resting),
    ):
        for account_id, info in workers.items():
            worker = info.to_dict() if info.worker_id else None  # a validated account needs no worker
            accounts[account_id] = {"outcome": outcome, "text": info.rest_text or None, "worker": worker}
    for outcome, texts in (("skipped", result.skipped), ("failed", result.failed)):
        for account_id, text in texts.items():
            accounts[account_id] = {"outcome": outcome, "text": text, "worker": None}
    for account_id in result.pending:
        accounts[account_id] = {"outcome": "pending", "text": None, "worker": None}
    return {
        **batch_summary(record, result),
        "trouble": result.trouble,
        "accounts": {account_id: accounts[account_id] for account_id in sorted(accounts)},
    }


def _audit_page(parts: ApiParts, query: AuditQuery) -> tuple[list[AuditEntry], str | None]:
    """Read the audit trail from its end until the page is full."""
    count = _FIRST_READ
    while True:
        entries = parts.audit.last(count)
        chosen = sorted((one for one in entries if query.takes(one)), key=_audit_key, reverse=True)
        found = page(chosen, _audit_key, query, descending=True, order="audit")
        if len(entries) < count or count >= _MOST or (len(found.items) == query.limit and found.next):
            return list(found.items), found.next
        count *= 2


def _audit_key(entry: AuditEntry) -> tuple[float, str]:
    return (entry.time.timestamp(), entry.id)


def _run_key(run: Run) -> tuple[float, str]:
    return (run.ended_at.timestamp(), run.worker_id)


def _batch_key(record: BatchRecord) -> tuple[float, str]:
    return (record.time.timestamp(), record.id)


def _entry(entry: AuditEntry) -> dict[str, Any]:
    return {**entry.to_dict(), "time": utc(entry.time)}


def _version(version: ConfigVersion) -> dict[str, Any]:
    return {**version.to_dict(), "time": utc(version.time), "files": dict(version.files)}


def _csv(entries: Iterable[AuditEntry]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS)
    writer.writeheader()
    for entry in entries:
        # Spreadsheets run a cell that begins like a formula, and the sender's name is text from outside.
        row = {key: printable(str(value)) for key, value in _entry(entry).items()}
        writer.writerow(
            {key: f"'{text}" if text[:1] in tuple("=+-@\t\r") else text for key, text in row.items()}
        )
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()
