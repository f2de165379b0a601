"""Which family a single file is of, and where its parts are, by the names and shapes it has."""

from collections.abc import Iterable
from dataclasses import dataclass

from models.original.families import SD1, SD2, SDXL, Family
from models.original.kinds import parts, seems
from models.original.shapes import Shapes
from models.original.text import clip_width
from models.tensor_file import TensorFile

UNET = "model.diffusion_model."
VAES = ("first_stage_model.", "vae.")
_CLIP, _OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
_XL = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
_SGM = "conditioner.embedders.0.model."  # SD-Turbo, and the refiner of SDXL
_ADDED = f"{UNET}label_emb."
_ALLOWED = (
    "allowed: a whole Stable Diffusion 1.x, 2.x or SDXL base in the original layout: UNet, VAE, "
    "text encoders"
)


@dataclass(frozen=True)
class Text:
    """Where a text encoder is in a file, and by whose names."""

    prefix: str
    open_clip: bool = False
    activation: str = "quick_gelu"  # OpenAI's; OpenCLIP's is gelu


@dataclass(frozen=True)
class Told:
    """A family, and where its parts are."""

    family: Family
    vae: str  # what its names begin with
    texts: tuple[Text, ...]

    @property
    def turbo(self) -> bool:
        """Whether it is SD-Turbo, the only 2.x in the layout of SDXL."""
        return self.texts[0].prefix == _SGM


def tell(file: TensorFile) -> Told:
    """The family of a file; raises `ValueError` that says what another file seems to be."""
    names = file.entries.keys()
    if what := seems(names):
        raise ValueError(f"seems to be {what}; {_ALLOWED}")
    vae = next((before for before in VAES if _any(names, f"{before}decoder.")), None)
    found = _texts(file)
    if found is None or vae is None or not _any(names, f"{UNET}input_blocks."):
        raise ValueError(f"seems to be {parts(names)}; {_ALLOWED}")
    family, texts = found
    if (family is SDXL) != _any(names, f"{_ADDED}0.0."):
        refiner = texts[0].prefix == _SGM
        what = "the refiner of SDXL" if refiner else "a relative of it with another added condition"
        raise ValueError(f"seems to be {what}; {_ALLOWED}")
    return Told(family, vae, texts)


def within(file: TensorFile, prefix: str) -> Shapes:
    """The shapes of one part of a file, by names without their prefix."""
    shapes = {
        name.removeprefix(prefix): entry.shape
        for name, entry in file.entries.items()
        if name.startswith(prefix)
    }
    return Shapes(shapes, prefix)


def _texts(file: TensorFile) -> tuple[Family, tuple[Text, ...]] | None:
    names = file.entries.keys()
    if all(_any(names, prefix) for prefix in _XL):
        return SDXL, (Text(_XL[0]), Text(_XL[1], open_clip=True))
    for prefix in (_OPEN_CLIP, _SGM):
        if _any(names, prefix):
            return SD2, (Text(prefix, open_clip=True),)
    if _any(names, _CLIP):
        # OpenCLIP's encoder by transformers' names, as some tools write it, is known by its width.
        wide = clip_width(within(file, _CLIP)) == SD2.text_width
        if wide:
            return SD2, (Text(_CLIP, activation="gelu"),)
        return SD1, (Text(_CLIP),)
    return None


def _any(names: Iterable[str], before: str) -> bool:
    return any(name.startswith(before) for name in names)
