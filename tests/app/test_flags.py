"""True and false in the dialects: as JSON or text, and never as a number, as the document says."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.routes.automatic1111 import schemas as automatic1111
from app.routes.native import huggingface
from app.routes.openai import schemas as openai
from app.routes.replicate import schemas as replicate
from app.schemas.fields import Fields

_MODULES = (automatic1111, huggingface, openai, replicate)


def flags() -> Iterator[tuple[type[Fields], str]]:
    """Every field of a dialect that may be true or false."""
    for kind in (found for module in _MODULES for found in vars(module).values()):
        if isinstance(kind, type) and issubclass(kind, Fields):
            for name, schema in kind.model_json_schema().get("properties", {}).items():
                if {"type": "boolean"} in schema.get("anyOf", [schema]):
                    yield kind, name


FLAGS = list(flags())


def test_there_are_flags() -> None:
    assert (openai.ImageRequest, "stream") in FLAGS
    assert (automatic1111.Txt2ImgRequest, "send_images") in FLAGS


@pytest.mark.parametrize(("kind", "name"), FLAGS)
@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -1, 2, 0.5, [], {}, [True]])
def test_a_number_is_no_flag(kind: type[Fields], name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        kind.parse({"prompt": "a", name: value})
    assert "allowed: true or false or null" in raised.value.wrong[name]
    options = kind.model_json_schema()["properties"][name]["anyOf"]
    assert {option["type"] for option in options} == {"boolean", "null", "string"}


@pytest.mark.parametrize(("kind", "name"), FLAGS)
def test_a_flag_may_be_text(kind: type[Fields], name: str) -> None:
    for value, read in (
        (True, True),
        (False, False),
        (None, None),
        ("true", True),
        ("False", False),
        ("1", True),
        ("0", False),
        (" ", None),
    ):
        assert getattr(kind.parse({"prompt": "a", name: value}), name) is read
