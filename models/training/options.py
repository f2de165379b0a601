"""The tables of a recipe that are ours: what to read, and how to optimise."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from PIL import ImageColor

from models.bounds import Range, brief
from models.conditioning import MAX_GUIDANCE_SCALE
from models.config import Config


@dataclass(frozen=True)
class DataRecipe(Config):
    """`source` is `mnist`, `fashion-mnist`, or a folder of images with one sub-folder a class."""

    class_name: ClassVar[str] = "[data]"

    source: str = "mnist"
    size: Annotated[int, Range(1, 8192)] = 32  # images are cropped to a square of this side
    channels: Literal[1, 3] = 1
    background: str = "white"  # what transparent pixels are laid on
    skip_unreadable: bool = False  # pass over pictures that cannot be read

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            opaque = len(ImageColor.getrgb(self.background)) == 3
        except ValueError:
            opaque = False
        if not opaque:
            raise ValueError(
                f"background is {brief(self.background)}; "
                "allowed: a colour, as 'white', '#ffffff' or 'rgb(255, 255, 255)'"
            )


@dataclass(frozen=True)
class Optimisation(Config):
    """What both trainings share. Sizes count images, so that runs compare across batch sizes."""

    class_name: ClassVar[str] = "[train]"

    images: int = 1_000_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.01  # of learning_rate, at the end of the cosine
    warmup_steps: int = 200
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_length: float = 0.1  # standard deviation of the averaging profile, as a share of the run
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    log_every: int = 50
    report_seconds: float = 30.0  # between two lines about held-out images
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1 or self.images < self.batch_size:
            raise ValueError(f"images is {self.images}, batch_size {self.batch_size}")
        if not 0.0 < self.ema_length <= 0.28:
            raise ValueError(f"ema_length is {self.ema_length}; allowed: above 0, up to 0.28")
        if min(self.log_every, self.checkpoint_every) < 1:
            raise ValueError("log_every and checkpoint_every must be at least 1")
        for name in ("learning_rate", "clip_norm", "report_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0")
        for name in ("weight_decay", "final_learning_rate", "warmup_steps", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.images // self.batch_size


@dataclass(frozen=True)
class VAETraining(Optimisation):
    """Loss: L1 summed over pixels + `kl_weight` * KL in nats, averaged over images."""

    class_name: ClassVar[str] = "[train.vae]"

    kl_weight: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.kl_weight < math.inf:
            raise ValueError(f"kl_weight is {self.kl_weight}; allowed: 0 or more")


@dataclass(frozen=True)
class DiffusionTraining(Optimisation):
    """Loss: mean squared error of what the scheduler's prediction type names."""

    class_name: ClassVar[str] = "[train.diffusion]"

    label_dropout: float = 0.1
    guidance_scale: float = 1.0  # the default the model is published with

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout is {self.label_dropout}; allowed: a share, 0 to 1")
        if not 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE:
            raise ValueError(
                f"guidance_scale is {self.guidance_scale}; "
                f"allowed: 0 or more, up to {MAX_GUIDANCE_SCALE}"
            )
