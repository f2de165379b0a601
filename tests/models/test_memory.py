"""What a model needs of memory, beside what it takes, and what there is."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from models import tiles
from models.checkpoint import CheckpointError, open_checkpoint
from models.config import UNet2DConditionConfig, UNetConfig
from models.library import shipped
from models.memory import activations, available, check_room, parameters
from models.pipeline import LatentDiffusion
from models.unet import UNet2D
from models.vae import AutoencoderKL
from tests.models.test_parity import UNETS, VAES, keywords
from tests.tiny import UNET, VAE

CPU = torch.device("cpu")


@pytest.mark.parametrize("change", UNETS.values(), ids=UNETS.keys())
def test_parameters_of_a_unet_without_memory_for_them(change: dict[str, Any]) -> None:
    config = replace(UNET, **change)
    with torch.device("meta"):
        ours = UNet2D(config)
    theirs = diffusers.UNet2DModel(**keywords(config))
    assert parameters(ours) == theirs.num_parameters()


@pytest.mark.parametrize("change", VAES.values(), ids=VAES.keys())
def test_parameters_of_a_vae_without_memory_for_them(change: dict[str, Any]) -> None:
    config = replace(VAE, **change)
    with torch.device("meta"):
        ours = AutoencoderKL(config)
    assert parameters(ours) == diffusers.AutoencoderKL(**keywords(config)).num_parameters()


# For every line it reads, draws rows in a process of its own, after a small drawing, and says how
# far memory rose. The processes are forked, so that PyTorch is imported once.
PEAK = """
import os
import sys
import torch
from models import tiles
from models.conditional_unet import UNet2DCondition
from models.config import AutoencoderKLConfig, UNet2DConditionConfig, UNet2DConfig
from models.unet import UNet2D
from models.vae import AutoencoderKL

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

@torch.inference_mode()
def draw(config, side, rows, largest_map):
    tiles.LARGEST_MAP = largest_map
    if isinstance(config, AutoencoderKLConfig):
        run = AutoencoderKL(config).decode
    elif isinstance(config, UNet2DConditionConfig):
        network, zeros = UNet2DCondition(config), torch.zeros(rows)
        text = torch.randn(rows, 77, config.cross_attention_dim)
        run = lambda latents: network(latents, zeros, text)
    else:
        network, zeros = UNet2D(config), torch.zeros(rows, dtype=torch.int64)
        run = lambda latents: network(latents, zeros, zeros)
    latents = torch.randn(rows, 2, side, side)
    run(latents[:, :, :4, :4])
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # VmHWM begins anew
    run(latents)
    print(status("VmHWM") - before, flush=True)

torch.set_num_threads(1)
for line in sys.stdin:
    if os.fork() == 0:
        draw(*eval(line))
        os._exit(0)
    os.wait()
