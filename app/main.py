"""The application: launch -> serve -> stop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse

from app import document, errors
from app.engine.client import EngineClient
from app.engine.ledger import Limits
from app.engine.wire import Load
from app.middleware import CancelOnDisconnect, RequestId
from app.routes import (
    automatic1111,
    automatic1111_lists,
    generate,
    huggingface,
    openai,
    openinference,
    ops,
    replicate,
)
from app.security import BodyLimit
from app.settings import Settings
from app.turns import TakeTurns

_ROUTES = (
    generate,
    huggingface,
    openai,
    automatic1111,
    automatic1111_lists,
    replicate,
    openinference,
    ops,
)
_EXPOSED = (
    "Content-Disposition",
    "Content-Location",
    "ETag",
    "Retry-After",
    "Server-Timing",
    "X-Generation-Parameters",
    "X-Image-Id",
    "X-Request-Id",
    "X-Seed",
)
_DESCRIPTION = """
Images from latent diffusion models. Requests are sampled together, step by step, each with a step
count, guidance scale and seed of its own; a request's pixels never depend on what shared its batch.
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
    )
    limits = Limits(settings.max_jobs, settings.max_work, settings.timeout_seconds)
    return EngineClient(load, limits)


def create_app(settings: Settings | None = None, engine: EngineClient | None = None) -> FastAPI:
    """The ASGI application; it answers at once, and is ready when the models are loaded."""
    settings = settings or Settings()
    client = engine or create_engine(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await client.start()
        try:
            yield
        finally:
            await client.close()

    app = FastAPI(
        title="Darkroom",
        version=_version(),
        description=_DESCRIPTION,
        lifespan=lifespan,
    )
    app.state.engine, app.state.settings = client, settings
    app.state.sittings = []  # what routes/automatic1111.py has under way
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(CancelOnDisconnect)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    app.add_middleware(RequestId)
    app.add_middleware(TakeTurns)  # the outermost
    errors.install(app, lambda path: document.allowed_methods(app, path))
    for routes in _ROUTES:
        app.include_router(routes.router)
    document.install(app, client)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app


def _version() -> str:
    try:
        return version("darkroom")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0"
