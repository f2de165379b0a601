"""The plain loop: exact for every row, and made of the parts it says."""

import copy
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.asked import Options
from models.checkpoint import Checkpoint
from models.conditioning import Classes
from models.config import ScheduleConfig
from models.pipeline import LatentDiffusion, pick_device, to_image, to_uint8
from models.samplers import HISTORY, step, trajectory
from models.sampling import SAMPLERS
from models.schedule import add_noise
from models.scheduler_classes import DPMSolverConfig
from models.schedulers import SchedulerConfig
from models.unet import UNet2D
from models.vae import AutoencoderKL
from tests.tiny import SCHEDULE, UNET, VAE


def test_an_image_is_the_same_bits_in_any_company(tiny: LatentDiffusion) -> None:
    labels = ["cat", "dog", None, 2] * 9
    seeds = list(range(36))
    together = tiny.sample(labels, seeds, steps=5, guidance_scale=2.0, eta=0.5)
    for i in (0, 1, 2, 15, 16, 35):
        alone = tiny.sample([labels[i]], [seeds[i]], steps=5, guidance_scale=2.0, eta=0.5)
        assert torch.equal(together[i], alone[0])


def test_every_sampler_draws_the_same_bits_in_any_company(tiny: LatentDiffusion) -> None:
    for sampler, about in SAMPLERS.items():
        spacing = about.spacings[-1]
        how: Options = {"steps": 5, "sampler": sampler, "spacing": spacing, "guidance_scale": 2.0}
        together = tiny.sample(["cat", "dog", None], [1, 2, 3], **how)
        assert torch.equal(together[1], tiny.sample(["dog"], [2], **how)[0])
        assert together.std() > 0.01


@pytest.mark.parametrize("sampler", ["ddim", "lms", "dpmpp_2m_sde"])
def test_sample_is_the_loop_over_its_parts(tiny: LatentDiffusion, sampler: str) -> None:
    """The same image from the networks called by hand, to rounding."""
    eta = 0.3 if sampler == "ddim" else 0.0
    way = trajectory(tiny.schedule, sampler, 6, eta=eta)
    generator = torch.Generator().manual_seed(7)
    x = way.noise * torch.randn(1, 2, 8, 8, generator=generator)
    history = torch.zeros(1, HISTORY, 2, 8, 8)
    with torch.inference_mode():
        for i, t in enumerate(way.timesteps.tolist()):
            times = torch.full((1,), t)
            conditional = tiny.unet(x, times, torch.tensor([1]))
            null = tiny.unet(x, times, torch.tensor([3]))
            output = null + 2.5 * (conditional - null)
            noise = torch.randn(1, 2, 8, 8, generator=generator)
            row = way.coefficients[i : i + 1].float()
            x, y = step(x, output, row, history, noise)
            if way.kept[i] < HISTORY:
                history[:, way.kept[i]] = y
        expected = tiny.vae.decode(x).clamp(-1, 1)
    made = tiny.sample(["dog"], [7], steps=6, guidance_scale=2.5, eta=eta, sampler=sampler)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_start_leaves_out_steps_and_begins_under_the_noise_there(
    tiny: LatentDiffusion, sampler: str
) -> None:
    latents = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    seen: list[tuple[float, torch.Tensor]] = []
    watched = copy.copy(tiny)
    predict = watched._predict

    def watch(x: torch.Tensor, t: float, *others: Any) -> torch.Tensor:
        seen.append((t, x[:2].clone()))
        return predict(x, t, *others)

    watched._predict = watch  # type: ignore[method-assign]
    how: Options = {"steps": 8, "sampler": sampler, "start": 5}
    made = watched.denoise(["cat", "dog"], [4, 5], latents=latents, **how)
    noise = torch.stack([tiny.start(seed)[0] for seed in (4, 5)])
    way = trajectory(tiny.schedule, sampler, 8, start=5)
    assert len(seen) == len(way.timesteps) == SAMPLERS[sampler].evaluations(3)
    expected = add_noise(latents, noise, torch.tensor(way.signal**2))
    torch.testing.assert_close(seen[0][1], expected, rtol=1e-5, atol=1e-6)
    assert [t for t, _ in seen] == way.timesteps.tolist()
    assert made.isfinite().all()
    assert not torch.equal(made, tiny.denoise(["cat", "dog"], [4, 5], **how))
    with pytest.raises(ValueError, match=r"latents have the shape \(1, .*allowed: \(2, 2, 8, 8\)"):
        tiny.denoise(["cat", "dog"], [4, 5], latents=latents[:1], **how)


