"""What a client prefers of an answer: the header `Prefer`, RFC 7240."""

from fastapi import Request

from app.http.negotiation import all_lines

NAME, APPLIED = "Prefer", "Preference-Applied"
RESPOND_ASYNC = "respond-async"


def preferences(request: Request) -> dict[str, str]:
    """Preferences by name, in lower case, each with its value; the first of a name counts."""
    found: dict[str, str] = {}
    for part in all_lines(request.headers, "prefer").split(","):
        name, _, value = part.partition(";")[0].partition("=")
        if name := name.strip().lower():
            found.setdefault(name, value.strip().strip('"'))
    return found


def wants_job(request: Request) -> bool:
    """Whether the client would rather not wait."""
    return RESPOND_ASYNC in preferences(request)
