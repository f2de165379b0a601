"""What a model needs of memory, reckoned before any is taken, and what there is of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import nn

from models.config import AutoencoderKLConfig, UNet2DConfig
from models.files import CheckpointError

MAX_PARAMETERS = 10_000_000_000  # of one network; SDXL's UNet has 2.6 of these billions
_BYTES = 4  # activations are counted in float32, whatever the weights are


def parameters(network: nn.Module) -> int:
    """Numbers in a network's weights; it may be on the meta device."""
    return sum(weight.numel() for weight in network.parameters())


def activations(unet: UNet2DConfig, vae: AutoencoderKLConfig, rows: int) -> int:
    """Bytes that `rows` images need beside the weights, roughly and rather too many.

    Denoising, decoding, and the fit of the previews follow each other. Attention is counted
    without the matrix of all pairs of positions, which no kernel in use keeps.
    """
    height, width = unet.latent_size
    area, last = height * width, len(vae.block_out_channels) - 1
    wide = [*unet.block_out_channels[:1], *unet.block_out_channels, *unet.block_out_channels[-1:]]
    skipped = [
        max(width, below) + max(width, above)
        for above, width, below in zip(wide, wide[1:], wide[2:], strict=False)
    ]
    denoise = _values(
        unet.block_out_channels,
        area,
        stages=2 * unet.layers_per_block + 3,  # down, the middle's two, up
        inputs=[6 * channels for channels in skipped],  # copies, and what they are made of
        attending=unet.attending,
    )
    decode = _values(
        vae.block_out_channels,
        area * vae.downscale**2,
        stages=vae.layers_per_block + 1,
        inputs=[4 * max(vae.block_out_channels[i : i + 2]) for i in range(last + 1)],
        attending=[last] if vae.mid_block_add_attention else [],
    )
    fit = area * (9 * vae.latent_channels + 1) * 2  # models/preview.py; it is in float64
    return rows * _BYTES * max(denoise, decode, fit)


def _values(
    widths: Sequence[int],
    area: int,
    *,
    stages: int,
    inputs: Sequence[int],
    attending: Sequence[int],
) -> int:
    """Numbers in the maps of one row that a network holds at once; level i has area / 4^i.

    Every stage's output is kept, and what comes up from below; the widest level also works on
    copies of its input (norm, SiLU, layout), or on the eleven maps of attention.
    """
    kept = working = 0
    for i, width in enumerate(widths):
        here = area // 4**i
        kept += (stages * width + max(widths[i : i + 2])) * here
        working = max(working, inputs[i] * here, 11 * width * here if i in attending else 0)
    return kept + working


def check_room(source: Path, weights: int, work: int, room: int | None) -> None:
    """Compare bytes of weights and of `activations` with what is `available`.

    Raises:
        CheckpointError: it is too little; the message names `source`, the UNet's configuration.
    """
    if room is not None and weights + work > room:
        need, held, used, there = (
            f"{n / 2**30:.1f}" for n in (weights + work, weights, work, room)
        )
        raise CheckpointError(
            f"{source}: block_out_channels, layers_per_block and sample_size need about {need} GiB "
            f"of memory ({held} for weights, {used} to draw); {there} GiB are available"
        )


def available(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes of memory to be had on a device; None where the system does not say (not Linux).

    On the CPU the least of what the machine has and what its control groups leave. `root` is where
    /proc and /sys are.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    kibibytes = _field(root / "proc/meminfo", "MemAvailable:")
    rooms = [*([] if kibibytes is None else [kibibytes << 10]), *_groups(root)]
    return max(min(rooms), 0) if rooms else None


def _groups(root: Path) -> Iterator[int]:
    """What each control group that this process is in leaves it: limit - usage + cached files."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2
            mount = root / "sys/fs/cgroup"
            limit, used, cached = "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        # A container may see itself as the root, and still be told its path outside.
        for group in [PurePosixPath(path), *PurePosixPath(path).parents]:
            folder = mount / str(group).lstrip("/")
            most, now = _number(folder / limit), _number(folder / used)
            if most is not None and now is not None:
                yield most - now + (_field(folder / "memory.stat", cached) or 0)


def _number(path: Path) -> int | None:
    text = next(_lines(path), "")
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _field(path: Path, name: str) -> int | None:
    """The number after a name at the start of a line."""
    for line in _lines(path):
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    return None


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux, or not mounted
        return
