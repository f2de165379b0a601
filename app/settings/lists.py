"""Comma-separated lists in variables of the environment."""


def listed(value: object) -> object:
    """The parts of a text, without blanks and empty parts; anything else as it is."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())
