"""`model_index.json`: the components of a model folder, its classes, guidance and image sizes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from models.bounds import Length, Range, brief, check
from models.conditioning import MAX_CLASSES, MAX_GUIDANCE_SCALE, class_names
from models.config import ConfigError
from models.files import INDEX as INDEX  # what others know by this file
from models.files import CheckpointError, read_json, write_json
from models.foreign import check_class
from models.sizes import MAX_SIDE

Side = Annotated[int, Range(1, MAX_SIDE)]
_CLASSES, _TEXTS = "UNet2DModel", "UNet2DConditionModel"  # what a UNet reads besides latents
_KNOWN = {"vae": "AutoencoderKL", "unet": _CLASSES, "scheduler": "DDIMScheduler"}
_LDM_VAE = "vqvae"  # what diffusers' LDMPipeline calls its autoencoder, of whatever class
_ENCODER, _PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_SCALES = {0: 1.0, 1: 7.5, 2: 5.0}  # of guidance, by text encoders: diffusers' pipelines' own
_PASSED = ("safety_checker", "feature_extractor", "image_encoder")  # nothing is drawn by them
_FOLDERS = re.compile(r"(text_encoder|tokenizer|unet|vae|vqvae|scheduler)(_\d)?")


@dataclass(frozen=True)
class TextEncoder:
    """The folders of a text encoder and of its tokenizer; whether its pooled text is projected."""

    folder: str
    tokenizer: str
    projected: bool


@dataclass(frozen=True)
class ModelIndex:
    """What `model_index.json` says."""

    classes: tuple[str, ...] = ()
    guidance_scale: float = 1.0
    vae: str = "vae"  # the component, and its folder
    sides: tuple[int, int] | None = None  # of images, the least and the most; the own size if None
    texts: tuple[TextEncoder, ...] = ()  # none where the UNet reads classes, or nothing
    zeros: bool = False  # an absent negative prompt is zeros, and not an empty text
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "ModelIndex":
        """Read the index and check each component's class against the table of what we build.

        Raises:
            CheckpointError: no such folder or file, a component missing or of an unknown class,
                class names or a guidance scale that cannot be.
        """
        path = folder / INDEX
        try:
            values = read_json(path)
        except CheckpointError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                missing = f"{folder}: not a model folder: {INDEX} is missing"
                raise CheckpointError(missing) from error
            raise
        return cls.parse(values, path)

    @classmethod
    def parse(cls, values: Mapping[str, Any], path: Path) -> "ModelIndex":
        """The same of what was read from a file already."""
        try:
            vae = _check_networks(values)
            texts = _texts(values)
            sides = values.get("image_sides")
            check("image_sides", sides, Annotated[tuple[Side, ...], Length(2, 2)] | None)
            return cls(
                classes=_class_names(values),
                guidance_scale=_scale(values, len(texts)),
                vae=vae,
                sides=None if sides is None else (sides[0], sides[1]),
                texts=texts,
                zeros=bool(texts) and _flag(values, "force_zeros_for_empty_prompt"),
                notes=_passed(values) if texts else (),
            )
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error

    def write(self, folder: Path) -> None:
        """Write `model_index.json`, of a model that draws classes or has nothing to choose."""
        values: dict[str, Any] = {"_class_name": "LatentDiffusion"}
        values |= {name: ["diffusers", known] for name, known in _KNOWN.items()}
        values["id2label"] = {str(i): name for i, name in enumerate(self.classes)}
        values["guidance_scale"] = self.guidance_scale
        if self.sides is not None:
            values["image_sides"] = list(self.sides)
        write_json(folder / INDEX, values)


def _check_networks(values: Mapping[str, Any]) -> str:
    """The name of the autoencoder, if UNet, scheduler and it are of classes that are built."""
    vae = _LDM_VAE if _class(values, "vae") is None and _class(values, _LDM_VAE) else "vae"
    check_class(vae, _class(values, vae), _KNOWN["vae"])
    check_class("unet", _class(values, "unet"), _CLASSES, _TEXTS)
    check_class("scheduler", _class(values, "scheduler"), _KNOWN["scheduler"])
    return vae


def _texts(values: Mapping[str, Any]) -> tuple[TextEncoder, ...]:
    """The text encoders that a UNet of texts is given; raises `ValueError`."""
    if _class(values, "unet") != _TEXTS:
        return ()
    texts = []
    for suffix, known in (("", _ENCODER), ("_2", _PROJECTED)):
        folder, tokenizer = f"text_encoder{suffix}", f"tokenizer{suffix}"
        if suffix and _class(values, folder) is None and _class(values, tokenizer) is None:
            continue
        check_class(folder, _class(values, folder), known)
        check_class(tokenizer, _class(values, tokenizer), *_TOKENIZERS)
        texts.append(TextEncoder(folder, tokenizer, projected=known == _PROJECTED))
    return tuple(texts)


def _passed(values: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on components that draw nothing; raises `ValueError` for any that may."""
    others = [
        name
        for name, value in values.items()
        if isinstance(value, list) and len(value) == 2 and value[1] is not None
        if name != "image_sides" and not _FOLDERS.fullmatch(name)
    ]
    for name in others:
        if name not in _PASSED:
            raise ValueError(f"component {brief(name)} is not built; without it, remove the entry")
    return (f"{INDEX}: not used: {', '.join(others)}",) if others else ()


def _scale(values: Mapping[str, Any], texts: int) -> float:
    scale = values.get("guidance_scale", _SCALES[texts])
    if type(scale) not in (int, float) or not 0 <= scale <= MAX_GUIDANCE_SCALE:
        raise ValueError(
            f"guidance_scale is {brief(scale)}; allowed: a number from 0 to {MAX_GUIDANCE_SCALE}"
        )
    return float(scale)


def _flag(values: Mapping[str, Any], key: str) -> bool:
    flag = values.get(key, False)
    if type(flag) is not bool:
        raise ValueError(f"{key} is {brief(flag)}; allowed: true, false")
    return flag


def _class_names(values: Mapping[str, Any]) -> tuple[str, ...]:
    labels = values.get("id2label")
    try:
        return () if labels is None else _names(labels)
    except ValueError as error:
        raise ValueError(f"id2label {error}") from error


def _class(values: Mapping[str, Any], component: str) -> Any:
    """The class of a component, from `[library, class]`; None if it has none."""
    entry = values.get(component)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else entry


def _names(labels: Any) -> tuple[str, ...]:
    """Class names in order of index; raises `ValueError`."""
    if isinstance(labels, Mapping) and len(labels) > MAX_CLASSES:
        raise ValueError(f"has {len(labels)} names; allowed: up to {MAX_CLASSES}")
    if not isinstance(labels, Mapping) or set(labels) != {str(i) for i in range(len(labels))}:
        raise ValueError("must map '0', '1', ... to class names")
    return class_names(labels[str(i)] for i in range(len(labels)))
