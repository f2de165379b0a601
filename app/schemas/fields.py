"""Fields that dialects have in common, as their clients send them.

They are as lenient as the services that the dialects imitate: n8n, Dify and web forms send numbers
and booleans as text, and empty text for fields that nobody filled in.
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from app.engine.job import MAX_GUIDANCE_SCALE, MAX_IMAGES, MAX_SEED, MAX_STEPS
from app.errors import InvalidRequest
from app.files.formats import format_of
from app.schemas.requests import MAX_CLIP_SKIP, in_words

_CLEAR = ("greater_than_equal", "less_than_equal", "literal_error")  # say what is allowed


def _number(value: object) -> object:
    """Pydantic takes `true` for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


def _side(value: object) -> object:
    """A number or a text; which, is for the native request to see."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


def _kind(value: object) -> object:
    """`JPG` and `image/jpg` are names of a format, too."""
    kind = format_of(value) if isinstance(value, str) else None
    return value if kind is None else kind.name.lower()


# Validators come last, or the schema would lose the bounds before them.
NUMBER = BeforeValidator(_number)
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS), NUMBER] | None
Seed = Annotated[int, Field(ge=-1, le=MAX_SEED), NUMBER] | None  # -1 is random
Count = Annotated[int, Field(ge=1, le=MAX_IMAGES), NUMBER] | None
Quality = Annotated[int, Field(ge=0, le=100), NUMBER] | None
Scale = Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False), NUMBER] | None
Eta = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NUMBER] | None
_BIT = {"type": "integer", "minimum": 0, "maximum": 1}
Flag = Annotated[
    bool | None, WithJsonSchema({"anyOf": [{"type": "boolean"}, _BIT, {"type": "null"}]})
]
# Of an image; the native request checks it, if the model has more than one size.
Side = Annotated[
    Any,
    BeforeValidator(_side),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]}),
]
# What the native request checks, if the model takes prompts.
Negative = Annotated[
    str | None,
    Field(description="What guidance leads away from; ignored by models that take classes."),
]
ClipSkip = Annotated[
    Annotated[int, Field(ge=0, le=MAX_CLIP_SKIP), NUMBER] | None,
    Field(
        description="How many of the text encoder's last layers are left out; ignored by models "
        "that take classes."
    ),
]
Name = Annotated[str, Field(max_length=80)] | None
KindName = Literal["png", "jpeg", "webp"]
_KINDS = {"type": "string", "enum": ["png", "jpeg", "jpg", "webp"]}
Kind = Annotated[KindName, BeforeValidator(_kind), WithJsonSchema(_KINDS)] | None


class Fields(BaseModel):
    """What a client may say, by name. What is not listed is ignored; empty text is absent."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, within: str = "", prompt: str = "") -> Self:
        """Check values by name, in the object that `within` names.

        `prompt` says what a prompt may be, for clients that send none.

        Raises:
            InvalidRequest: naming every wrong field and what is allowed.
        """
        given = {name: value for name, value in values.items() if not cls._left_out(name, value)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            allowed = {**cls._allowed(), **({"prompt": prompt} if prompt else {})}
            wrong: dict[str, str] = {}
            for entry in error.errors():
                name, said = str(entry["loc"][0]), entry["msg"]
                if entry["type"] not in _CLEAR:
                    said += f" (allowed: {allowed[name]})"
                wrong.setdefault(name, said)
            raise InvalidRequest(wrong, within) from error

    @classmethod
    def _left_out(cls, name: str, value: object) -> bool:
        field = cls.model_fields.get(name)
        empty = isinstance(value, str) and not value.strip()
        return empty and field is not None and not field.is_required()

    @classmethod
    @functools.cache
    def _allowed(cls) -> Mapping[str, str]:
        """What each field may be, in words."""
        fields = super().model_json_schema()["properties"]
        return {name: in_words(field) for name, field in fields.items()}

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema of what is read, text in place of other things included."""
        schema = super().model_json_schema(*args, **kwargs)
        fields = {name: _or_text(field) for name, field in schema["properties"].items()}
        return schema | {"properties": fields}


def _or_text(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that may be left out: any number as text, else empty text."""
    options = field.get("anyOf")
    if options is None or {"type": "string"} in options:
        return field
    kinds = {option.get("type") for option in options}
    text = {"type": "string"} if kinds & {"integer", "number", "boolean"} else {"const": ""}
    return field | {"anyOf": [*options, text]}
