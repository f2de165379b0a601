"""Fields that dialects have in common, as their clients send them."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.engine.job import MAX_GUIDANCE_SCALE, MAX_IMAGES, MAX_SEED, MAX_STEPS
from app.errors import InvalidRequest

# 2.0 is an integer to JSON Schema. It comes last, or the schema would lose the bounds before it.
WHOLE = BeforeValidator(
    lambda value: int(value) if isinstance(value, float) and value.is_integer() else value
)
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS), WHOLE] | None
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), WHOLE] | None
Count = Annotated[int, Field(ge=1, le=MAX_IMAGES), WHOLE] | None
Quality = Annotated[int, Field(ge=0, le=100), WHOLE] | None
Scale = Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False)] | None
Eta = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None


class Fields(BaseModel):
    """What a client may say, by name. What is not listed is ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, strict: bool = True, within: str = "") -> Self:
        """Check values by name, in the object that `within` names; raises `InvalidRequest`."""
        try:
            return cls.model_validate(values, strict=strict)
        except ValidationError as error:
            found = {str(entry["loc"][0]): entry["msg"] for entry in reversed(error.errors())}
            raise InvalidRequest(dict(reversed(found.items())), within) from error
