"""What an answer says beside its body: the header `Warning`, RFC 7234, 5.5.

RFC 9111 calls it obsolete, because caches did not write it; the form is still the usual one.
"""

from collections.abc import MutableMapping, Sequence

NAME = "Warning"
_MISCELLANEOUS = 299  # a persistent warning of no other kind, by an agent without a name


def warn(headers: MutableMapping[str, str], told: Sequence[str]) -> None:
    """Add warnings, each of printable ASCII without quotes, to an answer's headers."""
    written = [f'{_MISCELLANEOUS} - "{text}"' for text in told]
    if before := headers.get(NAME):
        written.insert(0, before)
    if written:
        headers[NAME] = ", ".join(written)
