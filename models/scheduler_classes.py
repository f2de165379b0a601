"""The scheduler classes of diffusers that samplers belong to, key for key with their defaults.

`DDIMConfig` is in config.py, as models are trained and saved with it. A value that would change
what is drawn, and is not built, is an error that names it.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from models.bounds import Length, Range, check
from models.config import Beta, ClippedConfig, Factor, ScheduleConfig, Timesteps

_MORE_THAN_ONE = "use_karras_sigmas and use_exponential_sigmas are both true; allowed: one of them"


@dataclass(frozen=True)
class PNDMConfig(ScheduleConfig):
    """diffusers `PNDMScheduler`, without its Runge-Kutta steps."""

    class_name: ClassVar[str] = "PNDMScheduler"

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check("skip_prk_steps", self.skip_prk_steps, Literal[True])

    @property
    def ends_clean(self) -> bool:
        return self.set_alpha_to_one


@dataclass(frozen=True)
class LCMConfig(ClippedConfig):
    """diffusers `LCMScheduler`."""

    class_name: ClassVar[str] = "LCMScheduler"

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    original_inference_steps: Timesteps = 50
    timestep_scaling: Factor = 10.0
    set_alpha_to_one: bool = True
    thresholding: Literal[False] = False
    dynamic_thresholding_ratio: Annotated[float, Range(0, 1)] = 0.995
    sample_max_value: Factor = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.original_inference_steps > self.num_train_timesteps:
            raise ValueError(
                f"original_inference_steps is {self.original_inference_steps}; "
                f"num_train_timesteps is {self.num_train_timesteps}"
            )


@dataclass(frozen=True)
class EulerAncestralConfig(ScheduleConfig):
    """diffusers `EulerAncestralDiscreteScheduler`."""

    class_name: ClassVar[str] = "EulerAncestralDiscreteScheduler"


@dataclass(frozen=True)
class SpacedConfig(ScheduleConfig):
    """Those whose noise levels may be placed otherwise than by timesteps."""

    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: Literal[False] | None = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_karras_sigmas and self.use_exponential_sigmas:
            raise ValueError(_MORE_THAN_ONE)


@dataclass(frozen=True)
class EulerConfig(SpacedConfig):
    """diffusers `EulerDiscreteScheduler`."""

    class_name: ClassVar[str] = "EulerDiscreteScheduler"

    interpolation_type: Literal["linear"] = "linear"
    sigma_min: None = None
    sigma_max: None = None
    timestep_type: Literal["discrete"] = "discrete"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def ends_clean(self) -> bool:
        return self.final_sigmas_type == "zero"


@dataclass(frozen=True)
class LMSConfig(SpacedConfig):
    """diffusers `LMSDiscreteScheduler`."""

    class_name: ClassVar[str] = "LMSDiscreteScheduler"


@dataclass(frozen=True)
class HeunConfig(SpacedConfig, ClippedConfig):
    """diffusers `HeunDiscreteScheduler`."""

    class_name: ClassVar[str] = "HeunDiscreteScheduler"

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012


@dataclass(frozen=True)
class MultistepConfig(SpacedConfig):
    """What DPM-Solver and UniPC have in common."""

    solver_order: int = 2
    lower_order_final: bool = True
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    use_flow_sigmas: Literal[False] = False
    flow_shift: Factor = 1.0
    use_dynamic_shifting: Literal[False] = False
    time_shift_type: Literal["exponential"] = "exponential"
    thresholding: Literal[False] = False
    dynamic_thresholding_ratio: Annotated[float, Range(0, 1)] = 0.995
    sample_max_value: Factor = 1.0

    @property
    def ends_clean(self) -> bool:
        return self.final_sigmas_type == "zero"

    @property
    def rounds_down(self) -> bool:
        """Whether `karras` rounds timesteps down; the nearest whole number is taken otherwise."""
        return False


@dataclass(frozen=True)
class DPMSolverConfig(MultistepConfig):
    """diffusers `DPMSolverMultistepScheduler`. Names of other solvers mean its own, as there."""

    class_name: ClassVar[str] = "DPMSolverMultistepScheduler"

    solver_order: Literal[2, 3] = 2
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++", "deis"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    euler_at_final: bool = False
    use_lu_lambdas: Literal[False] = False
    lambda_min_clipped: float = -float("inf")
    variance_type: (  # learned: refused, as for every class
        Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"] | None
    ) = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lambda_min_clipped != -float("inf"):
            raise ValueError(
                f"lambda_min_clipped is {self.lambda_min_clipped:g}; allowed: -Infinity"
            )
        if self.solver_order == 3 and self.algorithm_type == "sde-dpmsolver++":
            raise ValueError("solver_order is 3; allowed with algorithm_type sde-dpmsolver++: 2")

    @property
    def rounds_down(self) -> bool:
        return self.beta_schedule == "squaredcos_cap_v2"


@dataclass(frozen=True)
class UniPCConfig(MultistepConfig):
    """diffusers `UniPCMultistepScheduler`. Names of other solvers mean bh2, as there."""

    class_name: ClassVar[str] = "UniPCMultistepScheduler"

    solver_order: Annotated[int, Range(1, 3)] = 2
    solver_type: Literal["bh1", "bh2", "midpoint", "heun", "logrho"] = "bh2"
    predict_x0: Literal[True] = True
    disable_corrector: Annotated[tuple[int, ...], Length(0, 0)] = ()
    solver_p: None = None
    sigma_min: None = None
    sigma_max: None = None
    shift_terminal: None = None
