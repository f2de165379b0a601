"""`/docs` and `/redoc`, from files of a package: a browser that shows them asks nobody else."""

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request

_FILES = "static"  # relative, as all addresses here: a proxy may serve them under a prefix
_FAVICON = f"{_FILES}/fastapi/favicon.png"
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " connect-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline';"
    " worker-src blob:; script-src 'self' {scripts}"
)


def install(app: FastAPI) -> None:
    """Add both pages, their files, and `/`, which leads to the first of them."""
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
    app.mount(f"/{_FILES}", StaticFiles(packages=[("fastapi_standalone_docs", "static")]))

    async def logo(_: Request) -> RedirectResponse:
        return RedirectResponse(f"../{_FILES}/redoc/logo-mini.svg")

    async def home(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    app.add_route("/redoc/logo-mini.svg", logo, include_in_schema=False)  # where ReDoc asks
    app.add_route("/", home, include_in_schema=False)


def _add(app: FastAPI, path: str, page: HTMLResponse) -> None:
    """Serve a page with a policy that lets it run its own scripts and reach nobody else."""
    inline = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in inline)
    scripts = " ".join(f"'sha256-{each}'" for each in hashes)
    page.headers["Content-Security-Policy"] = _POLICY.format(scripts=scripts)

    async def show(_: Request) -> HTMLResponse:
        return page

    app.add_route(path, show, include_in_schema=False)
