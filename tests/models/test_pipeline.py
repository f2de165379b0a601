"""The plain loop: exact for every row, and made of the parts it says."""

from dataclasses import replace

import pytest
import torch

from models.checkpoint import Checkpoint
from models.conditioning import Classes
from models.ddim import ddim_step
from models.pipeline import LatentDiffusion, pick_device, to_uint8
from models.schedule import alpha_bars, timestep_pairs
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


def test_sample_is_the_loop_over_its_parts(tiny: LatentDiffusion) -> None:
    """The same image from the networks called by hand, to rounding."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(1, 2, 8, 8, generator=generator)
    alpha_bar = alpha_bars(SCHEDULE)
    with torch.inference_mode():
        for t, t_prev in timestep_pairs(SCHEDULE, 6):
            noise = torch.randn(1, 2, 8, 8, generator=generator)
            times = torch.full((1,), t)
            conditional = tiny.unet(x, times, torch.tensor([1]))
            null = tiny.unet(x, times, torch.tensor([3]))
            output = null + 2.5 * (conditional - null)
            now, then = alpha_bar[[t]], alpha_bar[[t_prev]]
            eta = torch.tensor([0.3])
            x, _ = ddim_step(x, output, now, then, "v_prediction", eta=eta, noise=noise)
        expected = tiny.vae.decode(x).clamp(-1, 1)
    made = tiny.sample(["dog"], [7], steps=6, guidance_scale=2.5, eta=0.3)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


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
    model = LatentDiffusion(Checkpoint(AutoencoderKL(VAE).eval(), unet, SCHEDULE, Classes(), 1.0))
    assert model.sample([None], [0], steps=2).shape == (1, 1, 16, 16)
    with pytest.raises(ValueError, match="no classes"):
        model.sample([0], [0], steps=2)


def test_wrong_arguments_are_named(tiny: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="2 labels and 1 seeds"):
        tiny.sample(["cat", "dog"], [1])
    with pytest.raises(ValueError, match="steps is 0"):
        tiny.sample(["cat"], [1], steps=0)
    with pytest.raises(ValueError, match="unknown class 'bird'"):
        tiny.sample(["bird"], [1])


def test_an_image_that_is_not_finite_is_an_error(tiny: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="an image is not finite"):
        tiny.sample(["cat"], [1], steps=2, guidance_scale=float("inf"))


def test_devices_are_named_as_pytorch_names_them() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    for wrong in ("gpu", "cuda:", "cuda:x", "cpu:0", "CUDA", "", "meta"):
        with pytest.raises(ValueError, match=r"device (is )?'"):
            pick_device(wrong)
    with pytest.raises(ValueError, match="device 'cuda:99' is not there"):
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