def test_guidance_is_bounded_by_evaluations(tiny: LatentDiffusion) -> None:
    """Heun has 7 in 4 steps: the first half are evaluations 0 to 3, of which a step has two."""
    calls: list[int] = []
    watched = copy.copy(tiny)
    predict = watched._predict

    def watch(x: torch.Tensor, *others: Any) -> torch.Tensor:
        calls.append(len(x))
        return predict(x, *others)

    watched._predict = watch  # type: ignore[method-assign]
    watched.denoise(["cat"], [1], steps=4, sampler="heun", guidance_interval=(0.0, 0.5))
    assert calls == [2, 2, 2, 2, 1, 1, 1]


def test_the_own_sampler_and_spacing_are_what_is_drawn_by_default(tiny: LatentDiffusion) -> None:
    config = DPMSolverConfig(**{**asdict(PLAIN), "use_karras_sigmas": True})
    model = copy.copy(tiny)
    model.schedule = SchedulerConfig.of(config)
    assert (model.schedule.sampler, model.schedule.spacing) == ("dpmpp_2m", "karras")
    drawn = model.sample(["cat"], [1], steps=4)
    named = model.sample(["cat"], [1], steps=4, sampler="dpmpp_2m", spacing="karras")
    assert torch.equal(drawn, named)
    for other in ({"spacing": "default"}, {"sampler": "euler"}, {"sampler": "ddim"}):
        assert not torch.equal(drawn, model.sample(["cat"], [1], steps=4, **other))
    # Euler's class reads the file's spacing, Euler a's does not, and DDIM has none.
    for sampler, spacing in (("euler", "karras"), ("euler_a", "default"), ("ddim", "default")):
        made = model.sample(["cat"], [1], steps=4, sampler=sampler)
        again = model.sample(["cat"], [1], steps=4, sampler=sampler, spacing=spacing)
        assert torch.equal(made, again)


PLAIN = ScheduleConfig(beta_schedule="scaled_linear", prediction_type="v_prediction")


def test_seed_class_steps_guidance_and_eta_each_matter(tiny: LatentDiffusion) -> None:
    base = tiny.sample(["cat"], [1], steps=4)
    assert torch.equal(base, tiny.sample(["cat"], [1], steps=4, guidance_scale=1.5))
    for other in (
        tiny.sample(["cat"], [2], steps=4),
        tiny.sample(["dog"], [1], steps=4),
        tiny.sample([None], [1], steps=4),
        tiny.sample(["cat"], [1], steps=5),
        tiny.sample(["cat"], [1], steps=4, guidance_scale=1.0),
        tiny.sample(["cat"], [1], steps=4, eta=1.0),
    ):
        assert not torch.equal(base, other)


def test_guidance_changes_nothing_without_a_class(tiny: LatentDiffusion) -> None:
    plain = tiny.sample([None], [1], steps=3, guidance_scale=1.0)
    assert torch.equal(plain, tiny.sample([None], [1], steps=3, guidance_scale=7.0))


def test_an_unconditional_model_samples() -> None:
    torch.manual_seed(0)
    unet = UNet2D(replace(UNET, num_class_embeds=None)).eval()
    schedule = SchedulerConfig.of(SCHEDULE)
    model = LatentDiffusion(Checkpoint(AutoencoderKL(VAE).eval(), unet, schedule, Classes(), 1.0))
    assert model.sample([None], [0], steps=2).shape == (1, 1, 16, 16)
    with pytest.raises(ValueError, match="no classes"):
        model.sample([0], [0], steps=2)


