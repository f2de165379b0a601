"""The playground at `/`, and `/docs` and `/redoc`: a browser that shows them asks nobody else."""

import base64
import hashlib
import os
import re
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

_FILES = "static"  # relative, as all addresses here: a proxy may serve them under a prefix
_FAVICON = f"{_FILES}/fastapi/favicon.png"
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " connect-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline';"
    " worker-src blob:; script-src 'self' {scripts}"
)
_PLAYGROUND = Path(__file__).parents[1] / "page"
_HOME_HEADERS = {
    "Cache-Control": "no-cache",  # ask again, and get 304 if nothing changed
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_FILE_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",  # its address changes when it does
    "Content-Security-Policy": "default-src 'none'",  # of a file that is opened by itself
    "X-Content-Type-Options": "nosniff",
}


def install(app: FastAPI) -> None:
    """Add the playground, both pages of the documentation, and the files of all three."""
    swagger = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{app.title} - Swagger UI",
        swagger_js_url=f"{_FILES}/swagger/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger/swagger-ui.css",
        swagger_favicon_url=_FAVICON,
        swagger_ui_parameters={
            "validatorUrl": None
        },  # else a stranger's server is sent the address
    )
    redoc = get_redoc_html(
        openapi_url="openapi.json",
        title=f"{app.title} - ReDoc",
        redoc_js_url=f"{_FILES}/redoc/redoc.standalone.js",
        redoc_favicon_url=_FAVICON,
        with_google_fonts=False,
    )
    for path, page in (("/docs", swagger), ("/redoc", redoc)):
        _add(app, path, page)
    _add_playground(app)
    app.mount(f"/{_FILES}", StaticFiles(packages=[("fastapi_standalone_docs", "static")]))

    async def logo(_: Request) -> RedirectResponse:
        return RedirectResponse(f"../{_FILES}/redoc/logo-mini.svg")

    app.add_route("/redoc/logo-mini.svg", logo, include_in_schema=False)  # where ReDoc asks


class _PlaygroundFiles(StaticFiles):
    """The files of the playground, which browsers keep."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """A file, or 304 if the client already has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_FILE_HEADERS)
        return response


class _Compressed:
    """An application whose answers are compressed; HEAD is told the size of what GET sends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = GZipMiddleware(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":  # the server drops the body
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def _add_playground(app: FastAPI) -> None:
    """Serve `index.html` at `/`, and what it names below `/static`, which needs no key.

    The addresses of the files have a digest of them all, so none is mixed with another version's.
    """
    version = _digest(_PLAYGROUND)
    folder = f"{_FILES}/page"
    html = (_PLAYGROUND / "index.html").read_text(encoding="utf-8")
    html = html.replace(f'"{folder}/', f'"{folder}/{version}/')
    headers = _HOME_HEADERS | {"ETag": f'"{version}"'}

    async def home(request: Request) -> Response:
        if version in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return HTMLResponse(html, headers=headers)

    compressed = [Middleware(_Compressed)]
    app.router.routes.append(Route("/", home, include_in_schema=False, middleware=compressed))
    files = _PlaygroundFiles(directory=_PLAYGROUND)
    app.mount(f"/{folder}/{version}", _Compressed(files))


def _digest(folder: Path) -> str:
    """A name for all files of a folder together."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _add(app: FastAPI, path: str, page: HTMLResponse) -> None:
    """Serve a page with a policy that lets it run its own scripts and reach nobody else."""
    inline = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in inline)
    scripts = " ".join(f"'sha256-{each}'" for each in hashes)
    page.headers["Content-Security-Policy"] = _POLICY.format(scripts=scripts)

    async def show(_: Request) -> HTMLResponse:
        return page

    app.add_route(path, show, include_in_schema=False)
