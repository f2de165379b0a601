"""The configuration of a CLIP text encoder, key for key as transformers writes it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from models.bounds import Range
from models.config import Config, Width

# Wide of every encoder of Stable Diffusion: bigG has a width of 1,280 and 32 layers.
Layers = Annotated[int, Range(1, 64)]
Heads = Annotated[int, Range(1, 256)]
Inner = Annotated[int, Range(1, 16_384)]
Positions = Annotated[int, Range(2, 1024)]
Tokens = Annotated[int, Range(2, 1 << 18)]


@dataclass(frozen=True)
class CLIPTextConfig(Config):
    """transformers `CLIPTextConfig`, of `CLIPTextModel` and `CLIPTextModelWithProjection` alike.

    `eos_token_id` says where the pooled output is taken: at the first token of this id; at the
    token of the highest id if it is 2, as files from before transformers 4.31 mean it.
    """

    class_name: ClassVar[str] = "CLIPTextModel"

    vocab_size: Tokens = 49_408
    hidden_size: Width = 512
    intermediate_size: Inner = 2048
    projection_dim: Width | None = 512
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 8
    max_position_embeddings: Positions = 77
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Annotated[float, Range(0, 0.1, above=True)] = 1e-5
    eos_token_id: Annotated[int, Range(0, 1 << 18)] = 49_407

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; allowed: a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
