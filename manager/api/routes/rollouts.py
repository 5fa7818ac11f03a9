"""Rollouts, and approvals of changed files."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import NAMESPACE_OID, uuid5

from fastapi import APIRouter, Header, Path, Request
from pydantic import Field
from starlette.responses import Response

from manager.api.access import Configurer, Operator, Reader, by, may_read, require_inside, require_whole
from manager.api.auth import Principal
from manager.api.bodies import SelectBody, Strict, whole
from manager.api.commands import KEY_PATTERN, idempotency_key
from manager.api.gate import PREFIX
from manager.api.models_config import Approval, HoldList, RolloutDetail, RolloutList, RolloutReport
from manager.api.parts import ApiParts, Parts
from manager.api.rendering import answer, utc
from manager.api.routes.batches import select_accounts
from manager.change.rollout_planning import RolloutRecord
from manager.change.rollouts import Rollout, RolloutOptions
from manager.client.rollouts import FleetRollouts
from manager.errors import NoRolloutError

router = APIRouter(tags=["rollouts"])

Id = Annotated[str, Path(min_length=1, max_length=255)]
RolloutId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$")]
Count = Annotated[int, Field(ge=1, le=1_000_000), whole]
CountOrNone = Annotated[int, Field(ge=0, le=1_000_000), whole]
Seconds = Annotated[float, Field(ge=0, le=30 * 86_400)]
#: Rollouts that a list has.
_LISTED: Final = 100


class RolloutBody(Strict):
    """A rollout over the selected accounts. Accounts that do not run are skipped."""

    select: SelectBody
    to: Annotated[
        Literal["config", "software", "both"],
        Field(description="Changed files, the hosts' software, or both."),
    ] = "both"
    max_unavailable: Annotated[
        str,
        Field(
            pattern=r"^([1-9][0-9]{0,5}|[1-9][0-9]?%|100%)$", description="A number, or a part such as `5%`."
        ),
    ] = "5%"
    canary: CountOrNone = 1
    bake_seconds: Seconds = 300.0
    promote: Annotated[Literal["auto", "manual"], Field(description="What ends the canary phase.")] = "auto"
    min_healthy_seconds: Seconds = 60.0
    healthy_deadline_seconds: Seconds = 300.0
    max_failures: CountOrNone = 1
    on_failure: Literal["pause", "cancel"] = "pause"
    when_flat: bool = True
    flat_deadline_seconds: Annotated[
        Seconds | None, Field(description="The longest wait for closed positions; null: for ever.")
    ] = None
    on_deadline: Literal["skip", "force"] = "skip"
    per_host: Count = 1
    window: Annotated[
        str,
        Field(max_length=100, description="When restarts may begin: `sat 00:00-12:00 UTC`; empty: always."),
    ] = ""
    force: Annotated[bool, Field(description="Also if another active rollout has an account.")] = False
    dry_run: Annotated[bool, Field(description="Return what it would do; write nothing.")] = False

    def options(self) -> RolloutOptions:
        """Return the options of the rollout."""
        return RolloutOptions(
            canary=self.canary,
            bake=self.bake_seconds,
            promote_manually=self.promote == "manual",
            min_healthy=self.min_healthy_seconds,
            healthy_deadline=self.healthy_deadline_seconds,
            max_failures=self.max_failures,
            on_failure=self.on_failure,
            when_flat=self.when_flat,
            flat_deadline=self.flat_deadline_seconds,
            on_deadline=self.on_deadline,
            per_host=self.per_host,
        )


class ApproveBody(Strict):
    """The version of the file that was looked at; null: the present one."""

    to: Annotated[str | None, Field(max_length=64)] = None


@router.get("/rollouts", response_model=RolloutList)
async def list_rollouts(parts: Parts, principal: Reader) -> Response:
    """Return the newest rollouts, newest first."""
    require_whole(principal)
    found = await parts.on_thread(parts.require_rollouts().list, _LISTED)
    return answer({"items": [_head(one) for one in found]})


@router.get("/rollouts/{rollout_id}", response_model=RolloutDetail)
async def show_rollout(parts: Parts, principal: Reader, rollout_id: RolloutId) -> Response:
    """Return a rollout and its accounts."""
    require_whole(principal)
    return answer(_detail(await parts.on_thread(parts.require_rollouts().get, rollout_id)))


@router.post(
    "/rollouts", status_code=201, response_model=RolloutDetail, responses={200: {"model": RolloutDetail}}
)
async def start_rollout(
    request: Request,
    parts: Parts,
    principal: Configurer,
    body: RolloutBody,
    _key: Annotated[
        str | None, Header(alias="Idempotency-Key", pattern=KEY_PATTERN, description="Starts one rollout.")
    ] = None,
) -> Response:
    """Start a rollout; with `dry_run`, return what it would do.

    Status 200: a dry run, or the rollout that this Idempotency-Key has started.
    """
    rollouts, key = parts.require_rollouts(), idempotency_key(request)
    rollout_id = None if key is None else uuid5(NAMESPACE_OID, f"{principal.key}:{key}").hex[:12]
    known = None if rollout_id is None else await _known(parts, rollouts, rollout_id)
    if known is not None:
        return answer(_detail(known))
    state = await parts.state()
    chosen = select_accounts(state, body.select)
    require_inside(principal, state, chosen)

    def start() -> RolloutRecord:
        selected = parts.service.select()
        record = rollouts.plan(
            {key: selected.get(key) for key in chosen},
            body.to,
            body.options(),
            max_unavailable=body.max_unavailable,
            window=body.window,
            rollout_id=rollout_id,
        )
        return record if body.dry_run else rollouts.start(record, force=body.force)

    record = await parts.on_behalf(by(request), start)
    headers = {"Location": f"{PREFIX}/rollouts/{record.rollout.id}"}
    return answer(_detail(record), 200, {}) if body.dry_run else answer(_detail(record), 201, headers)


@router.post("/rollouts/{rollout_id}/pause", response_model=RolloutReport)
async def pause_rollout(
    request: Request, parts: Parts, principal: Operator, rollout_id: RolloutId
) -> Response:
    """Begin no further restart; those under way settle."""
    return await _steer(request, parts, principal, rollout_id, "pause")


@router.post("/rollouts/{rollout_id}/resume", response_model=RolloutReport)
async def resume_rollout(
    request: Request, parts: Parts, principal: Operator, rollout_id: RolloutId
) -> Response:
    """Let a paused rollout go on, whatever has failed so far."""
    return await _steer(request, parts, principal, rollout_id, "resume")


@router.post("/rollouts/{rollout_id}/promote", response_model=RolloutReport)
async def promote_rollout(
    request: Request, parts: Parts, principal: Configurer, rollout_id: RolloutId
) -> Response:
    """End the canary phase: the other accounts may begin."""
    return await _steer(request, parts, principal, rollout_id, "promote")


@router.post("/rollouts/{rollout_id}/cancel", response_model=RolloutReport)
async def cancel_rollout(
    request: Request, parts: Parts, principal: Configurer, rollout_id: RolloutId
) -> Response:
    """End a rollout; restarts under way finish."""
    return await _steer(request, parts, principal, rollout_id, "cancel")


@router.get("/holds", response_model=HoldList)
async def holds(parts: Parts, principal: Reader) -> Response:
    """Return the changes of account files that wait for approval."""
    state = await parts.state()
    found: list[dict[str, Any]] = []
    for account_id, row in sorted(state.accounts.items()):
        config = (None if row.worker is None else row.worker.placement.config) or {}
        if config.get("state") == "held" and may_read(principal, state, account_id):
            found.append(
                {
                    "account_id": account_id,
                    "version": config.get("file"),
                    "text": config.get("text"),
                    "changes": config.get("changes") or [],
                }
            )
    return answer({"items": found})


@router.post("/accounts/{account_id}/config/approve", response_model=Approval)
async def approve(
    request: Request, parts: Parts, principal: Configurer, account_id: Id, body: ApproveBody | None = None
) -> Response:
    """Approve the changes that the account holds; its host applies them within a few seconds."""
    require_inside(principal, await parts.state(), [account_id])
    approvals = parts.require_approvals()
    version = await parts.on_behalf(
        by(request), approvals.approve, account_id, None if body is None else body.to
    )
    return answer({"account_id": account_id, "version": version})


async def _known(parts: ApiParts, rollouts: FleetRollouts, rollout_id: str) -> RolloutRecord | None:
    try:
        return await parts.on_thread(rollouts.get, rollout_id)
    except NoRolloutError:
        return None


async def _steer(
    request: Request, parts: ApiParts, principal: Principal, rollout_id: str, what: str
) -> Response:
    rollouts = parts.require_rollouts()
    record = await parts.on_thread(rollouts.get, rollout_id)
    require_inside(principal, await parts.state(), record.members)
    found = await parts.on_behalf(by(request), getattr(rollouts, what), rollout_id)
    return answer(_head(found))


def _head(one: Rollout) -> dict[str, Any]:
    return {
        "id": one.id,
        "to": one.aim,
        "state": str(one.state),
        "why": one.why,
        "by": one.by,
        "started": _time(one.started),
        "promoted": one.promoted,
        "window": one.window,
        "options": asdict(one.options),
    }


def _detail(record: RolloutRecord) -> dict[str, Any]:
    members: list[Mapping[str, Any]] = [
        {
            "account_id": key,
            "state": str(one.state),
            "since": _time(one.since),
            "canary": one.canary,
            "why": one.why,
        }
        for key, one in sorted(record.members.items(), key=lambda item: (item[1].order, item[0]))
    ]
    return {**_head(record.rollout), "members": members}


def _time(seconds: float) -> str | None:
    return utc(datetime.fromtimestamp(seconds, UTC))
