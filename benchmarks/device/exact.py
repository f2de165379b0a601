"""Which numbers of rows give the same bits: the UNet and the decoder, as plain networks."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.device.engine import open_digits
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.place import on_device
from benchmarks.device.precision import PRECISIONS, Precision, loosen
from models.pipeline import LatentDiffusion

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # latents, timesteps, labels
_NEEDS = 4.0  # seconds for one network
_SHIFTS = (0, 3)  # places that rows are moved by


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    compare(findings, setting, loose=False)


def compare(findings: Findings, setting: Setting, *, loose: bool) -> None:
    """As the engine sets CUDA's libraries, or `loose`, as PyTorch does."""
    for (name, network), precision in itertools.product(
        {"UNet": unet, "decoder": decoder}.items(), PRECISIONS
    ):
        labels: Row = {"network": name, "precision": precision.name}
        findings.attempt("Rows", labels, _NEEDS, network, setting, precision, loose)


def unet(setting: Setting, precision: Precision, loose: bool) -> Iterator[Row]:
    model = opened(setting, precision, loose)
    sizes = setting.sizes(1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512)

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        made: Tensor = model.unet(x.to(precision.dtype), t, label)
        return made

    yield told(
        classes(network, sizes, model.latent_shape, setting.on, 16 if setting.small else 128)
    )


def decoder(setting: Setting, precision: Precision, loose: bool) -> Iterator[Row]:
    model = opened(setting, precision, loose)
    dtype = next(model.vae.parameters()).dtype

    def network(x: Tensor, _t: Tensor, _label: Tensor) -> Tensor:
        return model.vae.decode(x.to(dtype))

    sizes = setting.sizes(1, 2, 4, 8, 16, 32)
    yield told(classes(network, sizes, model.latent_shape, setting.on, 16))


def opened(setting: Setting, precision: Precision, loose: bool) -> LatentDiffusion:
    model = open_digits(setting, precision)
    if loose:
        loosen()
    return model


def told(found: tuple[list[list[int]], list[int]]) -> Row:
    """Classes of equal bits as text: sizes of a class side by side, classes apart."""
    same, unsteady = found
    return {
        "sizes of equal bits": " / ".join(" ".join(map(str, members)) for members in same),
        "depend on the place": " ".join(map(str, unsteady)),
    }


def classes(
    network: Network,
    sizes: Sequence[int],
    shape: tuple[int, ...],
    device: str,
    count: int,
) -> tuple[list[list[int]], list[int]]:
    """Sizes of batch whose rows have the same bits; those where bits depend on a row's place.

    `count` rows go through every size, whatever their places and neighbours.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, *shape, generator=draw).to(device)
    t = torch.randint(0, 1000, (count,), generator=draw).to(device)
    label = torch.randint(0, 10, (count,), generator=draw).to(device)
    found: list[tuple[Tensor, list[int]]] = []
    unsteady = []
    for size in sizes:
        made = [_through(network, (x, t, label), size, shift) for shift in _SHIFTS]
        if not torch.equal(made[0], made[1]):
            unsteady.append(size)
            continue
        for rows, members in found:
            if torch.equal(rows, made[0]):
                members.append(size)
                break
        else:
            found.append((made[0], [size]))
    return [members for _, members in found], unsteady


def _through(network: Network, inputs: tuple[Tensor, ...], size: int, shift: int) -> Tensor:
    """Rows through the network by `size`, turned by `shift`; in the order in which they came."""
    count = len(inputs[0])
    places = torch.arange(count, device=inputs[0].device).roll(shift)
    around = places.repeat(-(-max(size, count) // count) + 1)  # what a batch lacks, from the front
    batches = [around[first : first + size] for first in range(0, count, size)]
    outcome = torch.cat([network(*(tensor[b] for tensor in inputs)).float() for b in batches])
    back = torch.empty_like(outcome[:count])
    back[places] = outcome[:count]
    return back
