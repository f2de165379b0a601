"""The id of an image: what was asked for, and of which checkpoint; its entity tags: which bytes.

An id holds the parameters themselves and the beginning of the checkpoint's digest, and is short
enough for a path; with a prompt that is too long for that, there is none. So the server keeps no
list: it draws again what an id stands for, also after a restart. One request has one id on every
machine. On another machine, or with another library or
version of this service, rounding may differ, and so may the picture's last bits; the entity tag
shows that.
"""

import base64
import binascii
import functools
import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec
from PIL import features

from app.engine.job import MAX_GUIDANCE_SCALE, MAX_SEED, MAX_STEPS, SamplingParams
from app.engine.model_info import ModelInfo
from app.errors import UnknownImage
from models.conditioning import Condition, Prompt
from models.sampling import DEFAULT_SAMPLER, DEFAULT_SPACING, SAMPLERS

_DIGEST_BYTES = 8
# Characters. Two headers name it, and a proxy's buffer for all headers may have 4 KiB (nginx).
MAX_ID = 1024


class _Asked(msgspec.Struct, frozen=True, array_like=True):
    """What an id holds. The last fields were added later, and are left out where they are usual."""

    seed: int
    steps: int
    subject: int | tuple[str, str, int] | None  # a class, or a prompt as `Prompt` has it
    scale: float
    eta: float
    start: float
    end: float
    sampler: str = DEFAULT_SAMPLER
    spacing: str = DEFAULT_SPACING
    width: int = 0  # 0: the model's own size
    height: int = 0


def image_id(params: SamplingParams, image: int, info: ModelInfo) -> str | None:
    """The id of image 0..n-1 of a request; None if it would be too long for an address.

    URL-safe base64: some 20 to 80 characters, and of prompts four for three bytes.
    """
    return id_of(params, image, info.digest, own_size=has_own_size(params, info))


def has_own_size(params: SamplingParams, info: ModelInfo) -> bool:
    """Whether a request is for images of the model's own size."""
    return (params.width, params.height) == (info.sizes.width, info.sizes.height)


def id_of(params: SamplingParams, image: int, digest: str, *, own_size: bool) -> str | None:
    """As `image_id`, by what it needs to know of the model, which need not be loaded."""
    start, end = params.guidance_interval
    values: list[object] = [
        params.seed_of(image),
        params.steps,
        _subject(params.condition),
        *map(_short, (params.guidance_scale, params.eta, start, end)),
    ]
    size = (0, 0) if own_size else (params.width, params.height)
    more = [params.sampler, params.spacing, *size]
    if more != [DEFAULT_SAMPLER, DEFAULT_SPACING, 0, 0]:
        values += more
    content = bytes.fromhex(digest)[:_DIGEST_BYTES] + msgspec.msgpack.encode(values)
    name = base64.urlsafe_b64encode(content).rstrip(b"=").decode()
    return name if len(name) <= MAX_ID else None


def _subject(condition: Condition) -> int | tuple[str, str, int] | None:
    prompt = condition.prompt
    return (prompt.text, prompt.negative, prompt.clip_skip) if prompt else condition.index


def params_of(name: str, models: Mapping[str, ModelInfo]) -> SamplingParams:
    """The parameters of the image with this id.

    Raises:
        UnknownImage: no loaded model made it, or it is no id of ours.
    """
    unknown = UnknownImage(f"no loaded model makes an image with the id {name[:80]!r}")
    try:
        content = base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_", validate=True)
        asked = msgspec.msgpack.decode(content[_DIGEST_BYTES:], type=_Asked)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise unknown from error
    prefix = content[:_DIGEST_BYTES].hex()
    for info in models.values():
        params = _params(asked, info) if info.digest.startswith(prefix) else None
        if params is not None and image_id(params, 0, info) == name:
            return params
    raise unknown


def _params(asked: _Asked, info: ModelInfo) -> SamplingParams | None:
    """What an id asks of a model; None if a request could not."""
    if isinstance(asked.subject, tuple):
        condition = Condition(prompt=Prompt(*asked.subject))
    else:
        condition = Condition(asked.subject)
    allowed = (
        0 <= asked.seed <= MAX_SEED
        and 1 <= asked.steps <= min(MAX_STEPS, info.max_steps)
        and info.takes.knows(condition)
        and 0 <= asked.scale <= MAX_GUIDANCE_SCALE
        and 0 <= asked.eta <= 1
        and 0 <= asked.start <= asked.end <= 1
        and asked.sampler in info.samplers
        and asked.spacing in SAMPLERS[asked.sampler].spacings
    )
    if not allowed:
        return None
    width, height = asked.width or info.sizes.width, asked.height or info.sizes.height
    try:
        info.sizes.check(width, height)
    except ValueError:
        return None
    params = SamplingParams(
        model=info.name,
        condition=condition,
        steps=asked.steps,
        guidance_scale=asked.scale,
        guidance_interval=(asked.start, asked.end),
        eta=asked.eta,
        seed=asked.seed,
        n=1,
        width=width,
        height=height,
        sampler=asked.sampler,
        spacing=asked.spacing,
    )
    return params.canonical(info)


def _short(value: float) -> float:
    """A whole number takes one byte, where a fraction takes nine."""
    return int(value) if value.is_integer() else value


def entity_tag(params: SamplingParams, info: ModelInfo, media_type: str, *, marked: bool) -> str:
    """An entity tag (RFC 9110, 8.8.3) of a representation, without making it.

    Strong if the engine found its pixels to be the same whatever shares the batch, which is known
    of the model's own size.
    """
    pixels = (params, info.digest, info.backend, info.device, info.dtype, info.platform)
    what = (pixels, media_type, marked, _encoders(), _source())
    digest = hashlib.sha256(repr(what).encode()).hexdigest()[:32]
    return f'"{digest}"' if info.exact and has_own_size(params, info) else f'W/"{digest}"'


@functools.cache
def _encoders() -> tuple[str | None, ...]:
    """Versions of what makes files and JSON of pixels."""
    codecs = (features.version(name) for name in ("zlib", "jpg", "webp"))
    return (version("pillow"), version("pydantic"), *codecs)


@functools.cache
def _source() -> str:
    """SHA-256 of the code that makes pixels and files: its version need not change when it does."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    paths = [*root.glob("app/**/*.py"), *root.glob("models/**/*.py")]
    for path in sorted(set(paths) - set(root.glob("models/training/*.py"))):  # which makes none
        name, content = path.relative_to(root).as_posix(), path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
