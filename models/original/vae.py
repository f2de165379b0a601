"""The autoencoder of CompVis' latent diffusion, as diffusers names it.

Source of the names: `ldm/modules/diffusionmodules/model.py` of CompVis/stable-diffusion.
"""

import re
from typing import Any

from models.original.shapes import Shapes, Source, count, side, unique

# Training's own, which no image needs.
_PASSED = re.compile(r"(loss|model_ema|epoch|global_step)\b.*", re.ASCII)
_LEVEL = re.compile(
    r"(encoder\.down|decoder\.up)\.(\d{1,2})\.(block|downsample|upsample)\.(.+)", re.ASCII
)
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_REPLACED = (
    (".mid.block_1.", ".mid_block.resnets.0."),
    (".mid.block_2.", ".mid_block.resnets.1."),
    (".mid.attn_1.", ".mid_block.attentions.0."),
    (".norm_out.", ".conv_norm_out."),
    (".nin_shortcut.", ".conv_shortcut."),
)


def vae_names(shapes: Shapes) -> dict[str, Source]:
    """Names of diffusers -> the stored tensors; one that has no place keeps its name."""
    levels = count(shapes, "decoder.up.")
    return unique(
        (_present(name, levels), Source(name)) for name in shapes if not _PASSED.fullmatch(name)
    )


def vae_config(shapes: Shapes, *, scaling_factor: float, sample_size: int) -> dict[str, Any]:
    """The configuration of an `AutoencoderKL`, as far as shapes tell it.

    Args:
        shapes: of the stored tensors.
        scaling_factor, sample_size: which no shape tells.

    Raises:
        ValueError: a tensor that tells a width is missing.
    """
    levels = count(shapes, "encoder.down.")
    widths = [side(shapes, f"encoder.down.{i}.block.0.conv1.weight", 0) for i in range(levels)]
    config = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": side(shapes, "encoder.conv_in.weight", 1),
        "latent_channels": side(shapes, "decoder.conv_in.weight", 1),
        "layers_per_block": count(shapes, "encoder.down.0.block."),
        "norm_num_groups": 32,
        "out_channels": side(shapes, "decoder.conv_out.weight", 0),
        "sample_size": sample_size,
        "scaling_factor": scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    present = {
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": "decoder.mid.attn_1.norm.weight" in shapes,
    }
    return config | {key: False for key, there in present.items() if not there}


def _present(name: str, levels: int) -> str:
    if match := _LEVEL.fullmatch(name):
        way, number, kind, rest = match[1], int(match[2]), match[3], match[4]
        number = number if way == "encoder.down" else levels - 1 - number
        inside = f"resnets.{rest}" if kind == "block" else f"{kind}rs.0.{rest}"
        name = f"{way}_blocks.{number}.{inside}"
    for old, new in _REPLACED:
        name = name.replace(old, new)
    head, _, kind = name.rpartition(".")
    block, _, layer = head.rpartition(".")
    if ".attentions." in name and layer in _ATTENTION:
        return f"{block}.{_ATTENTION[layer]}.{kind}"
    return name