WRONG: dict[str, tuple[list[Any], Any, dict[str, Any], str]] = {
    "fewer seeds": (["cat", "dog"], [1], {}, "2 labels and 1 seeds"),
    "more seeds": (["cat"], [1, 2], {}, "1 labels and 2 seeds"),
    "no images": ([], None, {}, "labels is empty"),
    "no list of labels": ("cat", None, {}, "labels is 'cat'; allowed: a list"),
    "a number for labels": (7, None, {}, "labels is 7; allowed: a list"),  # type: ignore[dict-item]
    "a number for seeds": (["cat"], 1, {}, "seeds is 1; allowed: a list"),
    "unknown class": (["bird"], [1], {}, "unknown class 'bird'"),
    "an index past the last": ([3], [1], {}, "unknown class 3"),
    "an index that is no whole number": ([0.5], [1], {}, "a label is 0.5; allowed"),
    "a truth for a label": ([True], [1], {}, "a label is True; allowed"),
    "a negative seed": (["cat"], [-1], {}, "a seed is -1; allowed: a whole number, 0 to 922337"),
    "a large seed": (["cat"], [2**63], {}, "a seed is 9223372036854775808; allowed"),
    "half a seed": (["cat"], [1.5], {}, "a seed is 1.5"),
    "no steps": (["cat"], [1], {"steps": 0}, "steps is 0; allowed: 1 to 1000"),
    "negative steps": (["cat"], [1], {"steps": -3}, "steps is -3"),
    "too many steps": (["cat"], [1], {"steps": 1001}, "steps is 1001"),
    "half a step": (["cat"], [1], {"steps": 2.5}, "steps is 2.5; allowed: int"),
    "a truth for steps": (["cat"], [1], {"steps": True}, "steps is True"),
    "unknown sampler": (["cat"], [1], {"sampler": "plms"}, "sampler is 'plms'; allowed with this"),
    "a number for a sampler": (["cat"], [1], {"sampler": 3}, "sampler is 3; allowed"),
    "unknown spacing": (
        ["cat"],
        [1],
        {"sampler": "lms", "spacing": "x"},
        "spacing is 'x'; allowed",
    ),
    "no spacing of DDIM": (
        ["cat"],
        [1],
        {"spacing": "karras"},
        "'karras'; allowed with ddim: default",
    ),
    "no eta of Euler": (["cat"], [1], {"sampler": "euler", "eta": 1}, "allowed with euler: 0"),
    "nothing left": (["cat"], [1], {"steps": 2, "start": 2}, "start is 2; allowed: 0 to 1"),
    "negative eta": (["cat"], [1], {"eta": -0.1}, "eta is -0.1; allowed: 0 to 1"),
    "eta above 1": (["cat"], [1], {"eta": 1.1}, "eta is 1.1"),
    "eta is no number": (["cat"], [1], {"eta": math.nan}, "eta is nan"),
    "negative guidance": (["cat"], [1], {"guidance_scale": -1}, "guidance_scale is -1"),
    "guidance is no number": (["cat"], [1], {"guidance_scale": math.nan}, "guidance_scale is nan"),
    "endless guidance": (["cat"], [1], {"guidance_scale": math.inf}, "guidance_scale is inf"),
    "guidance in words": (["cat"], [1], {"guidance_scale": "2"}, "guidance_scale is '2'"),
    "reversed interval": (["cat"], [1], {"guidance_interval": (0.6, 0.4)}, "it must begin before"),
    "wide interval": (["cat"], [1], {"guidance_interval": (0, 2)}, "guidance_interval is 2"),
    "half an interval": (["cat"], [1], {"guidance_interval": (0.5,)}, "guidance_interval has 1"),
    "no interval": (["cat"], [1], {"guidance_interval": 0.5}, "guidance_interval is 0.5"),
    "interval of none": (["cat"], [1], {"guidance_interval": (math.nan, 1)}, "guidance_interval"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_docstring_forbids_is_a_value_error(tiny: LatentDiffusion, name: str) -> None:
    labels, seeds, others, message = WRONG[name]
    for draw in (tiny.sample, tiny.images):
        with pytest.raises(ValueError, match=re.escape(message)):
            draw(labels, seeds, **others)


def test_numbers_may_be_of_numpy_and_of_tensors(tiny: LatentDiffusion) -> None:
    expected = tiny.sample([1], [3], steps=3, guidance_scale=2.0, eta=0.5)
    made = tiny.sample(
        torch.tensor([1]),  # type: ignore[arg-type]
        np.array([3]),  # type: ignore[arg-type]
        steps=np.int64(3),  # type: ignore[arg-type]
        guidance_scale=np.float32(2),  # type: ignore[arg-type]
        guidance_interval=np.array([0.0, 1.0]),  # type: ignore[arg-type]
        eta=np.float64(0.5),
    )
    assert torch.equal(made, expected)


def test_the_interval_bounds_the_steps_that_are_guided(tiny: LatentDiffusion) -> None:
    def drawn(start: float, end: float) -> torch.Tensor:
        return tiny.sample(["cat"], [1], steps=4, guidance_interval=(start, end))

    assert torch.equal(drawn(0.5, 0.5), tiny.sample(["cat"], [1], steps=4, guidance_scale=1))
    assert torch.equal(drawn(0.3, 0.8), drawn(0.5, 0.76))
    assert not torch.equal(drawn(0.5, 1), drawn(0.25, 1))


def test_images_know_their_seeds(tiny: LatentDiffusion) -> None:
    """Random ones, too: the same picture can be drawn again."""
    first, second = tiny.images(["cat", "dog"], steps=3)
    assert (first.mode, first.size) == ("L", (16, 16))
    assert first.info["seed"] != second.info["seed"]
    seeds = [first.info["seed"], second.info["seed"]]
    expected = to_uint8(tiny.sample(["cat", "dog"], seeds, steps=3))
    assert np.array_equal(np.stack([first, second]), expected[..., 0].numpy())
    assert tiny.images(["cat"], [7], steps=1)[0].info["seed"] == 7
    assert not torch.equal(tiny.sample(["cat"], steps=1), tiny.sample(["cat"], steps=1))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pixels_become_an_image(channels: int, mode: str) -> None:
    pixels = torch.arange(2 * 3 * channels, dtype=torch.uint8).view(2, 3, channels)
    image = to_image(pixels, 5)
    assert (image.mode, image.size, image.info["seed"]) == (mode, (3, 2), 5)
    assert np.array_equal(np.array(image).reshape(2, 3, channels), pixels.numpy())


def test_an_image_that_is_not_finite_is_an_error(tiny: LatentDiffusion) -> None:
    broken = copy.deepcopy(tiny)
    with torch.no_grad():
        broken.vae.decoder.conv_out.bias.fill_(math.inf)
    with pytest.raises(ValueError, match="an image is not finite"):
        broken.sample(["cat"], [1], steps=2)


def test_a_model_opens_by_name_or_by_path(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digits = LatentDiffusion.open("digits")
    assert digits.classes.names[7] == "7"
    assert (digits.image_size, digits.notes) == ((32, 32), ())
    for path in (tiny_folder, str(tiny_folder), f"cats={tiny_folder}"):
        assert LatentDiffusion.open(path).image_size == (16, 16)
    with pytest.raises(ValueError, match=r"no model 'digit'; shipped: .*digits.*or a path"):
        LatentDiffusion.open("digit")
    with pytest.raises(
        ValueError, match=r"digits: not a model folder: model_index\.json is missing"
    ):
        LatentDiffusion.open(Path("digits"))
    for wrong in ({"dtype": torch.int8}, {"dtype": "float32"}, {"block_rows": 0}, {"device": "x"}):
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))} is .*; allowed"):
            LatentDiffusion.open(tiny_folder, **wrong)


