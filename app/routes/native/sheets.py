"""The class sheets of the models: one picture from which people choose a class."""

import hashlib

from fastapi import Request, Response

from app.dependencies import early_studio
from app.errors import UnknownImage, model_of
from app.files.formats import PNG
from app.http import vocabulary
from app.http.negotiation import all_lines
from app.http.routing import Router

router = Router(tags=["operations"])

_SHEET = {
    200: {
        "description": "A PNG: one row with an image of each class, in the order of `classes` in "
        "`GET /models`. Each cell has the model's own size.",
        "content": {PNG.media_type: {"schema": {"type": "string", "format": "binary"}}},
        "headers": vocabulary.headers("ETag", "Cache-Control"),
    },
    304: {
        "description": "The client already has this sheet.",
        "headers": vocabulary.headers("ETag", "Cache-Control"),
    },
    **vocabulary.problems(404, 503),
}


@router.get(
    "/models/{name}/classes.png",
    operation_id="readClassSheet",
    summary="Show an image of each class of a model",
    response_class=Response,
    responses=_SHEET,
)
async def class_sheet(request: Request, name: str) -> Response:
    """The file that the model's folder ships, if it ships one; nothing is drawn.

    A model that was never loaded is 503: load it, or draw with it.
    """
    info = model_of(name, early_studio(request).models)
    if info.sheet is None:
        raise UnknownImage(f"model {name!r} has no class sheet")
    tag = f'"{hashlib.sha256(info.sheet).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    given = all_lines(request.headers, "if-none-match")
    if given.strip() == "*" or tag in given:
        return Response(status_code=304, headers=headers)
    return Response(info.sheet, headers=headers, media_type=PNG.media_type)
