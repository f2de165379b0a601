"""The body or the query of a request -> the values in it, by name."""

import json
from collections.abc import Iterable
from typing import Any

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from starlette.exceptions import HTTPException

from app.errors import BrokenBody, InvalidRequest, UnsupportedBody

JSON = "application/json"
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_NOT_AN_OBJECT = "a JSON object is needed"


async def read_body(request: Request) -> tuple[dict[str, Any], bool]:
    """What a body says, and whether as text alone, as forms do.

    `curl -d` calls everything a form: one that begins as a JSON object is read as that.

    Raises:
        UnsupportedBody: neither JSON nor a form.
        BrokenBody: it is not what it is said to be.
        InvalidRequest: the JSON is no object, or a name comes twice.
    """
    media_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if media_type not in (JSON, *FORMS) and not media_type.endswith("+json"):
        allowed = ", ".join((JSON, *FORMS))
        raise UnsupportedBody(f"content-type {media_type[:40]!r} is not read; allowed: {allowed}")
    body = await request.body()
    if media_type not in FORMS or body.lstrip()[:1] == b"{":
        return _object(body), False
    try:
        async with request.form(max_files=0) as form:
            return gather((name, str(value)) for name, value in form.multi_items()), True
    except HTTPException as error:
        raise BrokenBody(f"the body is no form: {error.detail}") from error
    except (MultipartParseError, UnicodeDecodeError) as error:
        raise BrokenBody(f"the body is no form: {error}") from error


def gather(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The values of a form or a query, lists where a name comes twice; empty ones are left out."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if not value:
            continue
        if name not in values:
            values[name] = value
        elif isinstance(values[name], list):
            values[name].append(value)
        else:
            values[name] = [values[name], value]
    return values


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        raise InvalidRequest({"": f"{_NOT_AN_OBJECT}, sent as content-type: {JSON}"})
    try:
        values = json.loads(body)
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except json.JSONDecodeError as error:
        where = f"{error.msg} at character {error.pos}"
        raise BrokenBody(f"the body is not JSON: {where}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, endless digits, too deep
        raise BrokenBody("the body is not JSON that can be read") from error
    if not isinstance(values, dict):
        raise InvalidRequest({"": _NOT_AN_OBJECT})
    return values
