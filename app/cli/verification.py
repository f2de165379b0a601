"""Check a picture: draw it again from its own parameters, and compare."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image, ImageChops, JpegImagePlugin

from app.engine.job import SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.results import Pixels
from app.errors import RequestError
from app.files.formats import PNG, Opened, encode, open_image
from app.files.parameters import clip_skip_of, prompts_of, read_description
from app.schemas.requests import GenerateRequest
from app.schemas.samplers import sampler_of
from models.library import Located, locate, shipped
from models.sampling import DEFAULT_SAMPLER, DEFAULT_SPACING

_LONGEST_TOLD = 40  # characters of what a picture says
_MINUS = re.compile(r"(?<!e)-")  # between two numbers, and not in 1e-05


class CannotVerify(ValueError):
    """The picture cannot be compared with anything."""


class OtherCheckpoint(CannotVerify):
    """The model here is not the one that drew the picture."""


@dataclass(frozen=True)
class Claim:
    """What a picture says about itself: its model, what it shows, and its other parameters.

    Whether `text` is a class or a prompt, its model says.
    """

    model: str
    hash: str
    text: str
    prompts: Mapping[str, str]  # what is said of prompts besides
    others: Mapping[str, str]

    def request(self, info: ModelInfo) -> GenerateRequest:
        """What draws it with a model; raises `RequestError`."""
        if info.prompts is None:
            subject = {"class": self.text} if self.text else {}
        else:
            subject = {"prompt": self.text}
        return GenerateRequest.parse({**self.others, **self.prompts, **subject}, strict=False)


@dataclass(frozen=True)
class Verdict:
    """How a picture compares with the one its parameters make."""

    differing: int  # pixels
    total: int
    most: int  # of 255, the largest difference of any channel
    note: str = ""

    @property
    def same(self) -> bool:
        """Whether every pixel is."""
        return not self.differing

    def __str__(self) -> str:
        if self.same:
            return f"same: all {self.total} pixels{self.note}"
        return (
            f"differs by {self.differing} of {self.total} pixels, "
            f"by at most {self.most} of 255{self.note}"
        )


def claim_of(opened: Opened) -> Claim:
    """What a picture's own parameters say.

    Raises:
        CannotVerify: it carries none, or such as no image of ours can have.
    """
    if opened.parameters is None:
        raise CannotVerify("it does not say how it was made: no parameters are written in it")
    lines, pairs = read_description(opened.parameters)
    text, negative = prompts_of(lines)
    prompts = {"negative_prompt": negative, "clip_skip": _clip_skip(pairs.get("Clip skip", ""))}
    wanted = {
        "steps": pairs.get("Steps"),
        "guidance_scale": pairs.get("CFG scale"),
        "guidance_interval": _MINUS.sub(",", pairs.get("Guidance interval", "0-1")),
        "seed": pairs.get("Seed"),
        "eta": pairs.get("Eta"),
        "spacing": pairs.get("Schedule type", DEFAULT_SPACING).lower(),
    }
    wanted["width"], _, wanted["height"] = pairs.get("Size", "").partition("x")
    if missing := [name for name in ("Model", "Model hash", "Steps", "Seed") if name not in pairs]:
        raise CannotVerify(f"its parameters lack {', '.join(missing)}: Darkroom did not write them")
    try:
        wanted["sampler"], _ = sampler_of(pairs.get("Sampler", DEFAULT_SAMPLER), "Sampler")
        said, others = _said(prompts), _said(wanted)
        GenerateRequest.parse({**said, **others}, strict=False)
    except RequestError as error:
        raise CannotVerify(f"its parameters make no image: {error}") from error
    return Claim(pairs["Model"], pairs["Model hash"], text, said, others)


def _said(values: Mapping[str, str | None]) -> dict[str, str]:
    """Those that are not empty."""
    return {name: value for name, value in values.items() if value}


def _clip_skip(layers: str) -> str:
    """A clip skip as requests count; what is no number is told as it is."""
    short = layers.isascii() and layers.isdigit() and len(layers) < _LONGEST_TOLD
    return str(clip_skip_of(int(layers))) if short else layers


def folder_of(claim: Claim, model: str | None) -> Located:
    """The model to draw it with: `model`, which `locate` knows, or the claim's own.

    A picture may name a shipped model, but no path and nothing to fetch: others wrote it.

    Raises:
        CannotVerify: the claim's own does not ship.
        ValueError: there is no such `model`.
    """
    if model is not None:
        return locate(model)
    if claim.model not in (known := shipped()):
        raise CannotVerify(
            f"its model {_told(claim.model)!r} does not ship; say where the model is with --model"
        )
    return Located(claim.model, known[claim.model])


def _told(text: str) -> str:
    """Some of what a picture says, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text[:_LONGEST_TOLD])


def params_of(claim: Claim, info: ModelInfo) -> SamplingParams:
    """The parameters to draw it by.

    Raises:
        OtherCheckpoint: the model is not the one that drew it.
        CannotVerify: it makes no such image.
    """
    if claim.hash != info.hash:
        raise OtherCheckpoint(
            f"other checkpoint: it is by {_told(claim.model)} {_told(claim.hash)}, and {info.name} "
            f"here is {info.hash}"
        )
    try:
        return claim.request(info).to_params({info.name: info})
    except RequestError as error:
        raise CannotVerify(f"its parameters make no image: {error}") from error


def compare(opened: Opened, drawn: Pixels) -> Verdict:
    """A picture beside the pixels that its parameters make.

    A JPEG is compared with what its own quantisation makes of them.
    """
    expected = open_image(encode(drawn, PNG)).image
    note = ""
    if isinstance(opened.image, JpegImagePlugin.JpegImageFile):
        expected, note = _as_jpeg(expected, opened.image), ", as this JPEG keeps them"
    elif not opened.lossless:
        note = "; the file is lossy"
    found = opened.image
    if found.size != expected.size:
        sizes = [f"{image.width}x{image.height}" for image in (found, expected)]
        total = expected.width * expected.height
        return Verdict(total, total, 255, f": its size is {sizes[0]}, and should be {sizes[1]}")
    mode = "RGBA" if "A" in found.getbands() + expected.getbands() else "RGB"
    difference = ImageChops.difference(found.convert(mode), expected.convert(mode))
    channels = difference.split()
    most = channels[0]
    for channel in channels[1:]:
        most = ImageChops.lighter(most, channel)
    counts = most.histogram()
    differing = sum(counts[1:])
    largest = max(level for level, count in enumerate(counts) if count)
    return Verdict(differing, sum(counts), largest, note)


def _as_jpeg(image: Image.Image, like: JpegImagePlugin.JpegImageFile) -> Image.Image:
    """What a JPEG with another's tables makes of an image."""
    file = io.BytesIO()
    sampling = JpegImagePlugin.get_sampling(like)
    image.convert(like.mode).save(
        file, "JPEG", qtables=like.quantization, subsampling=max(sampling, 0)
    )
    return open_image(file.getvalue()).image
