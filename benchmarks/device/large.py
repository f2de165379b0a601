"""A UNet of Stable Diffusion's size, with random weights: the device decides, not the host."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from benchmarks.device.engine import engine_of, prepare
from benchmarks.device.exact import classes, told
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.large_model import flops_per_row, large_model, large_unet, shape_of
from benchmarks.device.loop import closed_loop
from benchmarks.device.machine import LAYOUTS
from benchmarks.device.names import BUCKETS, COMPILED, EAGER, ENGINE, FLOOR, LOOP, RATES
from benchmarks.device.precision import FLOAT16, TF32, Precision
from benchmarks.device.timing import Call, graphed, reserved_gib, speed, timed

_COMPILING = 70.0  # seconds
_SECONDS = 0.4  # of each measurement


@torch.inference_mode()
def measure(findings: Findings, setting: Setting) -> None:
    prepare(setting)
    flops = flops_per_row(setting)
    findings.add("Work", {"GFLOP per row": round(flops / 1e9, 2)})
    rows = setting.sizes(1, 2, 4, 8, 16, 32)

    def rates(
        way: str, precision: Precision, network: Callable[[], Iterator[Row]], needs: float = 15
    ) -> None:
        findings.attempt(RATES, {"way": way, "precision": precision.name}, network, needs)

    for layout in LAYOUTS:
        name = FLOOR if layout == "NCHW" else f"{FLOOR}, {layout}"
        rates(name, FLOAT16, lambda at=layout: floor(setting, FLOAT16, at, rows, flops))
    rates(EAGER, FLOAT16, lambda: theirs(setting, FLOAT16, rows, flops))
    findings.attempt(LOOP, {"precision": "float16"}, lambda: engine(findings, setting), needs=30)
    exactly: Row = {"network": "UNet", "precision": "float16", "layout": "NCHW"}
    findings.attempt("Rows", exactly, lambda: exactness(setting, FLOAT16, rows), needs=12)
    rates(FLOOR, TF32, lambda: floor(setting, TF32, "NCHW", setting.sizes(1, 8, 16), flops))
    for precision in (FLOAT16, TF32):
        findings.attempt(
            "Decoder",
            {"precision": precision.name},
            lambda p=precision: decoder(setting, p),
            needs=8,
        )
    if setting.small:
        findings.miss(RATES, "whatever is compiled", "not with --small: it takes minutes")
        return
    few = (2, 8)
    rates(
        COMPILED, FLOAT16, lambda: theirs(setting, FLOAT16, few, flops, compiled=True), _COMPILING
    )
    rates(
        f"{FLOOR}, NHWC, compiled",
        FLOAT16,
        lambda: floor(setting, FLOAT16, "NHWC", few, flops, compiled=True),
        _COMPILING,
    )


def floor(
    setting: Setting,
    precision: Precision,
    layout: str,
    sizes: Sequence[int],
    flops: float,
    *,
    compiled: bool = False,
) -> Iterator[Row]:
    """Our UNet alone, each number of rows as a graph."""
    unet = large_unet(setting, precision)
    unet.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    if compiled:
        torch._dynamo.reset()
        unet.compile(dynamic=False)
    for size in sizes:
        x, t = inputs(setting, precision, size)
        call: Call = lambda x=x, t=t: unet(x, t)  # noqa: E731
        yield speed(size, timed(setting, graphed(setting, call), _SECONDS), flops)


def theirs(
    setting: Setting,
    precision: Precision,
    sizes: Sequence[int],
    flops: float,
    *,
    compiled: bool = False,
) -> Iterator[Row]:
    """diffusers' UNet of the same configuration."""
    import diffusers

    config = large_unet(setting, precision, device="meta").config.to_dict()
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    unet: nn.Module = diffusers.UNet2DModel(**known).requires_grad_(False).eval()
    unet = unet.to(setting.device, precision.dtype)
    network: Callable[..., object] = unet
    if compiled:
        torch._dynamo.reset()
        unet = unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = torch.compile(unet, dynamic=False, mode="reduce-overhead")
    for size in sizes:
        x, t = inputs(setting, precision, size)
        yield speed(size, timed(setting, lambda x=x, t=t: network(x, t), _SECONDS), flops)


def engine(findings: Findings, setting: Setting) -> Iterator[Row]:
    """The engine over the whole model: its buckets, and the closed loop with decoding."""
    model, slots = large_model(setting, FLOAT16), 8 if setting.small else 64
    made = engine_of(
        setting, model, FLOAT16, slots=slots, buckets=setting.sizes(1, 2, 4, 8, 16, 32)
    )
    for bucket in made.buckets:
        findings.add(BUCKETS, {"precision": "float16"} | bucket)
    for bucket in made.runner.info.costs.buckets:
        findings.add(
            RATES,
            {"way": ENGINE, "precision": "float16"}
            | speed(bucket.rows, bucket.seconds, flops_per_row(setting)),
        )
    for in_flight in (1, 2) if setting.small else (1, 16, 64):
        row = closed_loop(setting, made.runner, in_flight, slots)
        yield row | {"GiB reserved": reserved_gib(setting)}


def exactness(setting: Setting, precision: Precision, sizes: Sequence[int]) -> Iterator[Row]:
    """Which numbers of rows give the same bits."""
    unet = large_unet(setting, precision)

    def network(x: Tensor, t: Tensor, _label: Tensor) -> Tensor:
        made: Tensor = unet(x.to(precision.dtype), t)
        return made

    yield told(classes(network, sizes, shape_of(setting), setting, 4 if setting.small else 32))


def decoder(setting: Setting, precision: Precision) -> Iterator[Row]:
    """Images of 512 x 512 pixels."""
    model = large_model(setting, precision)
    for size in (1, 2) if setting.small else (1, 4, 16):
        x, _ = inputs(setting, precision, size)
        taken = timed(setting, lambda x=x: model.vae.decode(x), _SECONDS, 3)
        yield speed(size, taken) | {"GiB reserved": reserved_gib(setting)}


def inputs(setting: Setting, precision: Precision, size: int) -> tuple[Tensor, Tensor]:
    """Latents and timesteps of so many rows."""
    x = torch.randn(size, *shape_of(setting), device=setting.device, dtype=precision.dtype)
    return x, torch.arange(size, device=setting.device) * 11 % 1000
