"""Routes for liveness, readiness, metrics and the OpenAPI document."""

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response

from manager.api.access import Scraper, require_whole
from manager.api.models import Health
from manager.api.parts import Parts
from manager.api.problems import ProblemError, errors_page
from manager.api.rendering import answer

router = APIRouter(tags=["health"])
pages = APIRouter(include_in_schema=False)


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Return 200 while the process runs."""
    return answer({"status": "ok"})


@router.get("/readyz", response_model=Health)
async def readyz(parts: Parts) -> Response:
    """Return 200 if the server can read the fleet, else 503.

    Redis must answer on a new connection.
    """
    await run_in_threadpool(parts.ready)
    await parts.state()
    return answer({"status": "ok"})


@pages.get("/metrics")
async def metrics(parts: Parts, principal: Scraper) -> Response:
    """Return the fleet's metrics in Prometheus's text format 0.0.4."""
    require_whole(principal)
    if parts.metrics is None:
        raise ProblemError("not_found", "this server has no metrics")
    hub = parts.hub
    clients, lag = (0, 0.0) if hub is None else (hub.clients, hub.lag_seconds)
    text = await run_in_threadpool(parts.metrics.text, clients, lag)
    # Redis may hold text that UTF-8 cannot.
    return Response(text.encode(errors="replace"), media_type="text/plain; version=0.0.4; charset=utf-8")


pages.add_api_route("/healthz", healthz)
pages.add_api_route("/readyz", readyz)


@pages.get("/docs/errors")
async def errors() -> HTMLResponse:
    return HTMLResponse(errors_page())


@pages.get("/api/v1/openapi.json")
async def openapi(request: Request) -> Response:
    return answer(request.app.openapi())
