"""The UNet of CompVis' latent diffusion and of Stability AI's SGM, as diffusers names it.

Source of the names: `ldm/modules/diffusionmodules/openaimodel.py` of CompVis/stable-diffusion.
"""

import re
from collections import defaultdict
from typing import Any

from models.original.shapes import Shapes, Source, heads, side, unique

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",  # 2 is the dropout
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embedding.cond_proj": "time_embedding.cond_proj",  # of LCMs, as diffusers' script left it
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d{1,3})\.(.+)", re.ASCII)
_TRANSFORMER = re.compile(r"(.+)\.transformer_blocks\.(\d{1,3})\..+", re.ASCII)
_DOWNSAMPLER = re.compile(r"input_blocks\.(\d{1,3})\.0\.op\.weight", re.ASCII)
_GUIDED = "time_embedding.cond_proj.weight"  # how LCMs are told the guidance scale


def unet_names(shapes: Shapes) -> dict[str, Source]:
    """Names of diffusers -> the stored tensors; one that has no place keeps its name."""
    layers, _ = _layout(shapes)
    return unique((_present(name, layers), Source(name)) for name in shapes)


def unet_config(shapes: Shapes, *, many_heads: bool, pooled: int) -> dict[str, Any]:
    """The configuration of a `UNet2DConditionModel`, as far as shapes tell it.

    They do not tell `sample_size` and `upcast_attention`.

    Args:
        shapes: of the stored tensors.
        many_heads: heads of 64 channels each; else 8 heads at every width, as 1.x has them.
        pooled: numbers in a pooled text, which SDXL's added condition has beside six sizes.

    Raises:
        ValueError: a UNet of another structure.
    """
    layers, levels = _layout(shapes)
    first = [f"input_blocks.{level * (layers + 1) + 1}" for level in range(levels)]
    widths = [side(shapes, f"{block}.0.in_layers.2.weight", 0) for block in first]
    depths = _depths(shapes, layers, levels)
    attending = [f"{block}.1" for block, depth in zip(first, depths[:-1], strict=True) if depth]
    attending.append("middle_block.1")
    inner = f"{attending[0]}.transformer_blocks.0.attn2.to_k.weight"
    linear = len(shapes.get(f"{attending[0]}.proj_in.weight", ())) == 2
    # A level that does not attend has a depth as well; the last is the middle's too.
    listed = [depth or 1 for depth in depths[:-2]] + [depths[-1]]
    config = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": [heads(width) for width in widths] if many_heads else 8,
        "block_out_channels": widths,
        "center_input_sample": False,
        "cross_attention_dim": side(shapes, inner, 1),
        "down_block_types": _types("Down", depths[:-1]),
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": side(shapes, "input_blocks.0.0.weight", 1),
        "layers_per_block": layers,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": side(shapes, "out.2.weight", 0),
        "transformer_layers_per_block": listed[0] if len(set(listed)) == 1 else listed,
        "up_block_types": _types("Up", depths[-2::-1]),
        "use_linear_projection": linear,
    }
    return config | _added(shapes, pooled)


def _added(shapes: Shapes, pooled: int) -> dict[str, Any]:
    """What is added to the embedding of time: SDXL's texts and sizes, LCM's guidance."""
    config: dict[str, Any] = {}
    if "label_emb.0.0.weight" in shapes:
        width = side(shapes, "label_emb.0.0.weight", 1)
        if not pooled or width <= pooled or (width - pooled) % 6:
            raise ValueError(
                f"tensor {shapes.prefix}label_emb.0.0.weight takes {width} numbers; "
                f"the pooled text has {pooled}, and six sizes must have the rest"
            )
        config = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (width - pooled) // 6,
            "projection_class_embeddings_input_dim": width,
        }
    if _GUIDED in shapes:
        config["time_cond_proj_dim"] = side(shapes, _GUIDED, 1)
    return config


def _layout(shapes: Shapes) -> tuple[int, int]:
    """(residual blocks per level, levels), by where the downsamplers are."""
    found = sorted(int(match[1]) for match in map(_DOWNSAMPLER.fullmatch, shapes) if match)
    indices = {
        int(match[2]) for match in map(_BLOCK.match, shapes) if match and match[1] == "input_blocks"
    }
    last = max(indices, default=0)
    layers, levels = (found[0] - 1 if found else last), len(found) + 1
    if (
        layers < 1
        or found != [(layers + 1) * level for level in range(1, levels)]
        or last != levels * (layers + 1) - 1
    ):
        raise ValueError("its UNet's blocks do not halve at equal distances; allowed: that they do")
    return layers, levels


def _depths(shapes: Shapes, layers: int, levels: int) -> list[int]:
    """Transformer blocks in an attention of each level, 0 where none attends, and of the middle.

    Raises:
        ValueError: they differ within a level, as in SSD-1B.
    """
    depths: dict[str, int] = defaultdict(int)
    for match in map(_TRANSFORMER.fullmatch, shapes):
        if match:
            depths[match[1]] = max(depths[match[1]], int(match[2]) + 1)
    found = []
    for level in range(levels):
        down = [f"input_blocks.{level * (layers + 1) + 1 + i}.1" for i in range(layers)]
        up = [
            f"output_blocks.{(levels - 1 - level) * (layers + 1) + i}.1" for i in range(layers + 1)
        ]
        here = {depths[block] for block in down + up}
        if len(here) > 1:
            raise ValueError(
                f"its UNet has transformers of {min(here)} to {max(here)} blocks at level {level}; "
                "allowed: one number per level (a distilled model such as SSD-1B has several)"
            )
        found.append(here.pop())
    middle = depths["middle_block.1"]
    if not middle or found[-1] not in (0, middle):
        raise ValueError(
            f"its UNet has transformers of {middle} blocks in the middle and {found[-1]} at the "
            "last level; allowed: as many in the middle, 1 or more, as there if that attends"
        )
    return [*found, middle]


def _types(way: str, depths: list[int]) -> list[str]:
    return [f"{'CrossAttn' if depth else ''}{way}Block2D" for depth in depths]


def _present(name: str, layers: int) -> str:
    head, _, kind = name.rpartition(".")
    if head in _ENDS:
        return f"{_ENDS[head]}.{kind}"
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    group, number, rest = match[1], int(match[2]), match[3]
    if group == "middle_block":
        place = _MIDDLE.get(match[2])
        return f"mid_block.{place}.{_within(rest)}" if place else name
    level, layer = divmod(number - (group == "input_blocks"), layers + 1)
    block = f"{'down' if group == 'input_blocks' else 'up'}_blocks.{level}"
    index, _, rest = rest.partition(".")
    if rest.startswith("op."):
        return f"{block}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    if index != "0" and rest.startswith("conv."):
        return f"{block}.upsamplers.0.{rest}"
    place = {"0": "resnets", "1": "attentions"}.get(index)
    return f"{block}.{place}.{layer}.{_within(rest)}" if place else name


def _within(rest: str) -> str:
    """A name within a residual block; those within a transformer are diffusers' already."""
    layer, _, kind = rest.rpartition(".")
    return f"{_RESNET[layer]}.{kind}" if layer in _RESNET else rest
