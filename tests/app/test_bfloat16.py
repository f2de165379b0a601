"""bfloat16 on the CPU: OpenVINO rounds float32 weights, where the processor can."""

import logging
from pathlib import Path

import msgspec
import pytest
import torch

from app.engine.backends import openvino
from app.engine.backends.choice import pick_backend, weights_dtype
from app.engine.backends.openvino import OpenVino
from app.engine.offline import draw
from app.engine.runner import Runner
from models.pipeline import LatentDiffusion
from tests.app.test_runner import served
from tests.fakes import LOAD, drawn

CPU, GPU = torch.device("cpu"), torch.device("cuda")
needs_bfloat16 = pytest.mark.skipif(
    not openvino.in_bfloat16(), reason="this processor does not compute in bfloat16"
)


@pytest.mark.parametrize(
    ("device", "dtype", "backend", "opened"),
    [
        (CPU, torch.bfloat16, "auto", torch.float32),
        (CPU, torch.bfloat16, "openvino", torch.float32),
        (CPU, torch.bfloat16, "eager", torch.bfloat16),
        (CPU, torch.float16, "auto", torch.float16),
        (CPU, torch.float32, "auto", torch.float32),
        (GPU, torch.bfloat16, "auto", torch.bfloat16),
    ],
)
def test_weights_are_opened_in_what_the_backend_rounds_them_from(
    device: torch.device,
    dtype: torch.dtype,
    backend: str,
    opened: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino, "in_bfloat16", lambda: True)
    assert weights_dtype(device, dtype, backend) == opened


def test_a_processor_without_bfloat16_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for, OpenVINO is refused; `auto` takes eager PyTorch, and says so."""
    monkeypatch.setattr(openvino, "in_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r"avx512_bf16 or amx_bf16.*; allowed .*: float32"):
        weights_dtype(CPU, torch.bfloat16, "openvino")
    with caplog.at_level(logging.WARNING):
        assert weights_dtype(CPU, torch.bfloat16, "auto") == torch.bfloat16
    assert "the backend 'eager' is used" in caplog.text


@pytest.mark.slow
def test_bfloat16_has_one_part_and_says_what_it_is(tiny: LatentDiffusion) -> None:
    backend = pick_backend(tiny, "openvino", compiled=False, dtype=torch.bfloat16)
    assert backend.precision == "bfloat16"
    assert {backend.parts(rows) for rows in backend.buckets} == {1}
    assert backend.at((2, 12, 16)).precision == "bfloat16"
    assert pick_backend(tiny, "openvino", compiled=False).precision == "float32"


@needs_bfloat16
@pytest.mark.platform
@pytest.mark.slow
def test_requests_have_the_same_pixels_alone_and_in_a_crowd(tiny_folder: Path) -> None:
    load = msgspec.structs.replace(LOAD, dtype="bfloat16", backend="openvino", slots=8)
    runner = Runner.open("tiny", tiny_folder, load)
    runner.warm_up()
    assert (runner.info.backend, runner.info.dtype) == ("openvino", "bfloat16")
    assert runner.info.exact
    wants = [
        drawn(
            "tiny", k % 3, 3 + k % 4, 1.0 + k % 2, (0.0, 1.0), 0.0, 10 * k, 1 + k % 2, sampler=name
        )
        for k, name in enumerate(("ddim", "dpmpp_2m", "euler_a", "heun") * 4)
    ]
    for want, images in zip(wants, served(runner, wants, slots=8), strict=True):
        assert [pixels.data for pixels in draw(runner, want)] == images


@needs_bfloat16
@pytest.mark.platform
@pytest.mark.slow
def test_timesteps_are_not_rounded(tiny: LatentDiffusion) -> None:
    """bfloat16 has no 997 to 999: the network is as near to float32 as PyTorch's in bfloat16."""
    backend = OpenVino(tiny, dtype=torch.bfloat16)
    t = torch.tensor([333.3, 501.5, 613.0, 701.25, 853.0, 901.9, 997.0, 999.0])
    x = torch.randn(8, *tiny.latent_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(8, dtype=torch.int64)
    request = backend._unet.request(8, 1, 0)
    times = torch.stack([tiny.denoiser.time_embedding(one) for one in t.tolist()])
    for place, values in zip(request.inputs, (x, times, labels), strict=True):
        place.copy_(values)
    with torch.inference_mode():
        exact = tiny.denoiser(x, t, labels)
        request.start()
        made = request.result()
    assert (made - exact).abs().max() < 0.02 * exact.abs().max()
