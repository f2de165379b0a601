"""Tiny Stable Diffusions with random weights, as diffusers saves them, and what it draws of them.

Structure, scheduler, tokenizer and vocabulary are those of the published repositories.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from models.text.shipped import shipped_vocabulary
from tests.models.diffusing import CLASSES, SETTLED
from tests.models.original import Whole, whole, write
from tests.models.test_clip import Old
from tests.models.test_tokenizer import DECODER, NEW_CONFIG, OLD_CONFIG, OLD_SPECIAL
from tests.models.wording import write_tokenizer

SIDE = 64  # pixels of an image of their own size
PROMPTS = (
    "a photo of a cat, by Vermeer",
    "eine Straße in München bei Regen",
    "雪中的竹林和一只猫",
    "🐱🚀✨",
)
NEGATIVE = "blurry, low quality, unscharf"
Files = Mapping[str, Any]  # of a tokenizer: name -> JSON

_PUBLISHED = json.loads((Path(__file__).parent / "models/scheduler_configs.json").read_text())
_IDS = ("0", "49406", "49407")  # of `!`, the first and the last token
_SPECIAL = dict(zip(_IDS, NEW_CONFIG[DECODER].values(), strict=True))
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_OLD: Files = {"tokenizer_config": OLD_CONFIG, "special_tokens_map": OLD_SPECIAL}
# Its files disagree; the map decides.
_OF_2: Files = {**_OLD, "special_tokens_map": OLD_SPECIAL | {"pad_token": "!"}}
_OF_XL: tuple[Files, ...] = (
    {
        "tokenizer_config": NEW_CONFIG
        | {DECODER: {i: _SPECIAL[i] for i in _IDS[1:]}, "pad_token": "<|endoftext|>"}
    },
    {"tokenizer_config": NEW_CONFIG | {DECODER: _SPECIAL}},
)


@dataclass(frozen=True)
class Shape:
    """One of the families: what its repository has, beside widths."""

    family: str  # of tests/models/original.py
    published: str  # the scheduler, in scheduler_configs.json
    tokenizers: tuple[Files, ...] = (_OLD,)
    scheduler: Mapping[str, Any] = field(default_factory=dict)  # what its file says otherwise
    unet: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()  # empty tensors, which tell a single file's prediction

    @property
    def scheduler_file(self) -> dict[str, Any]:
        """Only the keys that the published file has; diffusers would write all of them."""
        return {**_PUBLISHED[self.published]["config"], **self.scheduler}


SHAPES = {
    "1.5": Shape("1.x", "Stable Diffusion 1.5"),
    "2.1": Shape("2.x", "Stable Diffusion 2.1", (_OF_2,), _ZERO_SNR, marks=("v_pred", "ztsnr")),
    "SDXL": Shape("SDXL", "SDXL base", _OF_XL),
    "inpainting": Shape("1.x", "Stable Diffusion 1.5 inpainting", unet={"in_channels": 9}),
    "LCM": Shape("1.x", "LCM of Stable Diffusion", unet={"time_cond_proj_dim": 256}),
}
DRAWN = ("1.5", "2.1", "SDXL")


def networks(name: str) -> Whole:
    """The networks of a family; as large a part of what they predict is the text's as in life."""
    torch.manual_seed(0)
    made = whole(SHAPES[name].family, vocab_size=49_408, **SHAPES[name].unet)
    unet = made.networks["unet"]
    with torch.no_grad():
        unet.conv_out.weight *= 3  # else its output deviates by 0.3 and not 1
        for layer, weight in unet.named_parameters():
            if layer.endswith("attn2.to_v.weight"):
                weight *= 4
    unet.register_to_config(sample_size=SIDE // 8)
    return made


def save(name: str, folder: Path) -> Path:
    """Write a model folder by `save_pretrained`, its tokenizer in the form of its repository.

    That of 1.5 is left as transformers 5 writes it.
    """
    shape, made = SHAPES[name], networks(name).networks
    places = [folder / place for place in ("tokenizer", "tokenizer_2")[: len(shape.tokenizers)]]
    for place, files in zip(places, shape.tokenizers, strict=True):
        write_tokenizer(place, shipped_vocabulary, **files)
        made[place.name] = CLIPTokenizer.from_pretrained(place)
        shutil.rmtree(place)
    kind = getattr(diffusers, shape.scheduler_file["_class_name"])
    scheduler = kind.from_config(shape.scheduler_file)
    _pipeline(shape, **made, scheduler=scheduler).save_pretrained(folder)
    if name != "1.5":
        for place, files in zip(places, shape.tokenizers, strict=True):
            shutil.rmtree(place)
            write_tokenizer(place, shipped_vocabulary, **files)
    return folder


def save_file(name: str, path: Path) -> Path:
    """Write the same weights as one file, in the original layout."""
    marks = {mark: torch.empty(0) for mark in SHAPES[name].marks}
    return write(path, networks(name).tensors() | marks)


def _pipeline(shape: Shape, **parts: Any) -> Any:
    if shape.family == "SDXL":
        return diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    kind = "StableDiffusion" + ("InpaintPipeline" if "in_channels" in shape.unet else "Pipeline")
    return getattr(diffusers, kind)(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def opened(folder: Path) -> Any:
    """diffusers' pipeline of a folder."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if not hasattr(pipeline, "text_encoder_2"):  # for `clip_skip`
        encoder = Old(pipeline.text_encoder.config).eval()
        encoder.load_state_dict(pipeline.text_encoder.state_dict())
        pipeline.text_encoder = encoder
    return pipeline


def scheduled(pipeline: Any, sampler: str, **values: Any) -> Any:
    """A scheduler for the pipeline, of the class of one of our samplers, as users swap them."""
    kind = getattr(diffusers, CLASSES[sampler])
    return kind.from_config(pipeline.scheduler.config, **SETTLED.get(sampler, {}), **values)


def first_noise(seed: int, size: tuple[int, int]) -> tuple[Tensor, torch.Generator]:
    """What an image of (width, height) pixels begins from, (4, h, w), and its generator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, size[1] // 8, size[0] // 8, generator=generator), generator


def draw(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    size: tuple[int, int] = (SIDE, SIDE),
    negative: str | None = None,
    **options: Any,
) -> "np.ndarray[Any, Any]":
    """Pixels of diffusers' pipeline, (B, H, W, 3) uint8, each from the noise of its own seed."""
    begun = [first_noise(seed, size) for seed in seeds]
    pictures = pipeline(
        prompt=list(prompts),
        negative_prompt=None if negative is None else [negative] * len(prompts),
        width=size[0],
        height=size[1],
        latents=torch.stack([noise for noise, _ in begun]),
        generator=[generator for _, generator in begun],
        **options,
    ).images
    return np.stack([np.asarray(picture) for picture in pictures])