"""
LITTLE_VAE = replace(
    VAE,
    block_out_channels=(4,),
    down_block_types=VAE.down_block_types[:1],
    up_block_types=VAE.up_block_types[:1],
)


def blocks(widths: tuple[int, ...], layers: int, config: Any, down: str, up: str) -> Any:
    return replace(
        config,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=(down,) * len(widths),
        up_block_types=(up,) * len(widths),
    )


@pytest.fixture(scope="module")
def peak() -> Iterator[Callable[[Any, int, int], int]]:
    """Bytes that a forward adds to a process of its own, at most."""
    with subprocess.Popen(
        [sys.executable, "-c", PEAK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        told, heard = process.stdin, process.stdout
        assert told is not None
        assert heard is not None

        def ask(config: Any, side: int, rows: int) -> int:
            print((config, side, rows, tiles.LARGEST_MAP), file=told, flush=True)
            return int(heard.readline())

        yield ask
        told.close()


@pytest.mark.slow
@pytest.mark.platform
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize(
    ("kind", "widths", "layers", "side"),
    [
        ("vae", (32, 64, 64), 1, 32),
        ("vae", (64, 128, 128), 2, 24),
        ("vae", (64,), 2, 64),
        ("vae in tiles", (32, 64, 64), 1, 48),
        ("plain unet", (32, 64, 128), 2, 48),
        ("plain unet", (96, 96), 2, 48),
        ("unet", (64, 128), 1, 48),
        ("text unet", (32, 64, 128), 2, 32),
        ("text unet, its widest level without attention", (64, 128, 128), 2, 48),
    ],
)
def test_activations_are_enough_and_not_far_too_many(
    peak: Callable[[Any, int, int], int],
    kind: str,
    widths: tuple[int, ...],
    layers: int,
    side: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, vae = 8, LITTLE_VAE
    unet: UNetConfig = replace(UNET, sample_size=side)
    if kind.startswith("vae"):
        vae = config = blocks(widths, layers, VAE, "DownEncoderBlock2D", "UpDecoderBlock2D")
        if kind == "vae in tiles":
            monkeypatch.setattr(tiles, "LARGEST_MAP", 4 * widths[1] * (side // 2 * 4) ** 2)
            assert tiles.tile_side(vae) == side // 2
    elif kind.startswith("text unet"):
        unset = int(kind != "text unet")  # levels without attention
        unet = config = UNet2DConditionConfig(
            sample_size=side,
            in_channels=2,
            out_channels=2,
            block_out_channels=widths,
            layers_per_block=layers,
            cross_attention_dim=64,
            down_block_types=("DownBlock2D",) * unset
            + ("CrossAttnDownBlock2D",) * (len(widths) - unset),
            up_block_types=("CrossAttnUpBlock2D",) * (len(widths) - unset) + ("UpBlock2D",) * unset,
        )
    else:
        attention = "" if kind == "plain unet" else "Attn"
        types = f"{attention}DownBlock2D", f"{attention}UpBlock2D"
        unet = config = blocks(widths, layers, unet, *types)
    reckoned = activations(unet, vae, rows)
    for _ in range(3):  # what else the process does only adds to a peak: the least is nearest
        ratio = reckoned / peak(config, side, rows)
        if ratio >= 0.9:
            break
    assert 0.9 <= ratio <= 3


def test_more_rows_and_larger_latents_need_more() -> None:
    one = activations(UNET, VAE, 1)
    assert activations(UNET, VAE, 16) == 16 * one
    assert activations(replace(UNET, sample_size=16), VAE, 1) == 4 * one
    assert activations(replace(UNET, sample_size=(8, 16)), VAE, 1) == 2 * one


def test_a_model_that_does_not_fit_is_refused_with_both_figures() -> None:
    check_room(Path("unet/config.json"), 3 << 30, 1 << 30, 4 << 30)
    check_room(Path("unet/config.json"), 3 << 30, 1 << 30, None)
    message = r"unet/config.json: .*about 4.0 GiB .*\(2.0 for weights, 2.0 to draw\); 3.9 GiB are"
    with pytest.raises(CheckpointError, match=message):
        check_room(Path("unet/config.json"), 2 << 30, 2 << 30, int(3.9 * 2**30))


def test_what_ships_needs_little(tiny_folder: Path) -> None:
    """A quarter of a gibibyte holds it, and no machine is too small to see that."""
    for folder in shipped().values():
        model = LatentDiffusion.open(folder)
        weights = 4 * (parameters(model.unet) + parameters(model.vae))
        work = activations(model.unet.config, model.vae.config, 16)
        check_room(folder, weights, work, 1 << 28)


@pytest.mark.platform
def test_more_rows_than_any_machine_holds_are_refused_before_weights_are_read(
    tiny_folder: Path, tmp_path: Path
) -> None:
    there = available(CPU)
    if there is None:
        pytest.skip("this system does not say")
    rows = there // activations(UNET, VAE, 1) + 1
    with pytest.raises(CheckpointError, match=r"unet/config.json: .* GiB are available"):
        open_checkpoint(tiny_folder, rows=2 * rows)
