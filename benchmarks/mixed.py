"""Requests of every dialect, and what their pictures are read from."""

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

MODELS = ("digits", "twin")
_SAMPLERS = ("ddim", "euler", "dpmpp_2m", "heun")
EVENTS = "text/event-stream"


class Wrong(Exception):
    """An answer that must not be."""


@dataclass(frozen=True)
class Ask:
    """What is asked for, whatever the dialect."""

    dialect: str
    model: str
    label: int
    steps: int
    guidance_scale: float
    sampler: str  # of our own API; the others leave it to the model
    seed: int

    @property
    def native(self) -> dict[str, Any]:
        """The body of `POST /generate`."""
        return {
            "model": self.model,
            "class": str(self.label),
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
            "seed": self.seed,
        }


def random_ask(chance: random.Random, number: int) -> Ask:
    """One of many different ones; every dialect has its turn."""
    return Ask(
        dialect=list(DIALECTS)[number % len(DIALECTS)],
        model=MODELS[chance.random() < 1 / 3],
        label=chance.randrange(10),
        steps=chance.choice((5, 10, 20, 40)),
        guidance_scale=chance.choice((1.0, 3.0)),
        sampler=chance.choice(_SAMPLERS),
        seed=number,
    )


async def send(http: aiohttp.ClientSession, ask: Ask) -> tuple[int, bytes]:
    """The status, and the bytes of the picture where it is a good one.

    Raises:
        Wrong: the answer has no picture.
    """
    path, headers, body, picture = DIALECTS[ask.dialect](ask)
    async with http.post(path, json=body, headers=headers) as answer:
        content = await answer.read()
        if answer.status not in (200, 201):
            return answer.status, content
    try:
        return 200, picture(content)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Wrong(f"{ask.dialect}: {error!r} in {content[:200]!r}") from error


Sent = tuple[str, dict[str, str], dict[str, Any], Callable[[bytes], bytes]]


def _native(ask: Ask) -> Sent:
    return "/generate", {}, ask.native, bytes


def _events(ask: Ask) -> Sent:
    return "/generate", {"Accept": EVENTS}, ask.native | {"previews": 3}, picture_of_events


def _hugging_face(ask: Ask) -> Sent:
    return f"/models/{ask.model}", {}, {"inputs": str(ask.label), "parameters": _usual(ask)}, bytes


def _openai(ask: Ask) -> Sent:
    body = {"model": ask.model, "prompt": str(ask.label), **_usual(ask)}
    return "/v1/images/generations", {}, body, _found("data", 0, "b64_json")


def _automatic1111(ask: Ask) -> Sent:
    body = {
        "prompt": str(ask.label),
        "seed": ask.seed,
        "steps": ask.steps,
        "cfg_scale": ask.guidance_scale,
        "override_settings": {"sd_model_checkpoint": ask.model},
    }
    return "/sdapi/v1/txt2img", {}, body, _found("images", 0)


def _replicate(ask: Ask) -> Sent:
    body = {"input": {"prompt": str(ask.label), **_usual(ask)}}
    path = f"/v1/models/any/{ask.model}/predictions"
    return path, {"Prefer": "wait"}, body, _found("output", 0)


DIALECTS: dict[str, Callable[[Ask], Sent]] = {
    "native": _native,
    "native, events": _events,
    "Hugging Face": _hugging_face,
    "OpenAI": _openai,
    "AUTOMATIC1111": _automatic1111,
    "Replicate": _replicate,
}


def _usual(ask: Ask) -> dict[str, Any]:
    return {
        "seed": ask.seed,
        "num_inference_steps": ask.steps,
        "guidance_scale": ask.guidance_scale,
    }


def _found(*where: str | int) -> Callable[[bytes], bytes]:
    """Reads a picture in base64 at this place of a JSON answer; it may be a data URL."""

    def picture(content: bytes) -> bytes:
        found = json.loads(content)
        for key in where:
            found = found[key]
        return base64.b64decode(found.rpartition(",")[2], validate=True)

    return picture


def picture_of_events(content: bytes) -> bytes:
    """The picture of a stream, which must have one end; raises ValueError."""
    events = [part.split("\n") for part in content.decode().split("\n\n")]
    told = [
        (lines[0].removeprefix("event: "), lines[1].removeprefix("data: "))
        for lines in events
        if lines[0].startswith("event: ")
    ]
    ends = [(name, data) for name, data in told if name in ("completed", "error")]
    if [name for name, _ in ends] != ["completed"] or told[-1] != ends[0]:
        raise ValueError(f"ends: {[name for name, _ in ends]}")
    return base64.b64decode(json.loads(ends[0][1])["images"][0]["data"], validate=True)
