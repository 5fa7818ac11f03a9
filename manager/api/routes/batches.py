"""The route that creates batches."""

import asyncio
import time
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from manager.api.access import BulkOperator, by, require_inside
from manager.api.auth import Principal
from manager.api.bodies import BatchBody, SelectBody
from manager.api.commands import KEY_PATTERN, fingerprint, idempotency_key, mismatch, preferred_wait
from manager.api.gate import PREFIX
from manager.api.models import BatchDetail
from manager.api.parts import ApiParts, Parts
from manager.api.problems import ProblemError
from manager.api.rendering import answer
from manager.api.routes.commands import Prefer
from manager.api.routes.records import batch_detail
from manager.client.batch_checks import VALIDATE
from manager.client.caller import Request as Behalf
from manager.client.caller import on_behalf_of
from manager.errors import ManagerError, NoBatchError
from manager.fleet.api_commands import CommandHead
from manager.models import ValidationResult
from manager.pool.arguments import check_account_id
from manager.pool.commands import COMMANDS
from manager.telemetry.fleet_reader import FleetListing

router = APIRouter(tags=["commands"])

#: Seconds between two reads of a batch while a request waits for it.
_POLL_SECONDS: Final = 0.25
#: Unknown accounts that an error names.
_NAMED: Final = 20


async def _required_key(
    request: Request,
    _header: Annotated[
        str | None, Header(alias="Idempotency-Key", pattern=KEY_PATTERN, description="The id of the batch.")
    ] = None,
) -> str:
    """Return the key.

    Checked before the rate limit, so that requests without a key are not counted.
    """
    return idempotency_key(request, required=True) or ""


@router.post("/batches", status_code=202, response_model=BatchDetail, responses={200: {"model": BatchDetail}})
async def create_batch(
    request: Request,
    parts: Parts,
    key: Annotated[str, Depends(_required_key)],
    principal: BulkOperator,
    body: BatchBody,
    prefer: Prefer = None,
) -> Response:
    """Send one command to the selected accounts.

    `expect` must be their number; otherwise nothing is done.
    """
    del prefer
    if body.expect is None:
        raise ProblemError("confirmation_required", "give the number of selected accounts as `expect`")
    wait = preferred_wait(request)
    async with parts.commands.lock(key):
        known = await run_in_threadpool(parts.commands.records.read, key)
        if known is not None and known.head.fingerprint != fingerprint(request, body):
            raise mismatch(key)
        chosen = await _accounts(parts, principal, body, key)
        if (known is None or not known.done) and not parts.commands.runs(key):
            await _send(request, parts, body, key, chosen)
    return await _answer(request, parts, key, wait)


async def _send(request: Request, parts: ApiParts, body: BatchBody, key: str, chosen: list[str]) -> None:
    """Send the batch. Idempotent, also if a process died while sending it."""
    head = CommandHead(
        fingerprint=fingerprint(request, body), what=f"{body.do} of {len(chosen)} accounts", by=by(request)
    )
    _, record = await run_in_threadpool(parts.commands.records.claim, key, head)
    if record.head.fingerprint != head.fingerprint:
        raise mismatch(key)
    with on_behalf_of(Behalf(by=record.head.by, token=key)):
        if body.do == VALIDATE:
            await parts.on_thread(parts.checks.begin, key, chosen)
            parts.commands.in_background(key, _validate(parts, key, chosen))
            return  # the record stays open until the outcomes are stored
        await parts.aio.run_many(
            COMMANDS[body.do],
            chosen,
            apply_defaults=body.apply_defaults,
            validate=body.validate_first,
            timeout=body.timeout_seconds,
            batch_id=key,
            wait=False,
        )
    await run_in_threadpool(parts.commands.records.finish, key, {"result": {"batch": key}})


async def _validate(parts: ApiParts, key: str, chosen: list[str]) -> None:
    """Validate the accounts of a batch on the hosts that would run them, and record the outcomes."""
    rows = (await parts.state()).accounts
    texts = {one: f"{one} has no account file here" for one in chosen if not (one in rows and rows[one].file)}
    found: dict[str, ValidationResult] = {}
    filed = [one for one in chosen if one not in texts]
    try:
        answers = await parts.aio.validate_on_hosts(filed) if filed else {}
        found = {one: result for one, (_, result) in answers.items()}
    except ManagerError as error:
        texts |= {one: str(error) for one in filed}
    found |= {
        one: ValidationResult(valid=False, account_id=one, errors=(text,)) for one, text in texts.items()
    }
    await run_in_threadpool(parts.checks.settle, key, found)
    await run_in_threadpool(parts.commands.records.finish, key, {"result": {"batch": key}})


async def _accounts(parts: ApiParts, principal: Principal, body: BatchBody, key: str) -> list[str]:
    """Return the accounts of a batch.

    A batch that was begun keeps the accounts of its record; a new one gets those that are selected now.
    """
    state = await parts.state()
    try:
        begun, _ = await run_in_threadpool(parts.batches.batch_result, key)
    except NoBatchError:
        chosen = select_accounts(state, body.select)
        _require_number(len(chosen), body.expect or 0)
    else:
        chosen = sorted({*begun.tasks, *begun.settled})
    require_inside(principal, state, chosen)
    return chosen


async def _answer(request: Request, parts: ApiParts, batch_id: str, wait: float | None) -> Response:
    """Return the batch; waits up to `wait` seconds for pending accounts, while the client is there."""
    deadline = time.monotonic() + (wait or 0.0)
    while True:
        record, result = await run_in_threadpool(parts.batches.batch_result, batch_id)
        left = deadline - time.monotonic()
        if not result.pending or left <= 0 or await request.is_disconnected():
            break
        await asyncio.sleep(min(_POLL_SECONDS, left))
    headers = {"Location": f"{PREFIX}/batches/{batch_id}"}
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait:g}"
    status = 200 if wait is not None and not result.pending else 202
    return answer(batch_detail(record, result), status, headers)


def select_accounts(state: FleetListing, select: SelectBody) -> list[str]:
    """Return the ids of the selected accounts.

    Raises ProblemError if the selection is ambiguous or names unknown accounts.
    """
    ways = [select.accounts is not None, bool(select.groups or select.labels), select.all]
    if sum(ways) != 1:
        raise ProblemError(
            "invalid_request",
            "select accounts by `accounts`, or by `groups` and `labels`, or give `all: true`",
            errors=[{"where": ["body", "select"], "message": "give exactly one way to select"}],
        )
    if select.accounts is not None:
        ids = [check_account_id(one) for one in dict.fromkeys(select.accounts)]
        unknown = [one for one in ids if one not in state.accounts]
        if unknown:
            raise ProblemError(
                "account_not_found", f"no account {', '.join(unknown[:_NAMED])}; nothing was done"
            )
        rows = [state.accounts[one] for one in ids]
    else:
        selection = select.selection
        rows = [row for row in state.accounts.values() if row.within(selection)]
    return [row.account_id for row in rows if select.state is None or row.status == select.state]


def _require_number(selected: int, expected: int) -> None:
    if selected != expected:
        raise ProblemError(
            "confirmation_wrong",
            f"{selected} accounts are selected but `expect` is {expected}; nothing was done",
            more={"selected": selected},
        )
