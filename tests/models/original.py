"""Whole models of diffusers and transformers, written as one file in the original layout.

The way back, from diffusers' names to those of CompVis, Stability AI and OpenCLIP, is written here
by itself, and shares nothing with models/original/.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
_ATTENDING = {
    True: ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
    False: ("DownBlock2D", "UpBlock2D"),
}


def unet(attends: list[bool], **values: Any) -> diffusers.UNet2DConditionModel:
    """A UNet whose levels attend or do not, with Stable Diffusion's other values."""
    return diffusers.UNet2DConditionModel(
        down_block_types=[_ATTENDING[level][0] for level in attends],
        up_block_types=[_ATTENDING[level][1] for level in reversed(attends)],
        **values,
    )


def vae(widths: list[int], **values: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        layers_per_block=2,
        **values,
    )


def text(width: int, layers: int, *, projected: bool = False, **values: Any) -> torch.nn.Module:
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    given: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": 4 * width,
        "projection_dim": width,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    return kind(transformers.CLIPTextConfig(**given | values))


def unet_state(state: Mapping[str, Tensor], layers: int = 2) -> State:
    """The names of `openaimodel.UNetModel`."""
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("down_blocks"))
    renamed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "time_embedding.cond_proj": "time_embedding.cond_proj",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    inside = {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    inside["mid_block.resnets.1"] = "middle_block.2"
    for level in range(levels):
        for layer in range(layers + 1):
            down, up = level * (layers + 1) + layer + 1, level * (layers + 1) + layer
            inside[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{down}.0"
            inside[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{down}.1"
            inside[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{up}.0"
            inside[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{up}.1"
        renamed[f"down_blocks.{level}.downsamplers.0.conv"] = (
            f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
        )
        attends = any(name.startswith(f"up_blocks.{level}.attentions") for name in state)
        renamed[f"up_blocks.{level}.upsamplers.0.conv"] = (
            f"output_blocks.{level * (layers + 1) + layers}.{1 + attends}.conv"
        )
    parts = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }

    def original(name: str) -> str:
        layer, _, kind = name.rpartition(".")
        if layer in renamed:
            return f"{renamed[layer]}.{kind}"
        block = next(block for block in inside if name.startswith(f"{block}."))
        rest = layer.removeprefix(f"{block}.")
        return f"{inside[block]}.{parts[rest] if 'resnets' in block else rest}.{kind}"

    return {original(name): tensor for name, tensor in state.items()}


def vae_state(state: Mapping[str, Tensor]) -> State:
    """The names of `model.Encoder` and `Decoder`, with 1x1 convolutions for attention."""
    levels = 1 + max(int(n.split(".")[2]) for n in state if n.startswith("decoder.up_blocks"))
    made = {}
    for name, tensor in state.items():
        for level in range(levels):
            for layer in range(4):
                down, up = f"down_blocks.{level}", f"up_blocks.{level}"
                name = name.replace(f"{down}.resnets.{layer}.", f"down.{level}.block.{layer}.")
                name = name.replace(
                    f"{up}.resnets.{layer}.", f"up.{levels - 1 - level}.block.{layer}."
                )
            name = name.replace(f"{down}.downsamplers.0.", f"down.{level}.downsample.")
            name = name.replace(f"{up}.upsamplers.0.", f"up.{levels - 1 - level}.upsample.")
        for new, old in (
            ("mid_block.resnets.0.", "mid.block_1."),
            ("mid_block.resnets.1.", "mid.block_2."),
            ("mid_block.attentions.0.", "mid.attn_1."),
            ("conv_shortcut", "nin_shortcut"),
            ("conv_norm_out", "norm_out"),
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ):
            name = name.replace(new, old)
        convolution = ".attn_1." in name and tensor.ndim == 2
        made[name] = tensor[:, :, None, None] if convolution else tensor
    return made


def whole_clip(state: Mapping[str, Tensor]) -> State:
    """The names of a `CLIPTextModel`, as every version before transformers 5.6 has them."""
    return {
        name if name.startswith("text_") else f"text_model.{name}": tensor
        for name, tensor in state.items()
    }


def open_clip_state(state: Mapping[str, Tensor]) -> State:
    """The names of OpenCLIP: q, k and v in one, and the projection the other way round."""
    clip = whole_clip(state)
    layers = 1 + max(int(n.split(".")[3]) for n in clip if n.startswith("text_model.encoder"))
    made = {
        "token_embedding.weight": clip["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": clip["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": clip["text_model.final_layer_norm.weight"],
        "ln_final.bias": clip["text_model.final_layer_norm.bias"],
    }
    if "text_projection.weight" in clip:
        made["text_projection"] = clip["text_projection.weight"].T.contiguous()
    parts = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for layer in range(layers):
        theirs, ours = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            fused = [clip[f"{theirs}.self_attn.{each}_proj.{kind}"] for each in "qkv"]
            made[f"{ours}.attn.in_proj_{kind}"] = torch.cat(fused)
            for new, old in parts.items():
                made[f"{ours}.{old}.{kind}"] = clip[f"{theirs}.{new}.{kind}"]
    return made


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@dataclass(frozen=True)
class Whole:
    """The networks of a family, and what its text encoders' names begin with in a file."""

    networks: dict[str, torch.nn.Module]
    texts: list[str]

    def tensors(self) -> State:
        """What the file has, by its names."""
        made = prefixed("model.diffusion_model.", unet_state(self.networks["unet"].state_dict()))
        made |= prefixed("first_stage_model.", vae_state(self.networks["vae"].state_dict()))
        for prefix, name in zip(self.texts, ("text_encoder", "text_encoder_2"), strict=False):
            convert = open_clip_state if prefix.endswith("model.") else whole_clip
            made |= prefixed(prefix, convert(self.networks[name].state_dict()))
        return made


def write(path: Path, tensors: State, **metadata: str) -> Path:
    save_file({name: each.contiguous() for name, each in tensors.items()}, path, metadata or None)
    return path


def write_header(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A whole file of zeros that takes no place on disk; the tensors may be on the meta device."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        dtype, size = _DTYPES[tensor.dtype], tensor.numel() * tensor.itemsize
        header[name] = {"dtype": dtype, "shape": [*tensor.shape], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)
    return path


TEXTS = {
    "1.x": ["cond_stage_model.transformer."],
    "2.x": ["cond_stage_model.model."],
    "SDXL": ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."],
}


def whole(family: str, *, full: bool = False, vocab_size: int = 99, **common: Any) -> Whole:
    """A model of a family: narrow, or of its full size, to be made on the meta device.

    A narrow one has `vocab_size` tokens. Others are values of the UNet.
    """
    words: dict[str, Any] = {} if full else {"vocab_size": vocab_size}
    widths = [128, 256, 512, 512] if full else [32, 32, 64, 64]
    made: dict[str, torch.nn.Module] = {}
    if family == "1.x":
        side = 768 if full else 32
        made["text_encoder"] = text(side, 12 if full else 2, hidden_act="quick_gelu", **words)
        made["unet"] = unet(
            [True, True, True, False],
            block_out_channels=[320, 640, 1280, 1280] if full else [32, 64, 64, 64],
            attention_head_dim=8,
            cross_attention_dim=side,
            sample_size=64,
            **common,
        )
    elif family == "2.x":
        side = 1024 if full else 128
        made["text_encoder"] = text(side, 23 if full else 2, hidden_act="gelu", **words)
        made["unet"] = unet(
            [True, True, True, False],
            block_out_channels=[320, 640, 1280, 1280] if full else [64, 64, 64, 128],
            attention_head_dim=[5, 10, 20, 20] if full else [1, 1, 1, 2],
            cross_attention_dim=side,
            use_linear_projection=True,
            upcast_attention=True,
            sample_size=64,
            **common,
        )
    else:
        side, second = (768, 1280) if full else (32, 128)
        made["text_encoder"] = text(side, 12 if full else 2, hidden_act="quick_gelu", **words)
        made["text_encoder_2"] = text(
            second, 32 if full else 3, projected=True, hidden_act="gelu", **words
        )
        made["unet"] = unet(
            [False, True, True],
            block_out_channels=[320, 640, 1280] if full else [32, 64, 128],
            attention_head_dim=[5, 10, 20] if full else [1, 1, 2],
            transformer_layers_per_block=[1, 2, 10] if full else [1, 2, 3],
            cross_attention_dim=side + second,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256 if full else 8,
            projection_class_embeddings_input_dim=second + 6 * (256 if full else 8),
            sample_size=128,
            **common,
        )
    scale = 0.13025 if family == "SDXL" else 0.18215
    made["vae"] = vae(widths, scaling_factor=scale, sample_size=1024 if family == "SDXL" else 512)
    return Whole({name: network.eval() for name, network in made.items()}, TEXTS[family])
