"""Stable Diffusion 1.5 and SDXL in true shape, with random weights."""

from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device.findings import Setting
from benchmarks.device.large_model import SMALL_VAE, VAE, filled
from benchmarks.device.precision import Precision
from models.checkpoint import Checkpoint, decoder_dtype
from models.conditional_unet import UNet2DCondition
from models.conditioning import Classes
from models.config import AutoencoderKLConfig, DDIMConfig, UNet2DConditionConfig
from models.pipeline import LatentDiffusion
from models.schedulers import SchedulerConfig
from models.text.clip import CLIPTextEncoder
from models.text.config import CLIPTextConfig
from models.text.prompts import PromptEncoder, Reader
from models.text.tokenizer import Tokenizer
from models.vae import AutoencoderKL

TOKENS = 77
_SCHEDULE = SchedulerConfig.of(
    DDIMConfig(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
)
_CROSSED, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
_UP = {_CROSSED: "CrossAttnUpBlock2D", _PLAIN: "UpBlock2D"}
_CLIP_L = CLIPTextConfig(
    hidden_size=768, intermediate_size=3072, projection_dim=768, num_attention_heads=12
)
_BIG_G = CLIPTextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    projection_dim=1280,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
)


@dataclass(frozen=True)
class Family:
    """A model at the size of images that it was made for; `small` has the same parts."""

    name: str
    unet: UNet2DConditionConfig
    small: UNet2DConditionConfig
    texts: tuple[CLIPTextConfig, ...]
    force_upcast: bool = False  # of the VAE

    def config(self, setting: Setting) -> UNet2DConditionConfig:
        """Of the UNet."""
        return self.small if setting.small else self.unet

    def vae(self, setting: Setting) -> AutoencoderKLConfig:
        """Of the VAE."""
        return replace(SMALL_VAE if setting.small else VAE, force_upcast=self.force_upcast)

    def encoders(self, setting: Setting) -> list[CLIPTextConfig]:
        """Of the texts."""
        if not setting.small:
            return list(self.texts)
        small = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}
        return [
            replace(text, num_hidden_layers=2, num_attention_heads=4, **small)
            for text in self.texts
        ]


def _unet(*down: str, **more: object) -> UNet2DConditionConfig:
    """A UNet with these blocks on its way down, and as many on its way up."""
    up = tuple(_UP[block] for block in reversed(down))
    return UNet2DConditionConfig(down_block_types=down, up_block_types=up, **more)  # type: ignore[arg-type]


FAMILIES = (
    Family(
        "1.5 at 512 x 512",
        _unet(_CROSSED, _CROSSED, _CROSSED, _PLAIN, sample_size=64, cross_attention_dim=768),
        _unet(
            _CROSSED,
            _PLAIN,
            sample_size=8,
            block_out_channels=(32, 64),
            cross_attention_dim=32,
            attention_head_dim=4,
        ),
        (_CLIP_L,),
    ),
    Family(
        "SDXL at 1024 x 1024",
        _unet(
            _PLAIN,
            _CROSSED,
            _CROSSED,
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        _unet(
            _PLAIN,
            _CROSSED,
            sample_size=8,
            block_out_channels=(32, 64),
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,
        ),
        (_CLIP_L, _BIG_G),
        force_upcast=True,
    ),
)


def prompt_model(family: Family, setting: Setting, precision: Precision) -> LatentDiffusion:
    """The whole model, for the engine."""
    with torch.device("meta"):
        unet = UNet2DCondition(family.config(setting))
        vae = AutoencoderKL(family.vae(setting))
        encoders = [
            CLIPTextEncoder(text, projected=k > 0)
            for k, text in enumerate(family.encoders(setting))
        ]
    readers = [
        Reader(Tokenizer.shipped("!" if k else "<|endoftext|>"), filled(one, setting, precision))
        for k, one in enumerate(encoders)
    ]
    decoding = replace(precision, dtype=decoder_dtype(vae.config, precision.dtype))
    checkpoint = Checkpoint(
        filled(vae, setting, decoding),
        filled(unet, setting, precision),
        _SCHEDULE,
        Classes(),
        guidance_scale=7.5,
        reader=PromptEncoder(*readers),
        zeros=len(readers) > 1,
    )
    return LatentDiffusion(checkpoint, tf32=precision.tf32)


def unet_and_inputs(
    family: Family, setting: Setting, precision: Precision, rows: int
) -> tuple[UNet2DCondition, tuple[Tensor | None, ...]]:
    """The UNet alone, and what so many rows of a step give it."""
    config = family.config(setting)
    with torch.device("meta"):
        unet = UNet2DCondition(config)
    draw = partial(torch.randn, device=setting.on, dtype=precision.dtype)
    width = config.projection_class_embeddings_input_dim
    inputs = (
        draw(rows, config.in_channels, *config.latent_size),
        torch.arange(rows, device=setting.on) * 11 % 1000,
        draw(rows, TOKENS, config.cross_attention_dim),
        draw(rows, width) if width else None,
    )
    return filled(unet, setting, precision), inputs


@cache
def flops_per_row(family: Family, setting: Setting) -> float:
    """Floating-point operations of one row; attention counts as the products it is made of."""
    config = family.config(setting)
    with torch.device("meta"):
        unet, t = UNet2DCondition(config), torch.zeros(1)
        x = torch.empty(1, config.in_channels, *config.latent_size)
        context = torch.empty(1, TOKENS, config.cross_attention_dim)
        width = config.projection_class_embeddings_input_dim
        added = torch.empty(1, width) if width else None
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        unet(x, t, context, added)
    return float(counter.get_total_flops())
