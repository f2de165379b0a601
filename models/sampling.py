"""The samplers by name, and how much work each makes. Standard library only; see samplers.py.

A sampler walks from noise to a clean latent in `steps` steps. What it costs is its number of
evaluations of the network, which some samplers have more of than steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

SamplerName = Literal[
    "ddim",
    "euler",
    "euler_a",
    "heun",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s_a",
    "dpmpp_3m",
    "unipc",
    "pndm",
    "lcm",
]
Spacing = Literal["default", "karras", "exponential"]
Prediction = Literal["epsilon", "v_prediction"]  # what the UNet of a Stable Diffusion predicts
SPACINGS: tuple[Spacing, ...] = ("default", "karras", "exponential")
DEFAULT_SAMPLER = "ddim"
DEFAULT_SPACING: Spacing = "default"


@dataclass(frozen=True)
class Sampler:
    """What can be said of a sampler without its coefficients.

    `title` is AUTOMATIC1111's name for it. `twice`: it evaluates the network twice per step, except
    in the last; `extra`: once more in its first. `spaced`: it walks noise levels, so that `spacing`
    can place them; otherwise it walks timesteps. `inherits`: it takes the model's own spacing where
    none is asked for. `eta`: its steps add as much noise as eta says.
    """

    name: str
    title: str
    twice: bool = False
    extra: bool = False
    spaced: bool = True
    inherits: bool = True
    eta: bool = False

    def evaluations(self, steps: int, start: int = 0) -> int:
        """How often the network is evaluated for one image that begins at step `start`."""
        left = steps - start
        if self.twice:
            return 2 * left - 1
        return left + (self.extra and left > 1)

    @property
    def spacings(self) -> tuple[Spacing, ...]:
        """Those it can be asked for."""
        return SPACINGS if self.spaced else SPACINGS[:1]

    def spacing(self, own: Spacing) -> Spacing:
        """What is meant where none is asked for, by a model whose own is this."""
        return own if self.spaced and self.inherits else DEFAULT_SPACING


SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        sampler.name: sampler
        for sampler in (
            Sampler("ddim", "DDIM", spaced=False, eta=True),
            Sampler("euler", "Euler"),
            Sampler("euler_a", "Euler a", inherits=False),
            Sampler("heun", "Heun", twice=True),
            Sampler("lms", "LMS"),
            Sampler("dpmpp_2m", "DPM++ 2M"),
            Sampler("dpmpp_2m_sde", "DPM++ 2M SDE"),
            Sampler("dpmpp_2s_a", "DPM++ 2S a", twice=True, inherits=False),
            Sampler("dpmpp_3m", "DPM++ 3M"),
            Sampler("unipc", "UniPC"),
            Sampler("pndm", "PLMS", extra=True, spaced=False),
            Sampler("lcm", "LCM", spaced=False),
        )
    }
)
