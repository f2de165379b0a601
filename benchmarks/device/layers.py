"""Which operators make other bits in batches of other sizes: what keeps a bucket from being used.

Every operator of a network that sums over something is run again on fewer of its rows. What it
makes of them is compared with what it made of them in the whole batch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.device.engine import open_digits
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16, FLOAT32, TF32, Precision
from benchmarks.device.prompt_models import FAMILIES, Family, unet_and_inputs

_NEEDS = 6.0  # seconds for one network
_DIGITS_ROWS, _ROWS = 64, 16  # of the whole batch
# Operator -> the places of its arguments that have rows.
_BATCHED = {
    "convolve": (0,),
    "convolution": (0,),
    "conv2d": (0,),
    "linear": (0,),
    "addmm": (1,),
    "mm": (0,),
    "bmm": (0, 1),
    "scaled_dot_product_attention": (0, 1, 2),
    "_scaled_dot_product_flash_attention": (0, 1, 2),
    "_scaled_dot_product_efficient_attention": (0, 1, 2),
    "_scaled_dot_product_cudnn_attention": (0, 1, 2),
    "group_norm": (0,),
    "native_group_norm": (0,),
    "layer_norm": (0,),
    "add_norm": (0, 1),
    "native_layer_norm": (0,),
}


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    for precision in (FLOAT32, TF32, FLOAT16):
        labels: Row = {"network": "digits", "precision": precision.name}
        findings.attempt("Operators", labels, _NEEDS, digits, setting, precision)
    for family in FAMILIES:
        labels = {"network": family.name, "precision": FLOAT16.name}
        findings.attempt("Operators", labels, _NEEDS, prompted, setting, family)


def digits(setting: Setting, precision: Precision) -> Iterator[Row]:
    model = open_digits(setting, precision)
    rows = 16 if setting.small else _DIGITS_ROWS
    x = torch.randn(rows, *model.latent_shape, device=setting.on, dtype=precision.dtype)
    t = torch.arange(rows, device=setting.on) * 11 % 1000
    yield from compared(lambda: model.unet(x, t, t % 10), rows)


def prompted(setting: Setting, family: Family) -> Iterator[Row]:
    unet, inputs = unet_and_inputs(family, setting, FLOAT16, _ROWS)
    yield from compared(lambda: unet(*inputs), _ROWS)


def compared(call: Callable[[], object], rows: int) -> Iterator[Row]:
    """What differs, by operator and shapes."""
    watch = Watch(rows)
    with watch:
        call()
    equal, different = 0, 0
    for (name, shapes), sizes in sorted(watch.other.items()):
        equal += not sizes
        different += bool(sizes)
        if sizes:
            yield {
                "operator": name,
                "of": shapes,
                "other bits with rows": " ".join(map(str, sizes)),
            }
    yield {
        "operator": "all",
        "of": f"{equal} the same, {different} not",
        "other bits with rows": "",
    }


@dataclass
class Watch(TorchDispatchMode):
    """Runs operators again, on fewer rows of `rows`."""

    rows: int
    other: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        places = _BATCHED.get(name, ())
        key = name, " ".join(_shape(value) for value in args if isinstance(value, Tensor))
        if places and key not in self.other and not args[places[0]].shape[0] % self.rows:
            self.other[key] = [
                size
                for size in (1, 2, 4, 8, 16, 32)
                if size < self.rows and not self._same(func, size, places, args, kwargs, made)
            ]
        return made

    def _same(
        self, func: Any, size: int, places: tuple[int, ...], args: Any, kwargs: Any, made: Any
    ) -> bool:
        def first(value: Tensor) -> Tensor:
            return value[: value.shape[0] * size // self.rows]

        fewer = [first(a) if k in places else a for k, a in enumerate(args)]
        if func.overloadpacket.__name__ == "native_group_norm":
            fewer[3] = fewer[3] * size // self.rows
        again = func(*fewer, **(kwargs or {}))
        ours, theirs = (one[0] if isinstance(one, tuple) else one for one in (again, made))
        return torch.equal(ours, first(theirs))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
