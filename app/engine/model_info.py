"""What the server knows about the models it serves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from app.engine.costs import Costs
from app.engine.errors import EngineUnavailable
from models.conditioning import Classes, Prompts
from models.sampling import DEFAULT_SAMPLER, DEFAULT_SPACING, SAMPLERS, Spacing
from models.sizes import Sizes

_SOON = 5  # seconds after which to ask again for a model that is not loaded


class LaneId(NamedTuple):
    """A model at one image size, in pixels: what is drawn in one lane (lane.py)."""

    model: str
    width: int
    height: int


@dataclass(frozen=True)
class ModelInfo:
    """What the server knows about a loaded model."""

    name: str
    classes: Classes
    sizes: Sizes
    max_steps: int
    guidance_scale: float
    digest: str  # SHA-256 of the checkpoint, hexadecimal
    backend: str
    device: str  # its kind: cpu, or a GPU's name
    dtype: str  # or tf32: float32, of which products have ten bits of mantissa
    exact: bool  # pixels do not depend on what shares the batch, as measured at warm-up
    costs: Costs  # as measured at warm-up, at the model's own size
    sampler: str = DEFAULT_SAMPLER  # of requests that name none
    spacing: Spacing = DEFAULT_SPACING  # of the checkpoint; a sampler takes it where it can
    samplers: tuple[str, ...] = tuple(SAMPLERS)  # those that it can be drawn with
    platform: str = ""  # processors, libraries and rounding: what pixels' last bits depend on
    blocks: tuple[int, int] = (16, 16)  # rows of UNet and decoder whose last bits all ticks have
    slots: int = 64  # images of one client in flight, where the settings do not say
    prompts: Prompts | None = None  # None: it takes classes, or nothing
    sheet: bytes | None = field(default=None, repr=False)  # a PNG of one image of each class

    @property
    def takes(self) -> Classes | Prompts:
        """What it is asked for: a prompt, or a class."""
        return self.prompts or self.classes

    @property
    def lane(self) -> LaneId:
        """The lane of its own size."""
        return LaneId(self.name, self.sizes.width, self.sizes.height)

    @property
    def hash(self) -> str:
        """The digest as image tools write it: its first ten digits."""
        return self.digest[:10]


class Models(dict[str, ModelInfo]):
    """The models that were loaded once, by name, the default first.

    `failed` says why others did not load, and `names` are those of all that there are. Looking up
    one of these that was not loaded raises `EngineUnavailable`, and an unknown one KeyError.
    """

    def __init__(
        self,
        described: Iterable[ModelInfo] = (),
        failed: Mapping[str, str] = MappingProxyType({}),
        names: Sequence[str] = (),
    ) -> None:
        super().__init__((info.name, info) for info in described)
        self.failed, self.names = failed, names

    def __missing__(self, name: str) -> ModelInfo:
        if name in self.failed:
            raise EngineUnavailable(f"model {name!r} does not load: {self.failed[name]}")
        if name in self.names:
            raise EngineUnavailable(f"model {name!r} is not loaded", _SOON)
        raise KeyError(name)
