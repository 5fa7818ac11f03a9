"""Schedules of accounts: their windows, what they do now, and overrides."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from manager.api.access import Operator, Reader, by, readable, require_inside
from manager.api.models_config import AccountScheduleReport, OverrideReport
from manager.api.parts import Parts
from manager.api.rendering import answer, utc
from manager.client.schedules import AccountSchedule
from manager.market.decisions import Override
from manager.market.listing import ListedWindow, list_windows
from manager.market.schedules import HORIZON

router = APIRouter(tags=["schedules"])

Id = Annotated[str, Path(min_length=1, max_length=255)]

#: The span of windows that an answer has by default.
_DEFAULT_SPAN: Final = timedelta(days=14)
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(2199, 1, 1, tzinfo=UTC)


_RFC3339: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}.*")


def _written(value: object) -> object:
    """Refuse numbers, which pydantic takes for seconds since 1970."""
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise ValueError("is not a time in RFC 3339, such as 2026-12-24T18:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]


class WindowsQuery(BaseModel):
    """The span of the windows in the answer."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[
        Moment | None,
        Field(alias="from", description="Default: now. Windows are computed from 1970 to 2199."),
    ] = None
    to: Annotated[
        Moment | None,
        Field(description="Default: 14 days after `from`. One that is later than 400 days after it is cut."),
    ] = None


class OverrideBody(BaseModel):
    """An override of an account's schedule."""

    model_config = ConfigDict(extra="forbid")

    do: Literal["run", "rest"]
    until: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Field(
            description="`next` (the schedule's next change), a duration (`90m`), a time of day (`17:30`) or "
            "a date and a time (`2026-12-24T18:00`); times without an offset are on the schedule's clock."
        ),
    ] = "next"
    reason: Annotated[str, StringConstraints(max_length=500)] = ""


@router.get("/accounts/{account_id}/schedule", response_model=AccountScheduleReport)
async def account_schedule(
    parts: Parts, principal: Reader, account_id: Id, query: Annotated[WindowsQuery, Query()]
) -> Response:
    """Return what the account does now by its schedule, and its windows.

    The account files are those that this server reads.
    """
    readable(principal, await parts.state(), account_id)
    start, end = _span(query)

    def look() -> dict[str, Any]:
        found = parts.require_schedules().get(account_id)
        empty = found.timetable is None or start >= end
        windows = () if found.timetable is None or empty else list_windows(found.timetable, start, end)
        return {**schedule_report(found), "windows": [_window(one) for one in windows]}

    return answer(await parts.on_thread(look))


def _span(query: WindowsQuery) -> tuple[datetime, datetime]:
    """Return the span of windows; it is empty where `to` is not after `from`."""
    start = min(max(query.since or datetime.now(UTC), _FIRST), _LAST)
    end = min(query.to or start + _DEFAULT_SPAN, start + HORIZON)
    return start, end


@router.put("/accounts/{account_id}/override", response_model=OverrideReport)
async def override_schedule(
    request: Request, parts: Parts, principal: Operator, account_id: Id, body: OverrideBody
) -> Response:
    """Override the account's schedule until a time; replaces an earlier override.

    Its host follows within two seconds. Desired state does not change.
    """
    require_inside(principal, await parts.state(), [account_id])
    schedules = parts.require_schedules()
    found = await parts.on_behalf(
        by(request),
        lambda: schedules.override(account_id, body.do, until=body.until, reason=body.reason),
    )
    return answer(override_report(found))


@router.delete("/accounts/{account_id}/override", status_code=204)
async def clear_override(request: Request, parts: Parts, principal: Operator, account_id: Id) -> Response:
    """End the account's override: its schedule is in force again."""
    require_inside(principal, await parts.state(), [account_id])
    schedules = parts.require_schedules()
    await parts.on_behalf(by(request), lambda: schedules.clear(account_id))
    return Response(status_code=204)


def schedule_report(found: AccountSchedule) -> dict[str, Any]:
    """Return an account's schedule without its windows."""
    decision, timetable = found.decision, found.timetable
    return {
        "account_id": found.account_id,
        "schedule": None if timetable is None else timetable.schedule.name or "its own",
        "action": str(decision.action),
        "until": utc(decision.until),
        "since": utc(decision.since),
        "text": decision.text,
        "override": override_report(found.override),
    }


def override_report(found: Override | None) -> dict[str, Any] | None:
    """Return an override; None if there is none."""
    if found is None:
        return None
    return {
        "do": str(found.kind),
        "at": utc(found.at),
        "until": utc(found.until),
        "by": found.by,
        "reason": found.reason,
    }


def _window(one: ListedWindow) -> dict[str, Any]:
    return {
        "opens": utc(one.window.opens),
        "closes": utc(one.window.closes),
        "opens_wall": one.opens_wall.isoformat(),
        "closes_wall": one.closes_wall.isoformat(),
        "marks": list(one.marks),
    }
