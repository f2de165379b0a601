"""Every sampler against diffusers' own class, and against what its paper says."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from models.config import DDIMConfig
from models.samplers import COEFFICIENTS, HISTORY, Trajectory, step, trajectory
from models.sampling import SAMPLERS
from models.schedule import NoiseLevels
from models.schedulers import SchedulerConfig
from tests.models.diffusing import CLASSES, SETTLED, doubled, run

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SPACED = ("use_karras_sigmas", "use_exponential_sigmas")
STEPS = (1, 2, 3, 4, 5, 7, 8, 10, 14, 15, 20, 25, 30, 48, 50)
K_DIFFUSION = ("euler", "euler_a", "heun", "lms")


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_default_dtype()
    doubled(monkeypatch)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Toy(torch.nn.Module):
    """A small network that reads x and t; in float64."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(7)
        self.inward = torch.randn(8, 2, 3, 3, generator=draw, dtype=torch.float64) / 4
        self.outward = torch.randn(2, 8, 3, 3, generator=draw, dtype=torch.float64) / 9
        self.bias = torch.randn(8, 1, 1, generator=draw, dtype=torch.float64)

    def forward(self, x: Tensor, t: float) -> Tensor:
        h = torch.tanh(torch.nn.functional.conv2d(x, self.inward, padding=1) + self.bias * t / 1000)
        return 0.8 * x + torch.nn.functional.conv2d(h, self.outward, padding=1)


def drawn(
    way: Trajectory, network: Callable[[Tensor, float], Tensor], x: Tensor, noises: list[Tensor]
) -> Tensor:
    """The loop over a table."""
    x = way.noise * x
    history = x.new_zeros(len(x), HISTORY, *x.shape[1:])
    coefficients = way.coefficients.to(x.dtype)
    for i, t in enumerate(way.timesteps.tolist()):
        row = coefficients[i].expand(len(x), COEFFICIENTS)
        noise = noises[i] if way.draws[i] else None
        x, y, _ = step(x, network(x, t), row, history if way.remembers else None, noise)
        if way.kept[i] < HISTORY:
            history[:, way.kept[i]] = y
    return x


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def cases(sampler: str, count: int) -> Iterator[tuple[int, dict[str, Any], str, float]]:
    """Steps, configuration, spacing and eta, drawn from all products that diffusers can do."""
    draw = random.Random(sampler)
    about, made = SAMPLERS[sampler], 0
    while made < count:
        steps = draw.choice(STEPS)
        prediction = draw.choice(("epsilon", "v_prediction", "sample"))
        spacing = draw.choice(("leading", "trailing", "linspace"))
        config: dict[str, Any] = {
            **draw.choice((SD, COSINE)),
            "prediction_type": prediction,
            "timestep_spacing": spacing,
            "steps_offset": draw.choice((0, 1)),
            "rescale_betas_zero_snr": prediction != "epsilon" and draw.random() < 0.3,
        }
        placed = draw.choice(about.spacings)
        if placed != "default":
            config[f"use_{placed}_sigmas"] = True
        keys = diffusers_keys(sampler)
        if "clip_sample" in keys:
            config |= {"clip_sample": draw.random() < 0.5, "clip_sample_range": 0.8}
        if "set_alpha_to_one" in keys:
            config["set_alpha_to_one"] = draw.random() < 0.5
        if "final_sigmas_type" in keys and draw.random() < 0.3:
            config["final_sigmas_type"] = "sigma_min"
        if "solver_type" in keys and sampler != "unipc":
            config["solver_type"] = draw.choice(("midpoint", "heun"))
            config["euler_at_final"] = draw.random() < 0.3
        if sampler == "unipc":
            config["solver_order"] = draw.choice((1, 2, 3))
        if "lower_order_final" in keys and draw.random() < 0.3:
            config["lower_order_final"] = False
        eta = draw.choice((0.0, 0.6, 1.0)) if about.eta else 0.0
        if not refused(sampler, steps, config):
            made += 1
            yield steps, config, placed, eta


def diffusers_keys(sampler: str) -> set[str]:
    kind = getattr(diffusers, CLASSES[sampler])
    return set(kind._get_init_keys(kind))


def refused(sampler: str, steps: int, config: dict[str, Any]) -> bool:
    """Whether diffusers cannot, or steps elsewhere on purpose: see the tests of deviations."""
    spacing, zero = config["timestep_spacing"], config["rescale_betas_zero_snr"]
    if config["prediction_type"] == "sample" and sampler in ("euler_a", "pndm"):
        return True
    if sampler in ("ddim", "pndm"):  # where its stride is not the gap of its list
        if spacing == "linspace" or (spacing == "trailing" and 1000 % steps):
            return True
        return sampler == "pndm" and zero
    if sampler == "lcm":
        return False
    if steps == 1 and spacing == "linspace" and sampler in K_DIFFUSION:
        return True
    spaced = any(key in config for key in SPACED)
    if sampler == "euler_a" and spaced:
        return True
    if sampler == "unipc" and not config.get("lower_order_final", True):
        return True  # not a number, as in a last step that does not change the noise level:
    return spaced and sampler not in K_DIFFUSION and "final_sigmas_type" in config


def theirs_of(sampler: str, config: dict[str, Any]) -> Any:
    """diffusers' scheduler, with zero-terminal SNR also where its class does not know it."""
    keys = diffusers_keys(sampler)
    values = {**config, **SETTLED.get(sampler, {})}
    scheduler = getattr(diffusers, CLASSES[sampler])(
        **{key: value for key, value in values.items() if key in keys}
    )
    if config["rescale_betas_zero_snr"] and "rescale_betas_zero_snr" not in keys:
        like = diffusers.EulerDiscreteScheduler(**{k: config[k] for k in EULER if k in config})
        scheduler.alphas_cumprod = like.alphas_cumprod
    return scheduler


EULER = ("beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr", "prediction_type")


def ours_of(config: dict[str, Any]) -> SchedulerConfig:
    """Of a file with these keys, of whatever class."""
    return SchedulerConfig(DDIMConfig(), config)


@pytest.mark.parametrize("sampler", CLASSES)
def test_in_doubles_every_sampler_is_that_of_diffusers(sampler: str, doubles: None) -> None:
    network = Toy()
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(1, 2, 4, 4, generator=draw)
    noises = [torch.randn(1, 2, 4, 4, generator=draw) for _ in range(50)]
    for steps, config, spacing, eta in cases(sampler, 30):
        way = trajectory(ours_of(config), sampler, steps, spacing=spacing, eta=eta)
        given = way.timesteps.tolist()
        expected, visited = run(
            theirs_of(sampler, config),
            steps,
            network,
            x,
            iter(noises).__next__,
            eta=eta,
            timesteps=given,
        )
        assert len(visited) == len(given)
        assert max(abs(a - b) for a, b in zip(visited, given, strict=True)) < 1e-9, (steps, config)
        ours = drawn(way, network, x, noises)
        assert relative(ours, expected) <= tolerance(config), (steps, config, eta)


def tolerance(config: dict[str, Any]) -> float:
    """5e-13, but where x / alpha is large and most of it cancels: its rounding remains."""
    largest = float(NoiseLevels(DDIMConfig(**{k: config[k] for k in EULER if k in config})).highest)
    return max(5e-13, 8 * torch.finfo(torch.float64).eps * largest)
