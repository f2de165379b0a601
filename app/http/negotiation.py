"""Which format to answer in: what the client likes best of what there is. RFC 9110, 12.5."""

import functools

from starlette.datastructures import Headers

from app.errors import NotAcceptable
from app.files.formats import media_type_of

_LONGEST = 4096  # characters; a browser sends 200


@functools.lru_cache(256)  # clients have few
def negotiate(accept: str, offers: tuple[str, ...]) -> str:
    """One of the media types offered, in order of the server's preference.

    If the client likes several equally, a type that it names wins: axios and others ask for
    `application/json, text/plain, */*` and mean JSON.

    Raises:
        NotAcceptable: nothing the client names is among them, or it names too much.
    """
    if len(accept) > _LONGEST:
        raise NotAcceptable(f"Accept has more than {_LONGEST} characters")
    wanted: dict[str, float] = {}
    for part in accept.split(","):
        name, *arguments = (piece.strip() for piece in part.split(";"))
        if not name:
            continue
        quality = 1.0
        for argument in arguments:
            key, _, value = argument.partition("=")
            if key.strip().lower() == "q":
                quality = _quality(value)
        wanted["*/*" if name == "*" else media_type_of(name.lower())] = quality  # `*`: old Java's
    if not wanted:
        return offers[0]

    def liking(offer: str) -> tuple[float, int]:
        """Its quality, and how plainly it is named: 2 itself, 1 its kind, 0 as any."""
        names = {2: offer, 1: offer.split("/")[0] + "/*", 0: "*/*"}
        found = ((wanted[name], rank) for rank, name in names.items() if name in wanted)
        return next(found, (0.0, 0))

    best = max(offers, key=liking)  # the first of equals
    if liking(best)[0] <= 0:
        raise NotAcceptable(f"Accept {accept[:40]!r} matches none of: {', '.join(offers)}")
    return best


def all_lines(headers: Headers, name: str) -> str:
    """A header that is a list, which may be sent in several lines. RFC 9110, 5.3."""
    return ", ".join(headers.getlist(name))


def _quality(text: str) -> float:
    """0 to 1; what is no such number asks for nothing."""
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
