"""The body or the query of a request -> the values in it, by name."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.errors import BrokenBody, InvalidRequest, UnsupportedBody

JSON = "application/json"
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_MULTIPART = FORMS[1]
_LONGEST_TYPE = 256  # characters of a content-type; a boundary has 70 at most, RFC 2046, 5.1.1
_MOST_FIELDS = 1000  # of a form, as Starlette has it for the other kind
_LARGEST_FORM = 1 << 14  # bytes; a form is taken apart in Python, JSON is not
_NOT_AN_OBJECT = "a JSON object is needed"


async def read_body(request: Request) -> tuple[dict[str, Any], bool]:
    """What a body says, and whether as text alone, as forms do.

    `curl -d` calls everything a form, so a form that begins like a JSON object is read as JSON.

    Raises:
        UnsupportedBody: neither JSON nor a form, or a form that is not UTF-8.
        BrokenBody: it is not what it is said to be, or one JSON object has a key twice.
        InvalidRequest: the JSON is no object.
        HTTPException: 413, a form of more than 16 KiB.
    """
    content_type = request.headers.get("content-type", JSON)
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in (JSON, *FORMS) and not media_type.endswith("+json"):
        allowed = ", ".join((JSON, *FORMS))
        raise UnsupportedBody(
            f"content-type {media_type[:40]!r} is not supported; allowed: {allowed}"
        )
    if len(content_type) > _LONGEST_TYPE:
        raise UnsupportedBody(f"content-type has more than {_LONGEST_TYPE} characters")
    body = await (request.body() if media_type in FORMS else _whole(request))
    if media_type not in FORMS or body.lstrip()[:1] == b"{":
        return _object(body), False
    if len(body) > _LARGEST_FORM:
        raise HTTPException(413, f"the form is too large; allowed: {_LARGEST_FORM} bytes")
    if media_type != _MULTIPART:
        return _gather(_pairs(body, "the body is not a form", _MOST_FIELDS)), True
    _check_charset(content_type)
    try:
        async with request.form(max_files=0) as form:
            return _gather((name, str(value)) for name, value in form.multi_items()), True
    except HTTPException as error:
        raise BrokenBody(f"the body is not a form: {error.detail}") from error
    except (MultipartParseError, UnicodeDecodeError) as error:
        raise BrokenBody(f"the body is not a form: {error}") from error


async def _whole(request: Request) -> bytes:
    """The body, which `Request.body` takes longer to put together."""
    parts = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def read_query(request: Request) -> dict[str, Any]:
    """What a query says, as text; raises `BrokenBody` if it is not UTF-8.

    An address is short, so its fields are not counted. Starlette would put other characters in
    place of bytes that are no UTF-8.
    """
    return _gather(_pairs(request.scope["query_string"], "the query cannot be read", None))


def _pairs(form: bytes, wrong: str, most: int | None) -> list[tuple[str, str]]:
    """Names and values of an urlencoded form; `wrong` is what is said of one that is none.

    `curl -d` sends UTF-8 as it is, and Starlette would read that as Latin-1.
    """
    try:
        text = form.decode()
        return parse_qsl(text, True, errors="strict", max_num_fields=most)
    except UnicodeDecodeError as error:
        raise BrokenBody(f"{wrong}: it is not UTF-8") from error
    except ValueError as error:
        raise BrokenBody(f"{wrong}: it has more than {most} fields") from error


def _check_charset(content_type: str) -> None:
    """Python knows encodings that take quadratic time (punycode), and some that are none."""
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8"):
        raise UnsupportedBody(f"charset {charset[:40]!r} is not supported; allowed: utf-8")


def _gather(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
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


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object; RFC 8259, 4, leaves open which of two equal names counts."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise BrokenBody(f"the body is ambiguous JSON: {twice[:64]!r} comes twice")
    return values


_JSON = json.JSONDecoder(object_pairs_hook=_unique)


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        raise InvalidRequest({"": f"{_NOT_AN_OBJECT}, sent as content-type: {JSON}"})
    try:
        values = _JSON.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
        if b"\\" in body or not body.isascii():
            json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except json.JSONDecodeError as error:
        where = f"{error.msg} at character {error.pos}"
        raise BrokenBody(f"the body is not JSON: {where}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, endless digits, too deep
        raise BrokenBody("the body is not JSON that can be read") from error
    if not isinstance(values, dict):
        raise InvalidRequest({"": _NOT_AN_OBJECT})
    return values
