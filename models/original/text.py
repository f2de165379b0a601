"""CLIP's text encoders, as transformers names them, from its own names and from OpenCLIP's.

Source of the names: `src/open_clip/transformer.py` of mlfoundations/open_clip.
"""

import re
from collections.abc import Iterator
from typing import Any

from models.original.shapes import Shapes, Source, count, heads, side, unique
from models.tensor_file import Part

_OUTER = "text_model."
_INNER = (
    "embeddings.",
    "encoder.",
    "final_layer_norm.",
)  # where 1.x's first files have no `_OUTER`
_PASSED = re.compile(
    r"(text_model\.)?embeddings\.position_ids|text_projection\.weight|logit_scale|attn_mask"
)
_ENDS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d{1,3})\.(.+)\.(weight|bias)", re.ASCII)
_FUSED = re.compile(r"transformer\.resblocks\.(\d{1,3})\.attn\.in_proj_(weight|bias)", re.ASCII)
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_LAYERS = "transformer.resblocks."
_PROJECTION = "text_projection"
_OF_OPENCLIP_H = 24  # layers, of which 2.x uses all but the last


def clip_names(shapes: Shapes) -> dict[str, Source]:
    """Names of transformers -> tensors that are stored by these, or without `text_model.`."""
    return unique(
        (_OUTER + name if name.startswith(_INNER) else name, Source(name))
        for name in shapes
        if not _PASSED.fullmatch(name)
    )


def clip_width(shapes: Shapes) -> int:
    """The width of an encoder that is stored by transformers' names; raises `ValueError`."""
    return side(_as_named(shapes), _ENDS["token_embedding.weight"], 1)


def clip_config(shapes: Shapes, activation: str) -> dict[str, Any]:
    """The configuration of a `CLIPTextModel` that is stored by transformers' names.

    Raises:
        ValueError: a tensor that tells a width is missing.
    """
    by_name = _as_named(shapes)
    layers = count(by_name, "text_model.encoder.layers.")
    inner = side(by_name, "text_model.encoder.layers.0.mlp.fc1.weight", 0)
    tokens = _embeddings(
        by_name,
        _ENDS["token_embedding.weight"],
        _ENDS["positional_embedding"],
    )
    return tokens | _config(tokens["hidden_size"], inner, layers, activation)


def open_clip_names(shapes: Shapes, *, projected: bool) -> dict[str, Source]:
    """Names of transformers -> OpenCLIP's tensors: a third of the fused q, k, v each, and so on.

    Args:
        shapes: of the stored tensors.
        projected: with the projection and every layer, as SDXL has it; else the layers that 2.x
            computes, without the projection.
    """
    layers, stored = open_clip_layers(shapes, projected=projected), count(shapes, _LAYERS)
    unused = [_layer(str(number), "") for number in range(layers, stored)]
    unused += [] if projected else [_PROJECTION]
    pairs = (pair for name in shapes for pair in _present(name))
    return unique(pair for pair in pairs if not pair[0].startswith(tuple(unused)))


def _present(name: str) -> Iterator[tuple[str, Source]]:
    if name in _ENDS:
        yield _ENDS[name], Source(name)
    elif match := _FUSED.fullmatch(name):
        for index, each in enumerate("qkv"):
            yield (
                _layer(match[1], f"self_attn.{each}_proj.{match[2]}"),
                Source(name, Part(index, 3)),
            )
    elif match := _BLOCK.fullmatch(name):
        yield _layer(match[1], f"{_LAYER.get(match[2], match[2])}.{match[3]}"), Source(name)
    elif name == _PROJECTION:
        yield f"{_PROJECTION}.weight", Source(name, transposed=True)
    elif not _PASSED.fullmatch(name) or name == f"{_PROJECTION}.weight":
        yield name, Source(name)


def open_clip_layers(shapes: Shapes, *, projected: bool) -> int:
    """How many layers of those that are stored are computed.

    2.x takes what the last but one gives. A file of OpenCLIP's has the last as well; one that was
    made from a folder has not, nor a projection.
    """
    stored = count(shapes, _LAYERS)
    if projected:
        return stored
    if stored in (_OF_OPENCLIP_H, _OF_OPENCLIP_H - 1):
        return _OF_OPENCLIP_H - 1
    return stored - 1 if _PROJECTION in shapes else stored


def open_clip_config(shapes: Shapes, *, projected: bool) -> dict[str, Any]:
    """The configuration of a `CLIPTextModel`, or of one with projection, that OpenCLIP trained.

    Raises:
        ValueError: a tensor that tells a width is missing.
    """
    tokens = _embeddings(shapes, "token_embedding.weight", "positional_embedding")
    inner = side(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 0)
    layers = open_clip_layers(shapes, projected=projected)
    config = tokens | _config(tokens["hidden_size"], inner, layers, "gelu")
    if projected:
        axis = 1 if _PROJECTION in shapes else 0
        name = _PROJECTION if axis else f"{_PROJECTION}.weight"
        config |= {
            "architectures": ["CLIPTextModelWithProjection"],
            "projection_dim": side(shapes, name, axis),
        }
    return config


def _as_named(shapes: Shapes) -> Shapes:
    named = {name: shapes[source.name] for name, source in clip_names(shapes).items()}
    return Shapes(named, shapes.prefix)


def _layer(number: str, inside: str) -> str:
    return f"text_model.encoder.layers.{int(number)}.{inside}"


def _embeddings(shapes: Shapes, tokens: str, positions: str) -> dict[str, Any]:
    return {
        "hidden_size": side(shapes, tokens, 1),
        "max_position_embeddings": side(shapes, positions, 0),
        "vocab_size": side(shapes, tokens, 0),
    }


def _config(width: int, inner: int, layers: int, activation: str) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as all of these folders say it; it means: the highest id ends the text
        "hidden_act": activation,
        "intermediate_size": inner,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_text_model",
        "num_attention_heads": heads(width),
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": width,
    }
