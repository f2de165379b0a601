"""True and false in the dialects: as JSON, 0 or 1, or text, as the document says."""

from collections.abc import Iterator
from typing import Any

import jsonschema
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
def test_a_flag_is_read_as_its_schema_says(kind: type[Fields], name: str) -> None:
    schema = kind.model_json_schema()["properties"][name]
    for value, read in (
        (True, True),
        (False, False),
        (None, None),
        (1, True),
        (0, False),
        (0.0, False),
        ("true", True),
        ("False", False),
        ("1", True),
        ("0", False),
        (" ", None),
    ):
        jsonschema.validate(value, schema)
        assert getattr(kind.parse({"prompt": "a", name: value}), name) is read


@pytest.mark.parametrize(("kind", "name"), FLAGS)
@pytest.mark.parametrize("value", [-1, 2, 0.5, 1e300, [], {}, [True]])
def test_what_is_no_flag_is_refused_as_its_schema_says(
    kind: type[Fields], name: str, value: Any
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, kind.model_json_schema()["properties"][name])
    with pytest.raises(InvalidRequest) as raised:
        kind.parse({"prompt": "a", name: value})
    allowed = "allowed: true or false or an integer from 0 to 1 or null"
    assert allowed in raised.value.wrong[name]


@pytest.mark.parametrize("stream", [True, 1])
def test_a_stream_of_two_images_is_refused_as_the_schema_says(stream: object) -> None:
    body = {"prompt": "a", "stream": stream, "n": 2}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, openai.ImageRequest.model_json_schema())
    with pytest.raises(InvalidRequest, match="must be 1 with stream"):
        openai.ImageRequest.parse(body)
