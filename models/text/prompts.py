"""What a UNet attends to, from prompts, by the rules of each family of Stable Diffusion.

Equals diffusers' `StableDiffusionPipeline.encode_prompt` and
`StableDiffusionXLPipeline.encode_prompt`. B: texts, T: tokens, D and P: widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.text.clip import CLIPTextEncoder, TextStates
from models.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Encoded:
    """Prompts, encoded."""

    context: Tensor  # (B, T, D)
    pooled: Tensor | None  # (B, P), of SDXL
    cut: tuple[int, ...]  # tokens of each prompt that did not fit


@dataclass(frozen=True)
class Reader:
    """A text encoder and the tokenizer that it was trained with."""

    tokenizer: Tokenizer
    encoder: CLIPTextEncoder

    def __post_init__(self) -> None:
        config = self.encoder.config
        made = (self.tokenizer.size, self.tokenizer.length)
        if made[0] > config.vocab_size or made[1] > config.max_position_embeddings:
            raise ValueError(
                f"the tokenizer has {made[0]} tokens and makes {made[1]} of a text; the text "
                f"encoder's vocab_size is {config.vocab_size}, its max_position_embeddings "
                f"{config.max_position_embeddings}"
            )


class PromptEncoder:
    """One reader for 1.x and 2.x, two for SDXL, whose second is projected.

    Every text is encoded alone, and so has the same bits whatever it is asked together with: a
    matrix product may add in another order for another number of rows.
    """

    def __init__(self, *readers: Reader) -> None:
        projected = [reader.encoder.text_projection is not None for reader in readers]
        if projected not in ([False], [False, True]):
            raise ValueError(
                f"text encoders projected: {projected}; allowed: one that is not, as 1.x and 2.x "
                "have it, or two of which the second is, as SDXL has them"
            )
        if len(lengths := {reader.tokenizer.length for reader in readers}) > 1:
            raise ValueError(f"the tokenizers make {sorted(lengths)} tokens; one number is needed")
        self._readers = readers

    @property
    def tokens(self) -> int:
        """T, the first and the last token included."""
        return self._readers[0].tokenizer.length

    @property
    def width(self) -> int:
        """D."""
        return sum(reader.encoder.config.hidden_size for reader in self._readers)

    @property
    def pooled_width(self) -> int | None:
        """P; None for 1.x and 2.x."""
        return self._readers[1].encoder.config.projection_dim if self._is_xl else None

    @property
    def most_clip_skip(self) -> int:
        """The `clip_skip` that leads to the embeddings themselves."""
        layers = min(reader.encoder.config.num_hidden_layers for reader in self._readers)
        return layers - 1 if self._is_xl else layers

    def encode(self, texts: Sequence[str], clip_skip: int = 0) -> Encoded:
        """Encode prompts.

        Args:
            texts: one or more; the same text twice is encoded once.
            clip_skip: layers before the model's own whose state is taken, up to `most_clip_skip`.
                diffusers takes 0 for negative prompts, whatever the prompt has.
        """
        if not 0 <= clip_skip <= self.most_clip_skip:
            raise ValueError(f"clip_skip is {clip_skip}; allowed: 0 to {self.most_clip_skip}")
        made = {text: self._encode(text, clip_skip) for text in dict.fromkeys(texts)}
        rows = [made[text] for text in texts]
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return Encoded(
            context=torch.cat([row.context for row in rows]),
            pooled=torch.cat(pooled) if pooled else None,
            cut=tuple(cut for row in rows for cut in row.cut),
        )

    def zeros(self) -> Encoded:
        """One row for an absent negative prompt where `force_zeros_for_empty_prompt` is true."""
        like = self._readers[0].encoder.text_model.final_layer_norm.weight
        pooled = like.new_zeros(1, self.pooled_width) if self.pooled_width is not None else None
        return Encoded(like.new_zeros(1, self.tokens, self.width), pooled, cut=(0,))

    @torch.inference_mode()
    def _encode(self, text: str, clip_skip: int) -> Encoded:
        """One text, (1, T, D)."""
        contexts, pooled, cut = [], None, 0
        for reader in self._readers:
            tokens = reader.tokenizer.encode(text)
            device = reader.encoder.text_model.final_layer_norm.weight.device
            states = reader.encoder(torch.tensor([tokens.ids], device=device))
            contexts.append(self._context(reader.encoder, states, clip_skip))
            pooled, cut = states.pooled, max(cut, tokens.cut)
        return Encoded(torch.cat(contexts, dim=-1), pooled if self._is_xl else None, (cut,))

    def _context(self, encoder: CLIPTextEncoder, states: TextStates, clip_skip: int) -> Tensor:
        if self._is_xl:  # the layer before the last, without the norm
            return states.hidden[-(clip_skip + 2)]
        return encoder.final(states.hidden[-(clip_skip + 1)])

    @property
    def _is_xl(self) -> bool:
        return len(self._readers) == 2
