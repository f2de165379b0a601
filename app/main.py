"""The application: launch -> serve -> stop."""

import functools
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from prometheus_client import ProcessCollector

from app import openapi
from app.access.admission import Admission
from app.access.guard import KeyGuard
from app.engine.client import EngineClient
from app.http import pages, problems
from app.http.guard import OriginGuard
from app.http.limits import BodyLimit, TargetLimit
from app.http.middleware import CancelOnDisconnect, RequestId
from app.http.observe import Observe
from app.http.proxies import BehindProxy
from app.http.turns import TakeTurns
from app.jobs.opening import create_jobs
from app.launching import create_engine
from app.routes.automatic1111 import lists as automatic1111_lists
from app.routes.automatic1111 import routes as automatic1111
from app.routes.jobs import events, jobs
from app.routes.jobs.calls import create_webhooks
from app.routes.native import admin, generate, huggingface, metrics, sheets, status
from app.routes.openai import routes as openai
from app.routes.openinference import routes as openinference
from app.routes.replicate import models as replicate_models
from app.routes.replicate import predictions as replicate
from app.settings import Settings
from app.telemetry.collector import EngineCollector
from app.telemetry.jobs import JobsCollector
from app.telemetry.lines import RequestLines
from app.telemetry.metrics import Metrics
from app.telemetry.spans import Spans
from app.telemetry.telemetry import Telemetry

_ROUTES = (
    generate,
    huggingface,
    openai,
    automatic1111,
    automatic1111_lists,
    replicate,
    replicate_models,
    openinference,
    events,  # before the jobs, of which none is called so
    jobs,
    status,
    sheets,
    admin,
)
_EXPOSED = (
    "Content-Disposition",
    "Content-Location",
    "ETag",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "Warning",
    "X-Generation-Parameters",
    "X-Image-Id",
    "X-Request-Id",
    "X-Seed",
)
# Its spans hold the path, and the address of an image holds its prompt; ours: telemetry/spans.py.
_NO_SPANS_OF_FASTAPI: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
_DESCRIPTION = """
Images from latent diffusion models. Requests are sampled together, step by step, each with a
sampler, step count, guidance scale and seed of its own; a request's pixels never depend on what
shared its batch.
"""


def create_admission(settings: Settings) -> Admission:
    """What tells who asks, by these settings."""
    return Admission(
        settings.keyring(),
        allowance=settings.allowance,
        limits=settings.request_limits,
        streams=settings.max_streams,
        max_priority=settings.max_priority,
        local=settings.local,
    )


def create_app(settings: Settings | None = None, engine: EngineClient | None = None) -> FastAPI:
    """The ASGI application; it answers at once, and is ready when the models are loaded."""
    settings = settings or Settings()
    client = engine or create_engine(settings)
    admission = create_admission(settings)
    service = create_jobs(settings, client)
    webhooks = create_webhooks(settings, service)
    readers = ThreadPoolExecutor(2, thread_name_prefix="reader")
    client.observer = telemetry = _telemetry(settings, client)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        admission.warn(settings.host)
        await client.start()
        await service.start()
        await webhooks.start()
        try:
            yield
        finally:
            await webhooks.close()
            await service.close()
            readers.shutdown(wait=False, cancel_futures=True)
            await client.close()
            await telemetry.close()

    app = FastAPI(
        title="Darkroom",
        version=_version(),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=_NO_SPANS_OF_FASTAPI,
    )
    app.state.engine, app.state.settings = client, settings
    app.state.admission = admission
    app.state.jobs, app.state.webhooks = service, webhooks
    app.state.sittings = []  # what routes/automatic1111/routes.py has under way
    app.state.readers = readers  # threads that read pictures from clients
    app.state.metrics = telemetry.metrics
    if telemetry.metrics:
        telemetry.metrics.registry.register(JobsCollector(service, webhooks))
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(TargetLimit, limit=8192)  # more than 8,000, as RFC 9110, 4.1, would have it
    app.add_middleware(CancelOnDisconnect)
    envelope_of = functools.partial(problems.envelope_of, app.routes)
    app.add_middleware(KeyGuard, admission=admission, envelope_of=envelope_of)
    app.add_middleware(OriginGuard, access=settings.access, expose=_EXPOSED)
    app.add_middleware(Observe, telemetry=telemetry)
    app.add_middleware(RequestId)
    app.add_middleware(TakeTurns, client=admission.recognise)
    if settings.trusted_proxies or settings.root_path:
        app.add_middleware(  # outermost: the client is the one that a trusted proxy names
            BehindProxy, trusted=settings.trusted_proxies, root_path=settings.root_path
        )
    problems.install(app, lambda path: openapi.allowed_methods(app, path))
    for routes in _ROUTES:
        app.router.routes += routes.router.routes  # include_router would match each path twice
    app.router.routes += metrics.router(settings.metrics).routes
    openapi.install(app, client)
    pages.install(app)
    return app


def _telemetry(settings: Settings, engine: EngineClient) -> Telemetry:
    """What these settings, and the variables of OpenTelemetry, ask to be told."""
    numbers = Metrics() if settings.metrics != "off" else None
    if numbers:
        ProcessCollector(registry=numbers.registry)
        numbers.registry.register(EngineCollector(engine, numbers, _version()))
    spans = Spans.configured(os.environ, _version())
    lines = RequestLines(prompts=settings.log_prompts) if settings.log_requests else None
    return Telemetry(numbers, spans, lines)


def _version() -> str:
    try:
        return version("darkroom")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0"
