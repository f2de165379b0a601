"""Every sampler against diffusers' own class, and against what its paper says."""

import copy
import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from models.asked import Options
from models.config import DDIMConfig
from models.pipeline import LatentDiffusion
from models.samplers import (
    COEFFICIENTS,
    COLUMNS,
    HISTORY,
    Trajectory,
    clean,
    guide,
    step,
    trajectory,
)
from models.sampling import SAMPLERS
from models.schedule import NoiseLevels
from models.schedulers import SchedulerConfig
from models.solvers import to_x0
from tests.models.diffusing import CLASSES, SETTLED, doubled, run

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SPACED = ("use_karras_sigmas", "use_exponential_sigmas")
STEPS = (1, 2, 3, 4, 5, 7, 8, 10, 14, 15, 20, 25, 30, 48, 50)
Denoise = Callable[[Tensor, float], Tensor]
K_DIFFUSION = ("euler", "euler_a", "heun", "lms")


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """diffusers' schedulers in float64."""
    doubled(monkeypatch)
    with default(torch.float64):
        yield


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
        x, y = step(x, network(x, t), row, history if way.remembers else None, noise)
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
    if sampler == "heun" and zero:
        return True
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


@pytest.fixture(scope="module")
def digits() -> LatentDiffusion:
    return LatentDiffusion.open("digits", block_rows=2)


