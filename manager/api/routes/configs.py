"""Account files: what they say of one account, and pushing all of them to the fleet."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from manager.api.access import Configurer, Reader, by, readable, require_unlimited
from manager.api.bodies import PushBody
from manager.api.models_config import AccountConfigDifference, AccountConfigReport, ConfigVersionSummary
from manager.api.parts import Parts, files_of
from manager.api.problems import ProblemError
from manager.api.rendering import answer, utc
from manager.api.routes.records import VERSION_PATTERN
from manager.change.config_push import checked, literal_secrets
from manager.config import ConfigurationService, config_version
from manager.config.loaded import LoadedAccount
from manager.errors import ConfigChangedError
from manager.fleet.config_versions import ConfigVersion

router = APIRouter(tags=["records"])

Id = Annotated[str, Path(min_length=1, max_length=255)]


class ConfigQuery(BaseModel):
    """Whether each value comes with its place."""

    model_config = ConfigDict(extra="forbid")

    origin: Annotated[bool, Field(description="Also say where each value comes from.")] = False


def _files(parts: Parts) -> ConfigurationService:
    files = files_of(parts)
    if files is None:
        raise ProblemError("not_found", "this server reads no account files")
    return files


def _version(loaded: LoadedAccount) -> str | None:
    return None if loaded.config is None else config_version(loaded.config)


@router.get("/accounts/{account_id}/config", response_model=AccountConfigReport)
async def account_config(
    parts: Parts, principal: Reader, account_id: Id, query: Annotated[ConfigQuery, Query()]
) -> Response:
    """Return the configuration that a worker would get, with all defaults and with secrets masked.

    The account files are those that this server reads. `origins` gives the file and line of each value.
    """
    readable(principal, await parts.state(), account_id)

    def look() -> dict[str, Any]:
        loaded = _files(parts).read_account(account_id)
        return {
            "account_id": account_id,
            "version": _version(loaded),
            "problems": [str(one) for one in loaded.problems],
            "values": None if loaded.config is None else loaded.shown(),
            "origins": [
                {"key": one.key, "value": one.value, "origin": one.origin} for one in loaded.origins()
            ]
            if query.origin
            else None,
        }

    return answer(await run_in_threadpool(look))


@router.get("/accounts/{account_id}/config/diff", response_model=AccountConfigDifference)
async def account_config_difference(parts: Parts, principal: Reader, account_id: Id) -> Response:
    """Return whether the account's worker runs with what its file says now."""
    found = readable(principal, await parts.state(), account_id)
    running = None
    if found.worker is not None and found.status not in {"stopped", "failed"}:
        running = found.worker.metadata.get("config_version")

    recorded = None if found.worker is None else found.worker.placement.config
    listed = None if recorded is None else recorded.get("changes")
    changes = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []

    def look() -> dict[str, Any]:
        loaded = _files(parts).read_account(account_id)
        version = _version(loaded)
        if version is None:
            state = "invalid"
        elif running is None:
            state = "not_running"
        else:
            state = "current" if running == version else "pending"
        problems = [str(one) for one in loaded.problems]
        return {
            "account_id": account_id,
            "running": running,
            "file": version,
            "state": state,
            "problems": problems,
            "changes": changes if state == "pending" else [],
        }

    return answer(await run_in_threadpool(look))


async def _replaced_version(
    request: Request,
    if_match: Annotated[
        str | None, Header(alias="If-Match", pattern=VERSION_PATTERN, description='`"<current version>"`')
    ] = None,
) -> int:
    """Return the version that a push replaces; 0 for the first, which `If-None-Match: *` asks for."""
    if if_match is not None:
        return int(if_match.strip('"'))
    if request.headers.get("if-none-match", "").strip() == "*":
        return 0
    raise ProblemError(
        "precondition_required",
        'give the current version as If-Match: "<version>", or If-None-Match: * if there is none',
    )


@router.post("/config/push", response_model=ConfigVersionSummary)
async def config_push(
    request: Request,
    parts: Parts,
    replaces: Annotated[int, Depends(_replaced_version)],
    principal: Configurer,
    body: PushBody,
) -> Response:
    """Replace the account files of the fleet with these, as a new version.

    Files that are not in the request are no longer part of the fleet. Running workers are not affected
    until they restart. A value that looks like a secret is refused. The first push has `If-None-Match: *`
    instead of `If-Match`. A request has at most 1 MiB; `manager config push` has no such limit.
    """
    require_unlimited(principal)
    who, own = by(request), _files(parts)

    def push() -> ConfigVersion:
        with parts.audit.refusals("config push", by=who):
            current = parts.versions.current()
            if (current[0] if current else 0) != replaces:
                raise ConfigChangedError(
                    f"the current version is {current[0] if current else 'none'}: look at what changed, then "
                    "push again"
                )
            files = checked(
                body.files,
                own.config_dir,
                allow_invalid=body.allow_invalid,
                allow_literals=body.allow_literals is not None,
            )
            new = parts.versions.push(files, replaces=replaces, by=who, message=body.message)
        parts.audit.note("config push", by=who, text=f"version {new}: {body.message}")
        secrets = literal_secrets(files)
        if secrets:
            text = f"version {new}: {body.allow_literals}: {', '.join(secrets)}"
            parts.audit.note("config push literals", by=who, text=text)
        return parts.versions.read(new)

    version = await run_in_threadpool(push)
    return answer({**version.to_dict(), "time": utc(version.time)}, headers={"ETag": f'"{version.version}"'})