def test_shapes_that_are_none_are_named(tiny: LatentDiffusion) -> None:
    for shape in ((1, 3, 16, 16), (1, 16, 16), (1, 1, 15, 16)):
        with pytest.raises(ValueError, match=r"images have the shape .*allowed: \(B, 1, H, W\)"):
            tiny.encode(torch.zeros(shape))
    for shape in ((1, 3, 8, 8), (2, 8, 8)):
        with pytest.raises(ValueError, match=r"latents have the shape .*allowed: \(B, 2, h, w\)"):
            tiny.decode(torch.zeros(shape))


def test_devices_are_named_as_pytorch_names_them() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    for wrong in ("gpu", "cuda:", "cuda:x", "cpu:0", "CUDA", "", "meta"):
        with pytest.raises(ValueError, match=r"device (is )?'"):
            pick_device(wrong)
    with pytest.raises(ValueError, match="device 'cuda:99' does not exist"):
        pick_device("cuda:99")


def test_encode_is_the_mean_that_decode_takes(tiny: LatentDiffusion) -> None:
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(tiny.encode(images), tiny.vae.encode(images).mean)
    assert tiny.decode(tiny.encode(images)).shape == images.shape
    assert tiny.image_size == (16, 16)


def test_pixels_span_the_range_and_round() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, -1 + 1.4 / 127.5]).view(1, 1, 1, 6)
    assert to_uint8(values).flatten().tolist() == [0, 0, 128, 255, 255, 1]
