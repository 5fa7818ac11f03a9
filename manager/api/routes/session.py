"""Routes for browser sessions and tokens."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from manager.api.access import Admin, Authenticated, by
from manager.api.auth import COOKIE, Principal
from manager.api.bodies import LoginBody, TokenBody
from manager.api.models import NewToken, TokenPage, Who
from manager.api.parts import ApiParts, Parts
from manager.api.problems import ProblemError
from manager.api.rendering import answer, utc
from manager.fleet.api_sessions import LIFE_SECONDS
from manager.fleet.tokens import Token
from manager.placement.labels import Selection

router = APIRouter(tags=["session"])


@router.post("/session", response_model=Who)
async def log_in(request: Request, parts: Parts, body: LoginBody) -> Response:
    """Open a browser session with a one-time code or a token.

    Sets the cookie `wm_session`.
    """
    address = request.state.address
    if (body.code is None) == (body.token is None):
        raise ProblemError("invalid_request", "give either `code` or `token`")
    parts.limiter.check("login", address)
    try:
        secret, principal = await run_in_threadpool(_open, parts, body)
    except ProblemError:
        parts.limiter.take("login", address)
        raise
    response = answer(_who(principal))
    response.set_cookie(
        COOKIE,
        secret,
        max_age=LIFE_SECONDS,
        path="/",
        secure=parts.secure_cookies,
        httponly=True,
        samesite="strict",
    )
    return response


@router.get("/session", response_model=Who)
async def who_am_i(principal: Authenticated) -> Response:
    """Return the name, the scopes and the selection of the token or session."""
    return answer(_who(principal))


@router.delete("/session", status_code=204, response_class=Response)
async def log_out(request: Request, parts: Parts, principal: Authenticated) -> Response:
    """End the session of the cookie. A token stays valid; revoke it instead."""
    del principal
    secret = request.cookies.get(COOKIE, "")
    if secret:
        await run_in_threadpool(parts.authenticator.sessions.end, secret)
        parts.authenticator.forget(secret)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/", secure=parts.secure_cookies, httponly=True, samesite="strict")
    return response


@router.get("/tokens", response_model=TokenPage)
async def tokens(parts: Parts, principal: Admin) -> Response:
    """List all tokens, without their secrets."""
    del principal
    found = await run_in_threadpool(parts.authenticator.tokens.list)
    return answer({"items": [_token(one) for one in found]})


@router.post("/tokens", status_code=201, response_model=NewToken)
async def create_token(request: Request, parts: Parts, principal: Admin, body: TokenBody) -> Response:
    """Create a token. Its text is in this answer and cannot be shown again."""
    del principal
    who = by(request)

    def create() -> tuple[Token, str]:
        made = parts.authenticator.tokens.create(
            body.name,
            body.scopes,
            by=who,
            selection=Selection(tuple(body.groups), tuple(body.labels)),
            read_selection=body.read_selection,
            logs=body.logs,
            expires_seconds=body.expires_seconds,
        )
        parts.audit.note(
            "token create", by=who, text=f"token {made[0].id} ({body.name}): {', '.join(body.scopes)}"
        )
        return made

    token, text = await run_in_threadpool(create)
    return answer({**_token(token), "token": text}, 201, {"Location": f"/api/v1/tokens/{token.id}"})


@router.delete("/tokens/{token_id}", status_code=204, response_class=Response)
async def revoke_token(request: Request, parts: Parts, principal: Admin, token_id: str) -> Response:
    """Revoke a token. Another API process refuses it within a second."""
    del principal
    who = by(request)

    def revoke() -> bool:
        done = parts.authenticator.tokens.revoke(token_id)
        if done:
            parts.audit.note("token revoke", by=who, text=f"token {token_id}")
        return done

    if not await run_in_threadpool(revoke):
        raise ProblemError("not_found", "no token has this id")
    parts.authenticator.forget_token(token_id)
    return Response(status_code=204)


def _open(parts: ApiParts, body: LoginBody) -> tuple[str, Principal]:
    authenticator = parts.authenticator
    if body.token is not None:
        token = authenticator.by_token(body.token)
        secret, _ = authenticator.sessions.open(token.name, token.token_id)
    else:
        name = authenticator.sessions.use_code(body.code or "")
        if name is None:
            raise ProblemError(
                "unauthenticated", "the code is unknown, was used already or is older than a minute"
            )
        secret, _ = authenticator.sessions.open(name)
    return secret, authenticator.by_session(secret)


def _who(principal: Principal) -> dict[str, Any]:
    return {
        "name": principal.name,
        "kind": principal.kind,
        "scopes": sorted(principal.scopes),
        "groups": list(principal.selection.groups),
        "labels": list(principal.selection.labels),
    }


def _token(token: Token) -> dict[str, Any]:
    return {
        **token.to_dict(),
        "created": utc(token.created),
        "expires": utc(token.expires),
        "last_used": utc(token.last_used),
    }
