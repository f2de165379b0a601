"""Which format an Accept header is answered in: what clients are known to send."""

import pytest
from starlette.datastructures import Headers

from app.errors import NotAcceptable
from app.http.negotiation import all_lines, negotiate
from app.routes.native.answers import IMAGES, formats


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),  # curl, fetch
        ("application/json, text/plain, */*", "application/json"),  # axios
        ("application/json, text/javascript, */*; q=0.01", "application/json"),  # jQuery
        ("application/json, */*;q=0.5", "application/json"),  # HTTPie
        ("*/*, application/json", "application/json"),
        ("application/json, image/*", "application/json"),
        ("application/json, text/event-stream", "application/json"),
        ("text/event-stream, */*", "text/event-stream"),
        ("application/zip, */*", "application/zip"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "image/webp"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "image/png"),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "image/jpeg"),  # old Java
        ("image/*, application/json;q=0.9", "image/png"),
        ("application/json;q=0.5, */*", "image/png"),
        ("image/png;q=0, */*", "image/webp"),
        ("image/jpg", "image/jpeg"),
        ("IMAGE/JPG;q=0.5, image/webp;q=0.1", "image/jpeg"),
        ("image/jpg, */*", "image/jpeg"),
        ("*", "image/png"),
        ("*;q=0.1, image/webp", "image/webp"),
        (", ,", "image/png"),
    ],
)
def test_what_is_named_comes_before_what_is_any(accept: str, chosen: str) -> None:
    assert negotiate(accept, formats(1)) == chosen


def test_an_image_alone_is_never_json() -> None:
    assert negotiate("application/json, text/plain, */*", IMAGES) == "image/png"
    with pytest.raises(NotAcceptable):
        negotiate("application/json", IMAGES)


@pytest.mark.parametrize("accept", ["text/html", "jpg", "image/gif", "image/png;q=0", "*/*;q=0"])
def test_what_cannot_be_made_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        negotiate(accept, formats(1))


def test_a_list_may_come_in_several_lines() -> None:
    """As a proxy may pass it on: RFC 9110, 5.3."""
    lines = [(b"accept", b"text/html"), (b"accept", b"image/webp;q=0.5")]
    accept = all_lines(Headers(raw=lines), "accept")
    assert negotiate(accept, formats(1)) == "image/webp"
    assert all_lines(Headers(raw=[]), "accept") == ""
