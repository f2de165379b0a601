"""A whole Stable Diffusion in one `.safetensors` file, in the layout it was trained in.

The file has tensors and no configurations: those are read from its shapes, and what no shape tells
from the family (models/original/families.py). Names and configurations are given as a folder of
diffusers would have them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.bounds import brief
from models.files import CheckpointError
from models.original.families import Family, Training
from models.original.prediction import predicts
from models.original.shapes import Source
from models.original.telling import UNET, Text, Told, tell, within
from models.original.text import clip_config, clip_names, open_clip_config, open_clip_names
from models.original.unet import unet_config, unet_names
from models.original.vae import vae_config, vae_names
from models.sampling import Prediction
from models.stored import Stored, check_tensors, read_tensors
from models.tensor_file import Entry, TensorFile

_MARKS = ("v_pred", "ztsnr")  # empty tensors that say how the UNet was trained
_INPAINTS = 9  # input channels: latents, masked latents, mask
_IN_CHANNELS = {4: "", _INPAINTS: "", 5: "depth", 7: "upscaling", 8: "editing by instruction"}
_SHOWN = 4  # kinds of tensors in a note


@dataclass(frozen=True)
class Component:
    """A network of a file: its configuration as a folder has it, and its tensors by that name."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Raise `CheckpointError` unless `read` finds what is expected; no data is read."""
        check_tensors(self.path, self.tensors, expected)

    def read(
        self, expected: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Exactly the tensors that are expected; raises `CheckpointError` as `read_tensors`."""
        return read_tensors(self.path, self.tensors, expected, device, dtype)

    def entries(self) -> list[Entry]:
        """What the header says of each tensor; raises `CheckpointError` as `TensorFile.open`."""
        file = TensorFile.open(self.path)
        return [file.part(stored.name, stored.part) for stored in self.tensors.values()]


@dataclass(frozen=True)
class SingleFile:
    """An opened file: header and configurations, no weights yet."""

    path: Path
    family: str  # "SD 1.x", "SD 2.x" or "SDXL"
    prediction_type: Prediction
    components: Mapping[str, Component]  # unet, vae, text_encoder, and SDXL's text_encoder_2
    scheduler: Mapping[str, Any]  # scheduler_config.json
    tokenizers: Mapping[str, Mapping[str, Any]]  # tokenizer_config.json of tokenizer, tokenizer_2
    index: Mapping[str, Any]  # model_index.json
    notes: tuple[str, ...] = ()  # lines for the user: what was assumed, or passed over

    @classmethod
    def open(cls, path: Path, prediction_type: Prediction | None = None) -> "SingleFile":
        """Tell a file's family and find its components; weights are read later, by component.

        Args:
            path: the file, or a link to it.
            prediction_type: what the UNet predicts, where its user knows better than the file.

        Raises:
            CheckpointError: no safetensors file, or not a whole one, or no Stable Diffusion 1.x,
                2.x or SDXL base with all of its parts; the message says what it seems to be.
        """
        file = TensorFile.open(path)
        try:
            return _opened(file, tell(file), prediction_type)
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error


def _opened(file: TensorFile, told: Told, asked: Prediction | None) -> SingleFile:
    family = told.family
    encoders = [_text(file, text, projected=i > 0) for i, text in enumerate(told.texts)]
    unet = _unet(file, family, [encoder.config for encoder in encoders])
    training = _training(file, told, unet.config)
    prediction, guessed = (asked, None) if asked else predicts(file, family, training)
    side = family.pixels_v if prediction == "v_prediction" else family.pixels
    vae = _vae(file, told, side)
    of_latents = side // 2 ** (len(vae.config["block_out_channels"]) - 1)
    unet = replace(unet, config={**unet.config, "sample_size": of_latents})
    names = ("text_encoder", "text_encoder_2")
    scheduler = family.scheduler(prediction, training)
    index = family.folder(len(encoders), inpaints=training.inpaints)
    notes = [*_unlike(family, unet.config), *_passed(file, told), *([guessed] if guessed else [])]
    return SingleFile(
        path=file.path,
        family=family.name,
        prediction_type=prediction,
        components={"unet": unet, "vae": vae, **dict(zip(names, encoders, strict=False))},
        scheduler=scheduler,
        tokenizers=family.tokenizers(),
        index={**index, "scheduler": ["diffusers", scheduler["_class_name"]]},
        notes=tuple(f"{file.path.name}: {note}" for note in notes),
    )


def _unet(file: TensorFile, family: Family, texts: list[Mapping[str, Any]]) -> Component:
    shapes, pooled = within(file, UNET), texts[-1]["projection_dim"]
    config = unet_config(shapes, many_heads=family.many_heads, pooled=pooled)
    config["upcast_attention"] = family.upcast_attention
    _check_parts(config, [text["hidden_size"] for text in texts])
    return _component(file, UNET, unet_names(shapes), config)


def _vae(file: TensorFile, told: Told, side: int) -> Component:
    shapes, factor = within(file, told.vae), told.family.scaling_factor
    config = vae_config(shapes, scaling_factor=factor, sample_size=side)
    return _component(file, told.vae, vae_names(shapes), {**config, **told.family.vae})


def _training(file: TensorFile, told: Told, unet: Mapping[str, Any]) -> Training:
    return Training(
        zero_snr="ztsnr" in file.entries,
        turbo=told.turbo,
        consistent="time_cond_proj_dim" in unet,
        inpaints=unet["in_channels"] == _INPAINTS,
    )


def _text(file: TensorFile, text: Text, *, projected: bool) -> Component:
    shapes = within(file, text.prefix)
    if text.open_clip:
        names = open_clip_names(shapes, projected=projected)
        config = open_clip_config(shapes, projected=projected)
    else:
        names, config = clip_names(shapes), clip_config(shapes, text.activation)
    return _component(file, text.prefix, names, config)


def _component(
    file: TensorFile, prefix: str, names: Mapping[str, Source], config: dict[str, Any]
) -> Component:
    tensors = {
        name: Stored(file.path, prefix + source.name, source.part, source.transposed)
        for name, source in names.items()
    }
    return Component(file.path, config, tensors)


def _check_parts(unet: Mapping[str, Any], widths: list[int]) -> None:
    """Raise `ValueError` for a UNet of another task, or of other texts than are encoded."""
    channels, read = unet["in_channels"], unet["cross_attention_dim"]
    if channels not in _IN_CHANNELS or _IN_CHANNELS[channels]:
        task = _IN_CHANNELS.get(channels)
        raise ValueError(
            f"its UNet has in_channels {channels}{f' (a model for {task})' if task else ''}; "
            f"allowed: 4, or {_INPAINTS} for inpainting"
        )
    if read != sum(widths):
        raise ValueError(
            f"its UNet reads texts of width {read}; its text encoders make {sum(widths)}"
        )


def _unlike(family: Family, unet: Mapping[str, Any]) -> list[str]:
    """A note on a UNet that is of no published size, as its heads cannot be told by shape."""
    widths, text = tuple(unet["block_out_channels"]), unet["cross_attention_dim"]
    if (widths, text) == (family.widths, family.text_width):
        return []
    return [
        f"widths {brief(widths)} and texts of {text} are those of no published {family.name}; "
        f"heads are assumed: {brief(unet['attention_head_dim'])}"
    ]


def _passed(file: TensorFile, told: Told) -> list[str]:
    """A note on tensors that belong to no component, such as moving averages and schedules."""
    own = (UNET, told.vae, *(text.prefix for text in told.texts))
    kinds = Counter(
        name.partition(".")[0]
        for name in file.entries
        if not name.startswith(own) and name not in _MARKS
    )
    if not kinds:
        return []
    shown = ", ".join(f"{count} of {brief(kind)}" for kind, count in kinds.most_common(_SHOWN))
    more = "" if len(kinds) <= _SHOWN else f" and {len(kinds) - _SHOWN} other kinds"
    return [f"tensors passed over: {shown}{more}"]
