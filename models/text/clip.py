"""The text encoder of CLIP. Radford et al. 2021, sec. 2.4.

Parameter names and arithmetic are those of transformers' `CLIPTextModel` and
`CLIPTextModelWithProjection`, as checkpoints carry them. B: texts, T: tokens, D: width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import embedding
from models.text.config import CLIPTextConfig

_HIGHEST_ID = 2  # an eos_token_id that means: the token of the highest id


class TextStates(NamedTuple):
    """What the encoder makes of a text."""

    hidden: tuple[Tensor, ...]  # (B, T, D) each: the embeddings, then the state after every layer
    pooled: Tensor  # (B, P) projected, else (B, D): the final state of the end-of-text token


class CLIPTextEncoder(nn.Module):
    """A causal transformer over tokens; `projected` is `CLIPTextModelWithProjection`."""

    def __init__(self, config: CLIPTextConfig, *, projected: bool = False) -> None:
        super().__init__()
        if projected and config.projection_dim is None:
            raise ValueError("projection_dim is null; a projected text encoder needs a width")
        self.config = config
        self.text_model = _TextModel(config)
        self.text_projection = (
            nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            if projected and config.projection_dim is not None
            else None
        )

    def forward(self, ids: Tensor) -> TextStates:
        """Run every layer.

        Args:
            ids: (B, T) int64 in [0, vocab_size), T up to max_position_embeddings.
        """
        x = self.text_model.embeddings(ids)
        hidden = [x]
        for layer in self.text_model.encoder.layers:
            x = layer(x)
            hidden.append(x)
        rows = torch.arange(len(ids), device=ids.device)
        pooled: Tensor = self.final(x)[rows, self._ends(ids)]
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return TextStates(tuple(hidden), pooled)

    def final(self, state: Tensor) -> Tensor:
        """The final layer norm of a hidden state, (B, T, D)."""
        out: Tensor = self.text_model.final_layer_norm(state)
        return out

    def _ends(self, ids: Tensor) -> Tensor:
        """The position of the end-of-text token, (B,); 0 where there is none."""
        eos = self.config.eos_token_id
        return (ids if eos == _HIGHEST_ID else (ids == eos).int()).argmax(dim=-1)


class _TextModel(nn.Module):
    """Holds the parts under the names that they have in checkpoints."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)


class _Encoder(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _Embeddings(nn.Module):
    """The sum of a token's and its position's embedding, (B, T) -> (B, T, D)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        return out


class _Layer(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = _CausalAttention(width, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(width, eps)
        self.mlp = _MLP(config)
        self.layer_norm2 = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _CausalAttention(nn.Module):
    """Every token attends to itself and those before it, padding included."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(made(x)) for made in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(x.shape))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, heads, T, D / heads)."""
        return x.view(*x.shape[:2], self._heads, -1).transpose(1, 2)


class _MLP(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self._activation = _quick_gelu if config.hidden_act == "quick_gelu" else F.gelu
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self._activation(self.fc1(x)))
        return out


def _quick_gelu(x: Tensor) -> Tensor:
    """Hendrycks & Gimpel 2016, sec. 2."""
    return x * torch.sigmoid(1.702 * x)
