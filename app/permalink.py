"""The id of an image: what was asked for, and of which checkpoint; its entity tags: which bytes.

An id holds the parameters themselves and the beginning of the checkpoint's digest, and is short
enough for a path. So the server keeps no list: it draws again what an id stands for, also after a
restart. One request has one id on every machine. On another machine, or with another library or
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

_DIGEST_BYTES = 8


def image_id(params: SamplingParams, image: int, info: ModelInfo) -> str:
    """The id of image 0..n-1 of a request, URL-safe base64 of some 20 to 60 characters."""
    start, end = params.guidance_interval
    seed, scale, eta = params.seed_of(image), params.guidance_scale, params.eta
    values = [seed, params.steps, params.class_index, scale, eta, start, end]
    short = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    content = bytes.fromhex(info.digest)[:_DIGEST_BYTES] + msgspec.msgpack.encode(short)
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def params_of(name: str, models: Mapping[str, ModelInfo]) -> SamplingParams:
    """The parameters of the image with this id.

    Raises:
        UnknownImage: no loaded model made it, or it is no id of ours.
    """
    unknown = UnknownImage(f"no loaded model makes an image with the id {name[:80]!r}")
    try:
        content = base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_", validate=True)
        values = msgspec.msgpack.decode(
            content[_DIGEST_BYTES:],
            type=tuple[int, int, int | None, float, float, float, float],
        )
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise unknown from error
    seed, steps, class_index, scale, eta, start, end = values
    prefix = content[:_DIGEST_BYTES].hex()
    for info in models.values():
        allowed = (
            info.digest.startswith(prefix)
            and 0 <= seed <= MAX_SEED
            and 1 <= steps <= min(MAX_STEPS, info.max_steps)
            and (info.class_optional if class_index is None else class_index in info.indices)
            and 0 <= scale <= MAX_GUIDANCE_SCALE
            and 0 <= eta <= 1
            and 0 <= start <= end <= 1
        )
        if allowed:
            params = SamplingParams(
                info.name, class_index, steps, scale, (start, end), eta, seed, 1
            )
            if image_id(params.canonical(info), 0, info) == name:
                return params.canonical(info)
    raise unknown


def entity_tag(params: SamplingParams, info: ModelInfo, media_type: str, *, marked: bool) -> str:
    """An entity tag (RFC 9110, 8.8.3) of a representation, without making it.

    Strong if the engine found its pixels to be the same whatever shares the batch.
    """
    pixels = (params, info.digest, info.backend, info.device, info.dtype, info.platform)
    what = (pixels, media_type, marked, _encoders(), _source())
    digest = hashlib.sha256(repr(what).encode()).hexdigest()[:32]
    return f'"{digest}"' if info.exact else f'W/"{digest}"'


@functools.cache
def _encoders() -> tuple[str | None, ...]:
    """Versions of what makes files and JSON of pixels."""
    codecs = (features.version(name) for name in ("zlib", "jpg", "webp"))
    return (version("pillow"), version("pydantic"), *codecs)


@functools.cache
def _source() -> str:
    """SHA-256 of the code that makes pixels and files: its version need not change when it does."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    paths = [*root.glob("app/**/*.py"), *root.glob("models/*.py")]  # training makes none
    for path in sorted(paths):
        name, content = path.relative_to(root).as_posix(), path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
