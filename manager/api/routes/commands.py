"""Routes for commands to accounts and hosts, and for their outcomes."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Header, Path, Request
from pydantic import BaseModel
from starlette.responses import Response

from manager.aio import AsyncWorkerManagerService
from manager.api.access import Admin, Operator, Reader, by, readable, require_inside
from manager.api.bodies import ConfirmBody, DrainBody, MoveBody, NoOptions, StartBody, StopBody
from manager.api.commands import KEY_PATTERN, CommandCall, command_data
from manager.api.models import Command
from manager.api.models_config import ValidationReport
from manager.api.parts import Parts
from manager.api.problems import ProblemError
from manager.api.rendering import answer
from manager.pool.arguments import check_account_id, check_host_name
from manager.pool.commands import COMMANDS, CommandSpec

router = APIRouter(tags=["commands"])

Id = Annotated[str, Path(min_length=1, max_length=255)]
HostName = Annotated[str, Path(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=KEY_PATTERN,
        description="The id of the command. A request repeated with the same key within a day acts once.",
    ),
]
Prefer = Annotated[
    str | None, Header(description="`wait=N` (seconds, at most 60): answer when the command is done.")
]

#: Bodies of commands; commands that are not listed take no options.
_BODIES: Final[dict[str, type[BaseModel]]] = {"start": StartBody, "stop": StopBody}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Command, "description": "The command is done (with `Prefer: wait`)."},
    202: {"model": Command, "description": "The command is recorded and sent."},
}


def _call(
    aio: AsyncWorkerManagerService, spec: CommandSpec, account_id: str, body: BaseModel
) -> Awaitable[Any]:
    """Call the service's method for a command of the registry.

    By default it is the method `<name>_worker`.
    """
    if isinstance(body, StartBody):
        return aio.start_worker_from_config(account_id, body.apply_defaults, body.validate_first)
    if isinstance(body, StopBody):
        return aio.stop_worker(account_id, body.timeout_seconds)
    method: Callable[[str], Awaitable[Any]] = getattr(aio, f"{spec.name.replace('-', '_')}_worker")
    return method(account_id)


def _add_route(spec: CommandSpec) -> None:
    """Add the route of a command of the registry."""
    model = _BODIES.get(spec.name, NoOptions)

    async def command(
        request: Request,
        parts: Parts,
        principal: Operator,
        account_id: Id,
        body: Any = Body(default=None),  # noqa: B008 - declares the body to FastAPI
        idempotency_key: Key = None,
        prefer: Prefer = None,
    ) -> Response:
        del idempotency_key, prefer  # declared for the OpenAPI document; the runner reads the headers
        check_account_id(account_id)
        require_inside(principal, await parts.state(), [account_id])
        options = body if body is not None else model()
        call = CommandCall(
            what=spec.name,
            command=spec.name,
            account_id=account_id,
            call=lambda: _call(parts.aio, spec, account_id, options),
        )
        return await parts.commands.run(request, call, options, by(request))

    command.__annotations__["body"] = model | None
    router.add_api_route(
        f"/accounts/{{account_id}}/{spec.name}",
        command,
        methods=["POST"],
        status_code=202,
        name=f"{spec.name}_account",
        summary=spec.summary,
        description=spec.summary,
        responses=_ANSWERS,
    )


for _spec in COMMANDS.values():
    _add_route(_spec)


@router.post("/accounts/{account_id}/move", status_code=202, responses=_ANSWERS)
async def move_account(
    request: Request,
    parts: Parts,
    principal: Operator,
    account_id: Id,
    body: MoveBody,
    idempotency_key: Key = None,
    prefer: Prefer = None,
) -> Response:
    """Stop the account's worker and start it on another host."""
    del idempotency_key, prefer
    check_account_id(account_id)
    state = await parts.state()
    require_inside(principal, state, [account_id])
    if body.host not in state.hosts:
        raise ProblemError("no_such_host", f"no host {body.host} in this fleet; nothing was done")
    call = CommandCall(
        what="forced move" if body.force else "move",
        command="start",  # the last task of a move
        account_id=account_id,
        host=body.host,
        call=lambda: parts.aio.move_worker(account_id, body.host, force=body.force),
    )
    return await parts.commands.run(request, call, body, by(request))


@router.post("/accounts/{account_id}/validate", response_model=ValidationReport)
async def validate_account(parts: Parts, principal: Operator, account_id: Id) -> Response:
    """Check the account's files on the host that would run it."""
    check_account_id(account_id)
    require_inside(principal, await parts.state(), [account_id])
    host, result = (await parts.aio.validate_on_hosts([account_id]))[account_id]
    return answer(
        {
            "account_id": account_id,
            "host": host or None,
            "valid": result.valid,
            "errors": list(result.errors),
            "warnings": list(result.warnings),
        }
    )


@router.get("/commands/{command_id}", response_model=Command)
async def command(
    parts: Parts, principal: Reader, command_id: Annotated[str, Path(min_length=1, max_length=128)]
) -> Response:
    """Return a command that was sent through this API, and its outcome."""
    record = await parts.commands.read(command_id)
    if record.head.account_id and principal.read_selection:
        readable(principal, await parts.state(), record.head.account_id)
    return answer(command_data(record))


@router.post("/hosts/{host}/drain", status_code=202, responses=_ANSWERS)
async def drain_host(
    request: Request,
    parts: Parts,
    principal: Admin,
    host: HostName,
    body: DrainBody,
    idempotency_key: Key = None,
    prefer: Prefer = None,
) -> Response:
    """Drain a host: move its workers to other hosts, or stop them."""
    del principal, idempotency_key, prefer
    _require_confirmation(host, body.confirm)

    async def drain() -> Any:
        state = await parts.on_thread(
            parts.hosts.drain,
            check_host_name(host),
            mode=body.mode,
            when_flat=body.when_flat,
            deadline_seconds=body.deadline_seconds,
        )
        return state.to_dict()

    return await parts.commands.run(
        request, CommandCall(what="drain", host=host, call=drain), body, by(request)
    )


@router.post("/hosts/{host}/resume", status_code=202, responses=_ANSWERS)
async def resume_host(
    request: Request,
    parts: Parts,
    principal: Admin,
    host: HostName,
    body: ConfirmBody,
    idempotency_key: Key = None,
    prefer: Prefer = None,
) -> Response:
    """Let a drained host run workers again."""
    del principal, idempotency_key, prefer
    _require_confirmation(host, body.confirm)

    async def resume() -> Any:
        return (await parts.on_thread(parts.hosts.resume, check_host_name(host))).to_dict()

    return await parts.commands.run(
        request, CommandCall(what="resume-host", host=host, call=resume), body, by(request)
    )


async def _confirmed_in_query(host: HostName, confirm: str | None = None) -> None:
    """Check the confirmation before the rate limit.

    A request without a confirmation is not counted.
    """
    _require_confirmation(host, confirm)


@router.delete("/hosts/{host}", status_code=204, response_class=Response)
async def forget_host(
    request: Request,
    parts: Parts,
    host: HostName,
    _confirmed: Annotated[None, Depends(_confirmed_in_query)],
    principal: Admin,
) -> Response:
    """Remove a host that no longer exists. `confirm` is its name."""
    del principal
    await parts.on_behalf(by(request), parts.hosts.forget, check_host_name(host))
    return Response(status_code=204)


def _require_confirmation(host: str, confirm: str | None) -> None:
    if confirm is None:
        raise ProblemError("confirmation_required", "give the host's name as `confirm`")
    if confirm != host:
        raise ProblemError("confirmation_wrong", "`confirm` is not the name of this host; nothing was done")
