"""The id of an image: all that its pixels depend on, short enough for a path.

An id holds the parameters themselves and the beginning of the checkpoint's digest, so the server
keeps no list: it draws again what an id stands for, today or after a restart. One image has one id.
"""

import base64
import binascii
import functools
import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import msgspec

from app.engine.job import (
    MAX_GUIDANCE_SCALE,
    MAX_SEED,
    MAX_STEPS,
    ModelInfo,
    Params,
)
from app.errors import UnknownImage

_DIGEST_BYTES = 8


def image_id(params: Params, image: int, info: ModelInfo) -> str:
    """The id of image 0..n-1 of a request, URL-safe base64 of some 20 to 60 characters."""
    start, end = params.guidance_interval
    seed, scale, eta = params.seed_of(image), params.guidance_scale, params.eta
    values = [seed, params.steps, params.class_index, scale, eta, start, end]
    short = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    content = bytes.fromhex(info.digest)[:_DIGEST_BYTES] + msgspec.msgpack.encode(short)
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def params_of(name: str, models: Mapping[str, ModelInfo]) -> Params:
    """The parameters of the image with this id.

    Raises:
        UnknownImage: no loaded model made it, or it is no id of ours.
    """
    unknown = UnknownImage(f"no loaded model makes an image {name[:80]!r}")
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
            params = Params(info.name, class_index, steps, scale, (start, end), eta, seed, 1)
            if image_id(params.canonical(info), 0, info) == name:
                return params.canonical(info)
    raise unknown


def entity_tag(params: Params, info: ModelInfo, media_type: str, *, marked: bool) -> str:
    """An entity tag (RFC 9110, 8.8.3) of a representation, without making it.

    Strong where the engine found its pixels to be the same bytes whatever shares the batch.
    """
    what = (params, info.digest, info.backend, info.device, info.dtype, media_type, marked)
    digest = hashlib.sha256(repr((what, _versions())).encode()).hexdigest()[:32]
    return f'"{digest}"' if info.exact else f'W/"{digest}"'


@functools.cache
def _versions() -> tuple[str, ...]:
    """Of what makes pixels and files; empty where it is not installed."""
    found = []
    for package in ("darkroom", "openvino", "pillow", "torch"):
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("")
    return tuple(found)
