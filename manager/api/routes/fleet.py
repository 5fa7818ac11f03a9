"""Routes for the state of the fleet: accounts, workers, hosts."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from manager.api.access import Reader, readable
from manager.api.auth import Principal
from manager.api.models import Account, AccountPage, FleetSummary, Host, HostPage, WorkerPage
from manager.api.models_config import PlacementReport
from manager.api.pages import AccountQuery, accounts_page, next_link
from manager.api.parts import Parts
from manager.api.problems import ProblemError
from manager.api.rendering import (
    account_json,
    answer,
    decimal_of,
    host_data,
    live_answer,
    moment_of,
    not_modified,
    page_json,
    to_json,
    worker_json,
)
from manager.errors import InvalidConfigError
from manager.models import WorkerInfo
from manager.telemetry.attention import host_attention
from manager.telemetry.fleet_reader import AccountRow, FleetListing

router = APIRouter(tags=["fleet"])

#: Maximum number of cached pages of one listing; a page of 1,000 accounts has a megabyte.
_PAGES_KEPT: Final = 16
Id = Annotated[str, Path(min_length=1, max_length=255)]


@router.get("/fleet", response_model=FleetSummary)
async def fleet(request: Request, parts: Parts, principal: Reader) -> Response:
    """Return counts of accounts and hosts, and sums by currency."""
    state = await parts.state()
    same = not_modified(request, state)
    if same is not None:
        return same
    chosen = [one for one in state.accounts.values() if one.within(principal.readable)]
    summary = {
        **moment_of(state),
        "accounts": len(chosen),
        "status": Counter(one.status or "none" for one in chosen),
        "health": Counter(one.health for one in chosen),
        "want": Counter(one.want for one in chosen),
        "currencies": _currencies(chosen),
        "hosts": Counter(host.state for host in state.hosts.values()),
        "attention": Counter(_severities(state, chosen)),
    }
    return live_answer(request, state, to_json(summary))


@router.get("/accounts", response_model=AccountPage)
async def accounts(
    request: Request, parts: Parts, principal: Reader, query: Annotated[AccountQuery, Query()]
) -> Response:
    """List accounts, with or without a worker."""
    return _page(request, await parts.state(), principal, query, with_worker=False)


@router.get("/workers", response_model=WorkerPage)
async def workers(
    request: Request, parts: Parts, principal: Reader, query: Annotated[AccountQuery, Query()]
) -> Response:
    """List workers, as `manager ps --json`."""
    return _page(request, await parts.state(), principal, query, with_worker=True)


def _page(
    request: Request, state: FleetListing, principal: Principal, query: AccountQuery, *, with_worker: bool
) -> Response:
    """Return a page of workers or accounts.

    Equal pages of one listing are rendered once.
    """
    same = not_modified(request, state)
    if same is not None:
        return same
    key = f"{with_worker} {principal.readable!r} {query!r}"
    known = state.pages.get(key)
    if known is None:

        def readable(one: AccountRow) -> bool:
            return (one.worker is not None or not with_worker) and one.within(principal.readable)

        everything = not (with_worker or principal.readable)
        found = accounts_page(state, query, None if everything else readable)
        rest = {"next": found.next, "total": found.total, **moment_of(state)}
        render = worker_json if with_worker else partial(account_json, state)
        known = (page_json(map(render, found.items), rest), found.next)
        if len(state.pages) < _PAGES_KEPT:
            state.pages[key] = known
    response = live_answer(request, state, known[0])
    response.headers.update(next_link(request, known[1]))
    return response


@router.get("/accounts/{account_id}", response_model=Account)
async def account(request: Request, parts: Parts, principal: Reader, account_id: Id) -> Response:
    """Return one account."""
    state = await parts.state()
    found = readable(principal, state, account_id)
    return not_modified(request, state) or live_answer(
        request, state, _with_moment(state, account_json(state, found))
    )


@router.get("/workers/{account_id}", response_model=WorkerInfo)
async def worker(request: Request, parts: Parts, principal: Reader, account_id: Id) -> Response:
    """Return the account's worker, as `manager info --json`."""
    state = await parts.state()
    found = readable(principal, state, account_id)
    if found.worker is None:
        raise ProblemError("not_found", f"{account_id} never had a worker")
    return not_modified(request, state) or live_answer(request, state, worker_json(found))


@router.get("/accounts/{account_id}/placement", response_model=PlacementReport)
async def placement(parts: Parts, principal: Reader, account_id: Id) -> Response:
    """Return on which host the account would run if it were started now, and why; starts nothing.

    An account whose file is invalid runs on no host: `reason` names the errors.
    """
    readable(principal, await parts.state(), account_id)

    def place() -> dict[str, Any]:
        try:
            config = parts.service.config_service.load_account_config(account_id)
        except InvalidConfigError as error:
            return {"account_id": account_id, "host": None, "reason": str(error), "refused": {}, "hosts": {}}
        found, view = parts.hosts.place(config.needs())
        return {
            "account_id": account_id,
            "host": found.host,
            "reason": found.reason,
            "refused": dict(found.refused),
            "hosts": {
                name: {"taken": view.count(name), "size": view.hosts[name].size}
                for name in sorted(view.hosts)
            },
        }

    return answer(await run_in_threadpool(place))


@router.get("/hosts", response_model=HostPage)
async def hosts(request: Request, parts: Parts, principal: Reader) -> Response:
    """List the hosts, as `manager hosts --json`."""
    del principal
    state = await parts.state()
    same = not_modified(request, state)
    if same is not None:
        return same
    return live_answer(
        request,
        state,
        to_json({"items": [host_data(one) for one in state.hosts.values()], **moment_of(state)}),
    )


@router.get("/hosts/{host}", response_model=Host)
async def host(
    parts: Parts, principal: Reader, host: Annotated[str, Path(min_length=1, max_length=63)]
) -> Response:
    """Return one host."""
    del principal
    return answer(host_data(await run_in_threadpool(parts.hosts.get, host)))


def _with_moment(state: FleetListing, item: bytes) -> bytes:
    return item[:-1] + b"," + to_json(moment_of(state))[1:]


def _severities(state: FleetListing, accounts: list[AccountRow]) -> Iterator[str]:
    """Yield the severity of each attention item of accounts and hosts."""
    should_run = Counter(one.host for one in accounts if one.want == "running")
    for account in accounts:
        yield from (str(one.severity) for one in state.attention(account))
    for host in state.hosts.values():
        yield from (str(one.severity) for one in host_attention(host, should_run[host.name]))


def _currencies(accounts: list[AccountRow]) -> dict[str, dict[str, Any]]:
    """Sum the figures of running workers by currency."""
    sums: dict[str, dict[str, Any]] = {}
    for one in accounts:
        metadata = {} if one.worker is None or one.status != "running" else one.worker.metadata
        currency = metadata.get("currency")
        if not isinstance(currency, str):
            continue
        entry = sums.setdefault(
            currency, {"accounts": 0, "open_positions": 0, "balance": Decimal(0), "equity": Decimal(0)}
        )
        entry["accounts"] += 1
        positions = metadata.get("open_positions")
        entry["open_positions"] += positions if isinstance(positions, int) else 0
        for name in ("balance", "equity"):
            entry[name] += decimal_of(metadata.get(name)) or 0
    return sums
