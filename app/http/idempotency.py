"""The header `Idempotency-Key`, draft-ietf-httpapi-idempotency-key-header-07.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/07/
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException

NAME = "Idempotency-Key"
LONGEST = 255  # characters
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*+)"[ ]*+(?:;.*+)?')  # RFC 8941, 3.3.3
_ESCAPE = re.compile(r"\\(.)")


def key_of(request: Request) -> str | None:
    """The key of a request; None if it has none. Raises HTTPException: 400, it is malformed."""
    lines = request.headers.getlist(NAME)
    if not lines:
        return None
    found = _STRING.fullmatch(lines[0].strip()) if len(lines) == 1 else None
    key = _ESCAPE.sub(r"\1", found[1]) if found else ""
    if not 0 < len(key) <= LONGEST:
        allowed = f'one string of 1 to {LONGEST} ASCII characters in quotes, as "8e03978e-40d5"'
        raise HTTPException(400, f"{NAME} must be {allowed}")
    return key


def fingerprint(values: Mapping[str, Any], *others: object) -> str:
    """What tells one request from another: the values in its body, and what else shapes its answer.

    The order of names and white space make no difference.
    """
    told = json.dumps([values, *map(str, others)], sort_keys=True)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
