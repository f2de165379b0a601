"""Replicate's predictions: what is created has succeeded when it is answered, and is not kept.

https://replicate.com/docs/reference/http#models.predictions.create
"""

import base64
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from fastapi import Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from app import docs
from app.dependencies import StudioDep
from app.dialects import to_order
from app.drawing import Order
from app.engine.job import ModelInfo, Result
from app.errors import InvalidRequest
from app.images import JPEG, PNG, WEBP, Format
from app.reading import JSON, read_body
from app.routes.fields import Count, Fields, Quality, Scale, Seed, Steps
from app.routing import Router

router = Router(tags=["replicate"])
_KINDS = {"png": PNG, "webp": WEBP, "jpg": JPEG}


class PredictionInput(Fields):
    """What to draw. Fields that are not listed are ignored; null is as good as absent."""

    prompt: str = Field(description="Names a class.")
    seed: Seed = Field(None, description="Image k uses seed + k. Random if absent.")
    num_inference_steps: Steps = Field(None, description="DDIM steps.")
    guidance_scale: Scale = Field(
        None, description="Classifier-free guidance; the model's default if absent."
    )
    guidance: Scale = Field(None, description="The same, if that is absent.")
    num_outputs: Count = Field(None, description="How many images, 1 if absent.")
    output_format: Literal["png", "webp", "jpg"] | None = Field(None, description="png if absent.")
    output_quality: Quality = Field(
        None, description="Of a JPEG or WebP; the best that is made here if absent or 100."
    )

    @property
    def kind(self) -> Format:
        """The format of the files."""
        return _KINDS[self.output_format or "png"]

    @property
    def quality(self) -> int | None:
        """What `encode` takes."""
        return None if self.output_quality == 100 else self.output_quality

    def to_order(self, name: str, models: Mapping[str, ModelInfo]) -> Order:
        """What the engine takes; raises `InvalidRequest` or `UnknownModel`."""
        scale_field = "guidance" if self.guidance_scale is None else "guidance_scale"
        native = {
            "model": name,
            "seed": self.seed,
            "steps": self.num_inference_steps,
            "guidance_scale": getattr(self, scale_field),
            "n": self.num_outputs,
        }
        names = {
            "steps": "num_inference_steps",
            "guidance_scale": scale_field,
            "n": "num_outputs",
        }
        try:
            return to_order(models, self.prompt, native, names)
        except InvalidRequest as error:
            raise InvalidRequest(error.wrong, "input") from error


class PredictionMetrics(BaseModel):
    """Where the seconds went."""

    predict_time: float = Field(description="From `started_at` to `completed_at`.")


class Prediction(BaseModel):
    """Images, and how they came to be."""

    id: str = Field(description="Of this answer alone: there is nowhere to ask for it again.")
    model: str = Field(description="As asked for.", examples=["local/digits"])
    version: str = Field(description="SHA-256 of the checkpoint.")
    input: dict[str, Any] = Field(description="As it was given, but for what was ignored.")
    output: list[str] = Field(description="Data URIs, in the order of their seeds.")
    status: Literal["succeeded"] = "succeeded"
    error: None = None
    logs: Literal[""] = ""
    metrics: PredictionMetrics
    created_at: AwareDatetime
    started_at: AwareDatetime = Field(description="When the first step was made.")
    completed_at: AwareDatetime
    urls: dict[str, str] = Field({}, description="None: predictions are not kept.")

    @classmethod
    def of(
        cls,
        model: str,
        info: ModelInfo,
        wanted: PredictionInput,
        files: list[bytes],
        result: Result,
        created_at: datetime,
    ) -> Self:
        """What a request came to; `model` is its name as the client wrote it."""
        head = f"data:{wanted.kind.media_type};base64,"
        started_at = created_at + timedelta(seconds=result.queue)
        predict_time = round(result.denoise + result.decode, 6)
        return cls(
            id=uuid.uuid4().hex,
            model=model,
            version=info.digest,
            input=wanted.model_dump(exclude_unset=True),
            output=[head + base64.b64encode(file).decode() for file in files],
            metrics=PredictionMetrics(predict_time=predict_time),
            created_at=created_at,
            started_at=started_at,
            completed_at=started_at + timedelta(seconds=predict_time),
        )


_BODY = {
    "type": "object",
    "required": ["input"],
    "properties": {"input": PredictionInput.model_json_schema()},
}
_EXAMPLES = {
    "digit": {"summary": "A digit", "value": {"input": {"prompt": "7", "seed": 1}}},
    "several": {
        "summary": "Four at once, as WebP",
        "value": {
            "input": {
                "prompt": "a 3",
                "num_inference_steps": 10,
                "num_outputs": 4,
                "output_format": "webp",
            }
        },
    },
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "Ignored: every answer is `wait`'s.",
    "schema": {"type": "string"},
    "example": "wait",
}
_CREATED = {
    "description": "The prediction, which has succeeded.",
    "headers": docs.headers("X-Seed", "Cache-Control"),
}


@router.post(
    "/v1/models/{owner}/{name}/predictions",
    operation_id="replicateCreatePrediction",
    summary="Draw images, as Replicate's clients ask for them",
    status_code=201,
    response_model=Prediction,
    responses={201: _CREATED, **docs.problems(400, 404, 413, 415, 422, 429, 500, 503, 504)},
    openapi_extra={
        "parameters": [_PREFER],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _BODY, "examples": _EXAMPLES}},
        },
    },
)
async def create_prediction(request: Request, owner: str, name: str, studio: StudioDep) -> Response:
    """Draw `num_outputs` images of the class that the prompt names. Any owner will do."""
    created_at = datetime.now(UTC)
    values, _ = await read_body(request)
    if not isinstance(values.get("input"), dict):
        raise InvalidRequest({"input": "must be an object"})
    wanted = PredictionInput.parse(values["input"], within="input")
    order = wanted.to_order(name, studio.models)
    result = await studio.draw(order)
    files = await studio.encode(order, result, wanted.kind, wanted.quality)
    info = studio.info(order)
    prediction = Prediction.of(f"{owner}/{name}", info, wanted, files, result, created_at)
    headers = {"X-Seed": str(order.params.seed), "Cache-Control": "no-store"}
    return Response(prediction.model_dump_json(), 201, headers, JSON)