SHIPPED: dict[str, Any] = {
    **COSINE,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", CLASSES)
def test_on_the_digits_every_sampler_is_that_of_diffusers(
    sampler: str, digits: LatentDiffusion, doubles: None
) -> None:
    """Ours in float32. Theirs around the same network in doubles, because x / alpha is 4,096 where
    SNR ends at zero, and rounding alone then makes more than 1e-4 of difference.
    """
    labels, seeds = torch.tensor([3, 8]), [1, 2]

    def network(x: Tensor, t: float) -> Tensor:
        with default(torch.float32):
            return digits.unet(x.float(), torch.full((2,), t), labels).double()

    others = [(steps, config, eta) for steps, config, _, eta in cases(sampler, 4)]
    for steps, config, eta in [*((steps, SHIPPED, 0.0) for steps in (1, 8, 20)), *others]:
        if sampler in ("pndm", "heun") and config is SHIPPED:
            continue  # theirs divides by zero; ours is another, on purpose
        if config["prediction_type"] == "epsilon" and tolerance(config) > 5e-13:
            continue  # x0 is a difference of numbers many thousand times as large
        model = copy.copy(digits)
        model.schedule = SchedulerConfig(DDIMConfig(), config)
        options: Options = {"sampler": sampler, "steps": steps, "eta": eta, "guidance_scale": 1.0}
        with default(torch.float32):
            made = model.denoise([3, 8], seeds, **options)
        spacing = SAMPLERS[sampler].spacing(model.schedule.spacing)
        way = trajectory(model.schedule, sampler, steps, spacing=spacing, eta=eta)
        noise = drawing([torch.Generator().manual_seed(seed) for seed in seeds], digits)
        with torch.inference_mode():
            expected, _ = run(
                theirs_of(sampler, config),
                steps,
                network,
                noise(),
                noise,
                eta=eta,
                timesteps=way.timesteps.float().tolist(),
            )
        assert relative(made, expected) <= 1e-4, (steps, config, eta)


def drawing(generators: list[torch.Generator], model: LatentDiffusion) -> Callable[[], Tensor]:
    """Noise as the model draws it, in float32."""
    shape = model.latent_shape

    def noise() -> Tensor:
        drawn = [torch.randn(shape, generator=draw, dtype=torch.float32) for draw in generators]
        return torch.stack(drawn).double()

    return noise


def k_dpmpp_2s_a(levels: list[float], denoise: Denoise, x: Tensor, noises: list[Tensor]) -> Tensor:
    """Lu et al. 2022b, algorithm 1, in x / alpha with t = -log sigma, each step with noise on top.

    As Crowson et al. write it down in k-diffusion.
    """
    for i, (s, s1) in enumerate(itertools.pairwise(levels)):
        s_up = (s1**2 * (s**2 - s1**2) / s**2) ** 0.5
        s_down = (s1**2 - s_up**2) ** 0.5
        x0 = denoise(x, s)
        if s_down == 0:
            x = x + (x - x0) / s * (s_down - s)
            continue
        t, t1 = -math.log(s), -math.log(s_down)
        h = t1 - t
        middle = math.exp(-(t + h / 2))
        x_middle = (middle / s) * x - math.expm1(-h / 2) * x0
        x = (s_down / s) * x - math.expm1(-h) * denoise(x_middle, middle) + noises[i] * s_up
    return x


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("spacing", ["default", "karras", "exponential"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_dpmpp_2s_a_is_its_algorithm(prediction: Any, spacing: Any, steps: int) -> None:
    zero = prediction != "epsilon"
    config = {**SD, "prediction_type": prediction, "rescale_betas_zero_snr": zero}
    scheduler = SchedulerConfig(DDIMConfig(), config | {"timestep_spacing": "trailing"})
    way = trajectory(scheduler, "dpmpp_2s_a", steps, spacing=spacing)
    euler = trajectory(scheduler, "euler_a", steps, spacing=spacing)
    assert way.timesteps[::2].tolist() == euler.timesteps.tolist()
    network, levels = Toy(), NoiseLevels(scheduler.config("dpmpp_2s_a"))
    walked = [level.ratio for level in levels.walk(steps, spacing)]
    times = dict(zip(walked, euler.timesteps.tolist(), strict=True))

    def denoise(x: Tensor, s: float) -> Tensor:
        t = min((abs(ratio / s - 1), t) for ratio, t in times.items())[1]
        alpha, sigma = 1 / math.hypot(s, 1), s / math.hypot(s, 1)
        p, q = to_x0(prediction, alpha, sigma)
        return p * alpha * x + q * network(x * alpha, t)

    draw = torch.Generator().manual_seed(3)
    x, *noises = torch.randn(51, 1, 2, 4, 4, generator=draw, dtype=torch.float64)
    expected = k_dpmpp_2s_a([*walked, 0.0], denoise, x * walked[0], noises)
    paired = [noises[i // 2] for i in range(2 * steps)]  # two evaluations per step
    # s1^2 - s_up^2 loses digits, which s1^2 / s does not.
    assert relative(drawn(way, network, x, paired), expected) <= 5e-11


def test_euler_a_walks_the_same_levels_as_euler_whatever_their_spacing() -> None:
    scheduler = SchedulerConfig(DDIMConfig(), {**SD, "timestep_spacing": "trailing"})
    for spacing in ("default", "karras", "exponential"):
        plain, noisy = (
            trajectory(scheduler, sampler, 9, spacing=spacing) for sampler in ("euler", "euler_a")
        )
        assert torch.equal(plain.timesteps, noisy.timesteps)
        assert torch.equal(plain.coefficients[:, :2], noisy.coefficients[:, :2])


DRAWING = {"euler_a", "dpmpp_2m_sde", "dpmpp_2s_a", "lcm"}  # noise, in their steps


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_terminal_snr_is_finite_for_every_count_and_spacing(
    sampler: str, digits: LatentDiffusion
) -> None:
    about = SAMPLERS[sampler]
    for spacing, steps in itertools.product(about.spacings, [*range(1, 51), 999, 1000]):
        for start in {0, steps // 3, steps - 1}:
            way = trajectory(digits.schedule, sampler, steps, spacing=spacing, start=start)
            assert len(way.timesteps) == about.evaluations(steps - start)
            numbers = way.coefficients.float()
            assert numbers[:, [c != "clip" for c in COLUMNS]].isfinite().all(), (spacing, steps)
            assert ((way.timesteps >= 0) & (way.timesteps <= 999)).all()
            assert sampler in DRAWING or not any(way.draws)
            assert math.isclose(math.hypot(way.signal, way.noise), 1, rel_tol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("total", [2, 3, 8])
def test_few_timesteps_give_finite_steps(sampler: str, total: int) -> None:
    for spacing in ("leading", "trailing", "linspace"):
        config = {**SD, "num_train_timesteps": total, "timestep_spacing": spacing}
        config |= {"steps_offset": 1, "original_inference_steps": 2}
        scheduler = SchedulerConfig(DDIMConfig(), config)
        for steps, placed in itertools.product(range(1, total + 1), SAMPLERS[sampler].spacings):
            way = trajectory(scheduler, sampler, steps, spacing=placed)
            assert way.coefficients[:, [c != "clip" for c in COLUMNS]].isfinite().all()
            assert ((way.timesteps >= 0) & (way.timesteps < total)).all()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "sampler": ({"sampler": "plms"}, "sampler is 'plms'; allowed with this model: ddim, euler, "),
    "spacing": ({"spacing": "beta"}, "spacing is 'beta'; allowed with euler: default, karras, "),
    "no spacing": ({"sampler": "ddim", "spacing": "karras"}, "allowed with ddim: default"),
    "no eta": ({"eta": 0.5}, "eta is 0.5; allowed with euler: 0"),
    "large eta": ({"sampler": "ddim", "eta": 2}, "eta is 2; allowed: float, 0 to 1|eta is 2"),
    "steps": ({"steps": 0}, "steps is 0; allowed: 1 to 1000"),
    "more steps": ({"steps": 1001}, "steps is 1001; allowed: 1 to 1000"),
    "start": ({"start": 8}, "start is 8; allowed: 0 to 7"),
    "before the start": ({"start": -1}, "start is -1; allowed: 0 to 7"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_drawn_is_refused_with_what_is_allowed(name: str) -> None:
    values, message = WRONG[name]
    asked = {"sampler": "euler", "steps": 8, **values}
    with pytest.raises(ValueError, match=message):
        trajectory(SchedulerConfig.of(DDIMConfig(**SD)), **asked)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_preview_is_the_clean_latent_as_it_is_seen(sampler: str) -> None:
    """Of a network that knows it: every evaluation sees the same one."""
    config = {**SD, "prediction_type": "sample", "timestep_spacing": "leading"}
    scheduler = SchedulerConfig(DDIMConfig(), config | {"clip_sample": False})
    way = trajectory(scheduler, sampler, 7)
    draw = torch.Generator().manual_seed(0)
    x, known, noise = torch.randn(3, 1, 2, 4, 4, generator=draw, dtype=torch.float64)
    history = x.new_zeros(1, HISTORY, 2, 4, 4)
    x = way.noise * x
    for i in range(len(way.timesteps)):
        row = way.coefficients[i : i + 1]
        torch.testing.assert_close(clean(x, known, row), known)
        x, y = step(x, known, row, history, noise if way.draws[i] else None)
        if way.kept[i] < HISTORY:
            history[:, way.kept[i]] = y
    away = (x - known).abs().max()
    # As set_alpha_to_one is false by default in PNDM, it ends at timestep 0, with its noise.
    assert away < (0.2 if sampler == "pndm" else 0.01 if sampler == "lcm" else 1e-12)


def test_pndm_with_an_output_that_never_changes_is_ddim() -> None:
    """The weights of its averages add up to 1; also for the sample, which diffusers has not."""
    draw = torch.Generator().manual_seed(0)
    x, output = torch.randn(2, 1, 2, 4, 4, generator=draw, dtype=torch.float64)
    for prediction in ("epsilon", "v_prediction", "sample"):
        zero = prediction != "epsilon"
        config = {**SD, "prediction_type": prediction, "rescale_betas_zero_snr": zero}
        config |= {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
        scheduler = SchedulerConfig(DDIMConfig(), config)
        ddim, pndm = (
            drawn(trajectory(scheduler, sampler, 9), lambda *_: output, x, [])
            for sampler in ("ddim", "pndm")
        )
        torch.testing.assert_close(pndm, ddim, rtol=1e-10, atol=1e-10)


def test_where_we_step_otherwise_than_diffusers() -> None:
    """Each on purpose: docs/decisions.md has the reasons."""

    def way(sampler: str, steps: int, **values: Any) -> Trajectory:
        start = values.pop("start", 0)
        scheduler = SchedulerConfig(DDIMConfig(), {**SD, **values})
        return trajectory(scheduler, sampler, steps, start=start)

    # PNDM goes to the next timestep of its list, as DDIM does, and not by a stride.
    assert way("pndm", 3, timestep_spacing="linspace").timesteps.tolist() == [999, 500, 500, 0]
    # The single step of linspace begins in noise, and not at the clean end.
    for sampler in ("ddim", "euler", "euler_a", "heun", "lms", "dpmpp_2s_a", "pndm"):
        assert way(sampler, 1, timestep_spacing="linspace").timesteps.tolist() == [999]
    # An offset never leads past the last timestep.
    assert way("euler", 1, timestep_spacing="leading", steps_offset=5000).timesteps[0] == 999
    # LCM may take more steps than its network was distilled at.
    assert way("lcm", 100).timesteps.tolist() == [i * 10 - 1 for i in range(100, 0, -1)]
    # From the middle, what remembers begins anew, as at the beginning of a way.
    for sampler in ("pndm", "lms"):
        late = way(sampler, 20, start=15, timestep_spacing="leading")
        assert len(late.timesteps) == SAMPLERS[sampler].evaluations(5)
        assert late.timesteps[0] == 200
        assert late.coefficients[0, COLUMNS.index("c0")] == 0
    # Every sampler takes the betas that the network was trained with.
    for sampler in ("heun", "lms", "pndm"):
        values = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
        first = way(sampler, 4, timestep_spacing="trailing", **values).coefficients[0]
        assert first[COLUMNS.index("u")] < 3e-4, "no signal at the first step"
    # A last step that does not change the noise level changes nothing.
    scheduler = SchedulerConfig(DDIMConfig(), {**SD, "final_sigmas_type": "sigma_min"})
    for sampler in ("dpmpp_2m", "dpmpp_3m", "unipc"):
        last = trajectory(scheduler, sampler, 20, spacing="karras").coefficients[-1]
        assert last[COLUMNS.index("a")] == 1
        assert last[COLUMNS.index("d")] == 0


def test_from_a_level_that_is_all_noise_heun_takes_the_trapezoid_of_x0() -> None:
    """A Gaussian of deviation c has a known way: x / alpha goes as sqrt(s^2 + c^2).

    The trapezoid of slopes is off by hundreds: they are those of x / alpha, which is 4,096 there.
    """
    c = 0.5
    values = {"rescale_betas_zero_snr": True, "prediction_type": "sample"}
    scheduler = SchedulerConfig(DDIMConfig(), {**SD, **values, "timestep_spacing": "trailing"})

    def error(steps: int) -> float:
        walked = NoiseLevels(scheduler.config("heun")).walk(steps, "default")
        levels = {level.t: level for level in walked}

        def x0(x: Tensor, t: float) -> Tensor:
            level = levels[t]
            return x / level.alpha * c**2 / (level.ratio**2 + c**2)

        way = trajectory(scheduler, "heun", steps)
        way = dataclasses.replace(way, timesteps=way.timesteps[:-1])  # the last is Euler's
        made = drawn(way, x0, torch.ones(1, 1, 1, 1, dtype=torch.float64), [])
        first, last = walked[0], walked[-1]
        exact = way.noise / first.alpha * math.hypot(last.ratio, c) / math.hypot(first.ratio, c)
        return abs(made.item() / last.alpha / exact - 1)

    assert max(map(error, (2, 3, 4, 8, 16, 32))) < 0.02


def test_a_row_has_the_same_bits_whatever_its_batch_remembers_or_draws() -> None:
    scheduler = SchedulerConfig.of(DDIMConfig(**SD))
    draw = torch.Generator().manual_seed(0)
    x, output, noise = torch.randn(3, 12, 2, 4, 4, generator=draw)
    history = torch.randn(12, HISTORY, 2, 4, 4, generator=draw)
    ways = [trajectory(scheduler, sampler, 6) for sampler in SAMPLERS]
    rows = torch.stack([way.coefficients[3] for way in ways]).float()
    together = step(x, output, rows, history, noise)
    for i, way in enumerate(ways):
        one = slice(i, i + 1)
        needs = way.remembers, way.draws[3]
        alone = step(
            x[one],
            output[one],
            rows[one],
            history[one] if needs[0] else None,
            noise[one] if needs[1] else None,
        )
        assert all(torch.equal(a[one], b) for a, b in zip(together, alone, strict=True))


def test_guidance_by_hand() -> None:
    conditional, unconditional = torch.full((3, 1, 1, 1), 2.0), torch.full((3, 1, 1, 1), 1.0)
    guided = guide(conditional, unconditional, torch.tensor([0.0, 1.0, 3.0]))
    assert guided.flatten().tolist() == [1.0, 2.0, 4.0]
