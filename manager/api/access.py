"""Scopes, selections and rate limits of routes."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer

from manager.api.auth import COOKIE, Principal
from manager.api.parts import parts_of, principal_of
from manager.api.problems import ProblemError
from manager.telemetry.fleet_reader import AccountRow, FleetListing

#: Accounts that an error names.
_NAMED: Final = 20

_bearer: Final = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    bearerFormat="wm_<id>_<secret>",
    description="`manager token create`",
)
_cookie: Final = APIKeyCookie(
    name=COOKIE, auto_error=False, scheme_name="session", description="POST /session"
)


#: Dependency that checks a scope → the scope, for the OpenAPI document.
SCOPE_OF: Final[dict[Callable[..., Any], str]] = {}


def requires(scope: str, kind: str = "read") -> Callable[..., Coroutine[Any, Any, Principal]]:
    """Return a dependency that requires a scope and applies a rate limit.

    An empty scope is one that every principal has. `kind` names the limit; see `manager.api.limits.RATES`.
    """

    async def check(
        request: Request,
        _token: Annotated[object, Security(_bearer)],
        _session: Annotated[object, Security(_cookie)],
    ) -> Principal:
        principal = principal_of(request)
        if scope:
            principal.require(scope)
        parts_of(request).limiter.take(kind, principal.key)
        return principal

    if scope:
        SCOPE_OF[check] = scope
    return check


#: Any authenticated principal, with or without scopes.
Authenticated = Annotated[Principal, Depends(requires(""))]
Scraper = Annotated[Principal, Depends(requires("metrics"))]
Reader = Annotated[Principal, Depends(requires("read"))]
Operator = Annotated[Principal, Depends(requires("operate", "command"))]
BulkOperator = Annotated[Principal, Depends(requires("operate", "bulk"))]
Configurer = Annotated[Principal, Depends(requires("configure", "bulk"))]
Admin = Annotated[Principal, Depends(requires("admin", "command"))]


def by(request: Request) -> str:
    """Return the sender of the request as the audit trail names it."""
    return principal_of(request).by(request.state.address)


def require_inside(principal: Principal, state: FleetListing, account_ids: Iterable[str]) -> None:
    """Check that the principal may command all of these accounts.

    An account without a file and without a worker has no groups and no labels. Raises ProblemError
    `outside_selection`.
    """
    if not principal.selection:
        return
    outside = [
        account_id
        for account_id in account_ids
        if not (state.accounts.get(account_id) or AccountRow(account_id)).within(principal.selection)
    ]
    if outside:
        named = ", ".join(outside[:_NAMED]) + (
            f" and {len(outside) - _NAMED} more" if len(outside) > _NAMED else ""
        )
        raise ProblemError(
            "outside_selection",
            f"{principal.name} may command only accounts of {principal.selection}; not: {named}; nothing "
            "was done",
            more={"accounts": outside[:1000]},
        )


def require_unlimited(principal: Principal) -> None:
    """Check that the principal may command every account. Raises ProblemError `outside_selection`."""
    if principal.selection:
        raise ProblemError(
            "outside_selection",
            f"the request concerns every account, but {principal.name} may command only accounts of "
            f"{principal.selection}; nothing was done",
        )


def readable(principal: Principal, state: FleetListing, account_id: str) -> AccountRow:
    """Return an account that the principal may read.

    Raises ProblemError `account_not_found`, also if the account exists but the principal may not read it.
    """
    found = state.accounts.get(account_id)
    if found is None or not found.within(principal.readable):
        raise ProblemError(
            "account_not_found",
            f"no account {account_id}: it has no file here, no worker and nothing desired",
        )
    return found


def require_whole(principal: Principal) -> None:
    """Check that the principal may read every account.

    Raises ProblemError `outside_selection`.
    """
    if principal.readable:
        raise ProblemError(
            "outside_selection",
            f"the answer covers every account, and {principal.name} may read only {principal.selection}",
        )


def may_read(principal: Principal, state: FleetListing, account_id: str) -> bool:
    """Return whether the principal may read this account."""
    return (state.accounts.get(account_id) or AccountRow(account_id)).within(principal.readable)
