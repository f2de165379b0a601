"""A model's scheduler: its own class and sampler, and what other samplers make of the same file.

A sampler that is asked for reads the file as its own class does in diffusers, as
`OtherClass.from_config(file)`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from models.bounds import Range, brief, check
from models.config import ConfigError, DDIMConfig, ScheduleConfig
from models.files import read_json
from models.foreign import check_class, sift_scheduler
from models.sampling import SAMPLERS, Spacing
from models.scheduler_classes import (
    DPMSolverConfig,
    EulerAncestralConfig,
    EulerConfig,
    HeunConfig,
    LCMConfig,
    LMSConfig,
    PNDMConfig,
    SpacedConfig,
    UniPCConfig,
)


@dataclass(frozen=True)
class _Means:
    """What a sampler's name means in diffusers: a class, and the values that the name settles."""

    kind: type[ScheduleConfig]
    settled: Mapping[str, Any] = field(default_factory=dict)


_ODE, _SDE = "dpmsolver++", "sde-dpmsolver++"
_MEANS: Mapping[str, _Means] = MappingProxyType(
    {
        "ddim": _Means(DDIMConfig),
        "euler": _Means(EulerConfig),
        "euler_a": _Means(EulerAncestralConfig),
        "heun": _Means(HeunConfig),
        "lms": _Means(LMSConfig),
        "dpmpp_2m": _Means(DPMSolverConfig, {"solver_order": 2, "algorithm_type": _ODE}),
        "dpmpp_2m_sde": _Means(DPMSolverConfig, {"solver_order": 2, "algorithm_type": _SDE}),
        "dpmpp_2s_a": _Means(
            EulerAncestralConfig
        ),  # of k-diffusion, which spaces as this class does
        "dpmpp_3m": _Means(DPMSolverConfig, {"solver_order": 3, "algorithm_type": _ODE}),
        "unipc": _Means(UniPCConfig),
        "pndm": _Means(PNDMConfig, {"skip_prk_steps": True}),
        "lcm": _Means(LCMConfig),
    }
)
_KINDS = {means.kind.class_name: means.kind for means in _MEANS.values()}


def _keys(kind: type[ScheduleConfig]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _check_range(kind: type[ScheduleConfig], given: Mapping[str, Any]) -> None:
    """Classes without these keys read them as well where levels are placed, if a file has them."""
    if issubclass(kind, SpacedConfig):
        for key in ("sigma_min", "sigma_max"):
            check(key, given.get(key), None)


_ALL_KEYS = frozenset[str]().union(*map(_keys, _KINDS.values()))


@dataclass(frozen=True)
class SchedulerConfig:
    """A model's scheduler: `own`, of the class of its file, and all that the file gives.

    A class that is none of ours is read as DDIM. `given` has keys of any class.
    """

    own: ScheduleConfig
    given: Mapping[str, Any]

    @classmethod
    def of(cls, own: ScheduleConfig) -> "SchedulerConfig":
        """That of a file which gives every key of its class."""
        return cls(own, dataclasses.asdict(own))

    @classmethod
    def read(cls, path: Path) -> tuple["SchedulerConfig", tuple[str, ...]]:
        """Read `scheduler_config.json`, and notes on what has no effect.

        Raises:
            ConfigError: an unknown class, or a value that would change what is drawn and is not
                built.
        """
        return cls.parse(read_json(path), path)

    @classmethod
    def parse(
        cls, values: Mapping[str, Any], path: Path
    ) -> tuple["SchedulerConfig", tuple[str, ...]]:
        """The same of what was read from a file already."""
        found = values.get("_class_name", DDIMConfig.class_name)
        try:
            check_class("_class_name", found, DDIMConfig.class_name)
            kind = _KINDS.get(found, DDIMConfig)
            read, foreign, passed = sift_scheduler(values, _keys(kind), _ALL_KEYS)
            _check_range(kind, foreign)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error
        own = kind.from_dict(read, str(path))
        notes = [] if found == kind.class_name else [f"{found} is read as {kind.class_name}"]
        if passed:
            notes.append(f"without effect here: {', '.join(passed)}")
        where = f"{path.parent.name}/{path.name}"
        return cls(own, {**read, **foreign}), tuple(f"{where}: {note}" for note in notes)

    @cached_property
    def sampler(self) -> str:
        """The sampler of the file's own class."""
        own = self.own
        if isinstance(own, DPMSolverConfig):
            return {2: "dpmpp_2m", 3: "dpmpp_3m"}[own.solver_order] + (
                "_sde" if own.algorithm_type == _SDE else ""
            )
        return next(name for name, means in _MEANS.items() if means.kind is type(own))

    @cached_property
    def spacing(self) -> Spacing:
        """What the file says; `Sampler.spacing` has what a sampler makes of it."""
        if self.given.get("use_karras_sigmas") is True:
            return "karras"
        return "exponential" if self.given.get("use_exponential_sigmas") is True else "default"

    @cached_property
    def samplers(self) -> tuple[str, ...]:
        """Those that the model can be drawn with: the others read a value that is not built."""
        return tuple(name for name in SAMPLERS if self._built(name))

    def config(self, sampler: str) -> ScheduleConfig:
        """The file as a sampler's own class reads it.

        A key that the file leaves out has the default of that class. Every class reads
        `rescale_betas_zero_snr`, which is of the network, though not every one in diffusers does.

        Raises:
            ValueError: a value that would change what the sampler draws and is not built.
        """
        means = _MEANS[sampler]
        _check_range(means.kind, self.given)
        values = {key: self.given[key] for key in self.given if key in _keys(means.kind)}
        frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return means.kind(**{**frozen, **means.settled})

    def check(self, sampler: object, steps: int, spacing: object, eta: float, start: int) -> None:
        """Raise `ValueError` unless the model can be drawn so; the message says what is allowed."""
        if sampler not in self.samplers:
            listed = ", ".join(self.samplers)
            raise ValueError(f"sampler is {brief(sampler)}; allowed with this model: {listed}")
        about = SAMPLERS[str(sampler)]
        if spacing not in about.spacings:
            listed = ", ".join(about.spacings)
            raise ValueError(f"spacing is {brief(spacing)}; allowed with {sampler}: {listed}")
        check("steps", steps, Annotated[int, Range(1, self.num_train_timesteps)])
        check("start", start, Annotated[int, Range(0, steps - 1)])
        check("eta", eta, Annotated[float, Range(0, 1)])
        if eta and not about.eta:
            raise ValueError(f"eta is {brief(eta)}; allowed with {sampler}: 0")

    @property
    def num_train_timesteps(self) -> int:
        """T, the most steps there can be."""
        return self.own.num_train_timesteps

    def _built(self, sampler: str) -> bool:
        try:
            self.config(sampler)
        except ValueError:
            return False
        return True
