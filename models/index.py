"""`model_index.json`: the components of a model folder, its classes, guidance and image sizes."""

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
_KNOWN = {"vae": "AutoencoderKL", "unet": "UNet2DModel", "scheduler": "DDIMScheduler"}
_LDM_VAE = "vqvae"  # what diffusers' LDMPipeline calls its autoencoder, of whatever class


@dataclass(frozen=True)
class ModelIndex:
    """What `model_index.json` says besides the list of components."""

    classes: tuple[str, ...] = ()
    guidance_scale: float = 1.0
    vae: str = "vae"  # the component, and its folder
    sides: tuple[int, int] | None = None  # of images, the least and the most; the own size if None

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
        vae = _LDM_VAE if _class(values, "vae") is None and _class(values, _LDM_VAE) else "vae"
        try:
            for component, known in _KNOWN.items():
                given = vae if component == "vae" else component
                check_class(given, _class(values, given), known)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error
        scale = values.get("guidance_scale", 1.0)
        if type(scale) not in (int, float) or not 0 <= scale <= MAX_GUIDANCE_SCALE:
            raise ConfigError(
                f"{path}: guidance_scale is {brief(scale)}; "
                f"allowed: a number from 0 to {MAX_GUIDANCE_SCALE}"
            )
        sides = values.get("image_sides")
        try:
            check("image_sides", sides, Annotated[tuple[Side, ...], Length(2, 2)] | None)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error
        try:
            labels = values.get("id2label")
            names = () if labels is None else _names(labels)
            return cls(names, float(scale), vae, None if sides is None else (sides[0], sides[1]))
        except ValueError as error:
            raise ConfigError(f"{path}: id2label {error}") from error

    def write(self, folder: Path) -> None:
        """Write `model_index.json`."""
        values: dict[str, Any] = {"_class_name": "LatentDiffusion"}
        values |= {name: ["diffusers", known] for name, known in _KNOWN.items()}
        values["id2label"] = {str(i): name for i, name in enumerate(self.classes)}
        values["guidance_scale"] = self.guidance_scale
        if self.sides is not None:
            values["image_sides"] = list(self.sides)
        write_json(folder / INDEX, values)


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
