"""The application: launch -> serve -> stop."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from app import openapi
from app.engine.client import EngineClient
from app.engine.ledger import Limits
from app.engine.watchdog import Upkeep
from app.engine.wire import Load
from app.http import pages, problems
from app.http.guard import OriginGuard
from app.http.limits import BodyLimit, TargetLimit
from app.http.middleware import CancelOnDisconnect, RequestId
from app.http.proxies import BehindProxy
from app.http.turns import TakeTurns
from app.jobs.opening import create_jobs
from app.routes.automatic1111 import lists as automatic1111_lists
from app.routes.automatic1111 import routes as automatic1111
from app.routes.jobs import events, jobs
from app.routes.jobs.calls import create_webhooks
from app.routes.native import generate, huggingface, status
from app.routes.openai import routes as openai
from app.routes.openinference import routes as openinference
from app.routes.replicate import routes as replicate
from app.settings import Settings

_ROUTES = (
    generate,
    huggingface,
    openai,
    automatic1111,
    automatic1111_lists,
    replicate,
    openinference,
    events,  # before the jobs, of which none is called so
    jobs,
    status,
)
_EXPOSED = (
    "Content-Disposition",
    "Content-Location",
    "ETag",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "Server-Timing",
    "Warning",
    "X-Generation-Parameters",
    "X-Image-Id",
    "X-Request-Id",
    "X-Seed",
)
_DESCRIPTION = """
Images from latent diffusion models. Requests are sampled together, step by step, each with a
sampler, step count, guidance scale and seed of its own; a request's pixels never depend on what
shared its batch.
"""


def create_engine(settings: Settings) -> EngineClient:
    """An engine for these settings, not yet launched."""
    load = Load(
        models={name: str(folder) for name, folder in settings.folders.items()},
        device=settings.device,
        dtype=settings.dtype,
        backend=settings.backend,
        compile=settings.compile,
        slots=settings.slots,
        rows=settings.rows,
        sizes=settings.sizes,
        prediction=settings.prediction,
    )
    limits = Limits(settings.max_jobs, settings.max_work_seconds, settings.timeout_seconds)
    upkeep = Upkeep(settings.hang_seconds, settings.load_seconds, settings.require_all_models)
    return EngineClient(load, limits, upkeep=upkeep)


def create_app(settings: Settings | None = None, engine: EngineClient | None = None) -> FastAPI:
    """The ASGI application; it answers at once, and is ready when the models are loaded."""
    settings = settings or Settings()
    client = engine or create_engine(settings)
    service = create_jobs(settings, client)
    webhooks = create_webhooks(settings, service)
    readers = ThreadPoolExecutor(2, thread_name_prefix="reader")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
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

    app = FastAPI(
        title="Darkroom",
        version=_version(),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.engine, app.state.settings = client, settings
    app.state.jobs, app.state.webhooks = service, webhooks
    app.state.sittings = []  # what routes/automatic1111/routes.py has under way
    app.state.readers = readers  # threads that read pictures from clients
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(TargetLimit, limit=8192)  # more than 8,000, as RFC 9110, 4.1, would have it
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(OriginGuard, access=settings.access, expose=_EXPOSED)
    app.add_middleware(RequestId)
    app.add_middleware(TakeTurns)
    if settings.trusted_proxies or settings.root_path:
        app.add_middleware(  # outermost: the client is the one that a trusted proxy names
            BehindProxy, trusted=settings.trusted_proxies, root_path=settings.root_path
        )
    problems.install(app, lambda path: openapi.allowed_methods(app, path))
    for routes in _ROUTES:
        app.router.routes += routes.router.routes  # include_router would match each path twice
    openapi.install(app, client)
    pages.install(app)
    return app


def _version() -> str:
    try:
        return version("darkroom")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0"
