"""The CUDA backend on a GPU that is not there (tests/fake_cuda.py), and mutants of it.

Its operators are the CPU's, so the oracle is the same step or decoding on the CPU, bit for bit.
"""

import contextlib
import random
import socket
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import app.engine.backends.compiling as compiling
import app.engine.backends.cuda as cuda
import app.engine.runner as runners
from app.engine.backends.base import Rows, Slots, advance, develop
from app.engine.backends.cuda import CudaGraphs
from app.engine.errors import DeviceLost
from app.engine.offline import draw
from app.engine.results import Pixels
from app.engine.runner import Runner
from app.engine.scheduler import Scheduler
from app.engine.wire import pack
from app.engine.worker import Worker
from models.checkpoint import save_checkpoint
from models.layers import ResnetBlock
from models.pipeline import LatentDiffusion, to_uint8
from models.samplers import COEFFICIENTS, COLUMNS, HISTORY
from models.unet import UNet2D
from models.vae import AutoencoderKL
from tests.app.test_measure import plain
from tests.app.test_runner import plain_x0, served, wanted
from tests.fake_cuda import NAME, FakeCuda, installed
from tests.fakes import LOAD, drawn, job_of
from tests.tiny import SCHEDULE, UNET, VAE

pytestmark = pytest.mark.slow

ROOM = 9_000_000  # bytes: for ticks of 32 rows of the tiny model
GPU = "cuda:0"


@pytest.fixture(scope="module", autouse=True)
def untouched() -> Iterator[None]:
    """What opening a model on a GPU sets for the whole process is put back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE"):
            patch.setenv(name, "")
        for owner, name in ((cudnn, "allow_tf32"), (cudnn, "deterministic")):
            patch.setattr(owner, name, getattr(owner, name))
        yield
    matmul.allow_tf32 = False
    matmul.allow_fp16_reduced_precision_reduction = True
    matmul.allow_bf16_reduced_precision_reduction = True


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of few operators, as each is slow on this device."""
    torch.manual_seed(0)
    vae = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    unet = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    width: Any = {"block_out_channels": (8,)}
    folder = tmp_path_factory.mktemp("models") / "small"
    save_checkpoint(
        folder,
        vae=AutoencoderKL(replace(VAE, **vae, **width, mid_block_add_attention=False)),
        unet=UNet2D(replace(UNET, **unet, **width, mid_block_type=None)),
        schedule=SCHEDULE,
        classes=("cat", "dog", "3"),
        guidance_scale=1.5,
    )
    return folder


@pytest.fixture(scope="module")
def small(small_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.open(small_folder)


@pytest.fixture
def device() -> Iterator[FakeCuda]:
    with installed(ROOM) as device:
        yield device


@contextlib.contextmanager
def opened(
    folder: Path, capacity: float = ROOM, slots: int = 8
) -> Iterator[tuple[FakeCuda, Runner]]:
    with installed(capacity) as device:
        load = msgspec.structs.replace(LOAD, device=GPU, slots=slots)
        runner = Runner.open("tiny", folder, load)
        runner.warm_up()
        yield device, runner
        assert device.faults == []


@pytest.fixture(scope="module")
def alive(tiny_folder: Path) -> Iterator[tuple[FakeCuda, Runner]]:
    with opened(tiny_folder) as (device, runner):
        yield device, runner


# The backend alone: ticks and decodings against the same on the CPU.


SLOTS = 6
# What a tick has besides latents; the plain one has nothing.
PLAIN, WHOLE, NOISY, REMEMBERING = "", "noise history", "noise", "history"


def a_tick(size: int, has: str, draw: torch.Generator) -> Rows:
    """A tick whose every number matters: guided, and each row otherwise."""

    def pick(most: int) -> Tensor:
        return torch.randint(most, (size,), generator=draw)

    coefficients = torch.rand(size, COEFFICIENTS, generator=draw)
    noise = torch.randn(size, 2, 8, 8, generator=draw) if "noise" in has else None
    kept = torch.randperm((SLOTS - 1) * HISTORY, generator=draw)[:size]
    for name in COLUMNS:  # a row without noise or history has no factor for it
        if (name == "d" and noise is None) or (
            name[0] == "c" and name[1:].isdigit() and "hist" not in has
        ):
            coefficients[:, COLUMNS.index(name)] = 0
    read = torch.randperm(SLOTS - 1, generator=draw)[:size]  # nobody reads the waste
    return Rows(
        read=read,
        write=torch.randperm(SLOTS, generator=draw)[:size],
        side=2 * read + pick(2),
        t=pick(950) + torch.rand(size, generator=draw),
        null=torch.randperm(size, generator=draw),
        scale=torch.rand(size, generator=draw) * 5,
        coefficients=coefficients,
        kept=kept if "history" in has else None,
        noise=noise,
        shown=bool(has),
    )


class Life:
    """One backend, and the same steps on the CPU beside it; `wrong` says what differs."""

    @torch.inference_mode()
    def __init__(self, device: FakeCuda, folder: Path, on_cpu: LatentDiffusion, kind: Any) -> None:
        self.device, self.on_cpu = device, on_cpu
        self.model = LatentDiffusion.open(folder, device=GPU)
        self.backend: CudaGraphs = kind(self.model, compiled=False)
        self.ours, self.theirs = (
            Slots.of(SLOTS, opened.denoiser, opened.latent_shape) for opened in (self.model, on_cpu)
        )
        self.draw = torch.Generator().manual_seed(3)
        self.fill(range(SLOTS))
        self.decoded: list[tuple[Tensor, Tensor]] = []
        self.wrong: list[str] = []

    def fill(self, slots: Sequence[int]) -> None:
        """Let other images begin in these slots."""
        count, places = len(slots), torch.tensor(slots)
        x = torch.randn(count, 2, 8, 8, generator=self.draw)
        classes = torch.randint(4, (count, 2), generator=self.draw)
        self.theirs.fill(places, x, (classes,))
        send = self.backend.send
        self.ours.fill(send(places), send(x), (send(classes),))

    def step(self, size: int, has: str = PLAIN) -> None:
        rows = a_tick(size, has, self.draw)
        advance(self.theirs, rows, self.on_cpu.denoiser)
        self.backend.step(self.ours, rows)

    def decode(self, count: int, *, keep: bool = False) -> tuple[Any, Tensor, Tensor]:
        """Begin; with what it must become. Nobody else keeps the latents."""
        latents, before = self.ours.x[:count].clone(), self.theirs.x[:count].clone()
        if keep:
            self.decoded.append((latents, before))
        return self.backend.decode(latents), *develop(self.on_cpu.vae.decode(before))

    def compare(self, name: str, ours: Tensor, theirs: Tensor) -> None:
        if not torch.equal(ours.cpu(), theirs):
            self.wrong.append(name)

    def collect(self, begun: tuple[Any, Tensor, Tensor], *, ask: bool) -> None:
        decoding, pixels, sums = begun
        while ask and not decoding.done():
            pass
        made = decoding.images()
        self.compare("pixels", made[0], pixels)
        self.compare("sums", made[1], sums)

    def look(self) -> None:
        """Compare all that is on the device."""
        self.backend.synchronize()
        self.compare("x", self.ours.x, self.theirs.x)
        self.compare("x0", self.ours.x0, self.theirs.x0)
        self.compare("history", self.ours.history[:-1], self.theirs.history[:-1])
        for given, before in self.decoded:
            self.compare("latents that were given", given, before)

    def live(self) -> list[str]:
        """All of it, or until something is wrong."""
        with torch.inference_mode():
            for part in (self.begin, self.run_short, self.work):
                part()
                if self.wrong or self.device.faults:
                    break
        return self.wrong + self.device.faults

    def begin(self) -> None:
        """The first ticks and images."""
        self.step(3)
        for has in (WHOLE, NOISY, REMEMBERING, PLAIN):
            self.step(3, has)
        self.collect(self.decode(1, keep=True), ask=True)
        self.look()

    def run_short(self) -> None:
        """Out of memory in a warm run, and in the capture."""
        for when in (2, 4):
            self.fails_once(2, torch.OutOfMemoryError("CUDA out of memory"), when=when)
            self.step(3, WHOLE)
        self.step(2, WHOLE)
        self.step(2)
        self.look()

    def work(self) -> None:
        """Ticks and decodings beside each other; the host never waits without sleeping."""
        before, at_home = self.device.spins, self.device.replayed.count(self.device.home)
        for k in range(3):
            self.step(3, WHOLE if k == 0 else PLAIN)
            first = self.decode(1)
            self.fill([k, k + 2])
            self.step(3, NOISY if k == 1 else PLAIN)
            second = self.decode(1)
            images = self.backend.fetch(self.backend.send(torch.ones(1, 1, 4, 4)))
            self.step(3, REMEMBERING if k == 2 else PLAIN)
            self.collect(second, ask=False)
            self.collect(first, ask=True)
            self.compare("fetched", images.images()[0], torch.full((1, 4, 4, 1), 255).byte())
        if self.device.spins != before:
            self.wrong.append("the host has waited without sleeping")
        if self.device.replayed.count(self.device.home) != at_home + 9:
            self.wrong.append("the ticks, and only they, run on the stream that the host uses")
        self.look()

    @torch.inference_mode()
    def fails_once(self, size: int, error: Exception, *, when: int) -> None:
        """A step whose `when`-th forward pass of its captures raises; nothing has moved."""
        network, left = self.backend._network, [when]

        def failing(*inputs: Tensor) -> Tensor:
            left[0] -= 1
            if not left[0]:
                raise error
            return network(*inputs)

        self.backend._network = failing
        before = self.ours.x.clone(), self.ours.history.clone()
        rows = a_tick(size, WHOLE, self.draw)
        with pytest.raises(type(error)):
            self.backend.step(self.ours, rows)
        self.backend._network = network
        self.compare("x after a failure", self.ours.x, before[0].cpu())
        self.compare("history after a failure", self.ours.history, before[1].cpu())


def test_every_step_and_image_is_the_cpu_s(
    device: FakeCuda, small_folder: Path, small: LatentDiffusion
) -> None:
    life = Life(device, small_folder, small, CudaGraphs)
    assert life.live() == []
    assert device.current is device.home


FIELDS = ("read", "write", "side", "null", "kept", "t", "scale", "coefficients", "noise")
FILLED = "            if value is not None:\n"
BOTH = "(self._feed.plain(size), self._feed.whole(size))"
GIVEN = "functools.partial(advance, slots, rows"
DECODED = "            pixels, sums = develop(vae.decode(static.to(dtype)).float())\n"
NOISE_SENT = (
    "            self._noise_there[:size].copy_(self._noise_here[:size], non_blocking=True)\n"
)
LAST = "        if rows.noise is not None:\n" + NOISE_SENT
SENT = "        self._there[:words].copy_(self._here[:words], non_blocking=True)\n"
RECORDED = "        self._copied.record()\n"
MUTANTS: dict[str, tuple[str, str]] = {
    # A forgotten field.
    **{
        f"{name} is not filled in": (FILLED, FILLED.replace(":", f" and name != {name!r}:"))
        for name in FIELDS
    },
    "coefficients are where noise is": (
        "coefficients=coefficients.view(size, COEFFICIENTS)",
        "coefficients=noise[: coefficients.numel()].view(size, COEFFICIENTS)",
    ),
    "a tick without history keeps some": (
        "place.fill_(waste * HISTORY)",
        "place",
    ),
    "noise is not sent": (NOISE_SENT, "            pass\n"),
    "no number is sent": (SENT, ""),
    # An input that is not static, or a place that is not kept.
    "inputs made anew": (
        "return self._rows(self._there, self._noise_there, size)",
        "return self._rows(self._there.clone(), self._noise_there, size)",
    ),
    "noise where other numbers were": (
        "noise=noise[:size],",
        "noise=words.view(torch.float32)[: size * 128].view(size, 2, 8, 8),",
    ),
    "noise made anew": (
        BOTH,
        "(self._feed.plain(size), replace(self._feed.whole(size), "
        "noise=self._feed.whole(size).noise.clone()))",
    ),
    "a scale made anew": (
        BOTH,
        "(replace(self._feed.plain(size), scale=self._feed.plain(size).scale.clone()), "
        "self._feed.whole(size))",
    ),
    "plain ticks add noise": (BOTH, "(self._feed.whole(size), self._feed.whole(size))"),
    "latents made anew": (
        "static = self._model.vae, latents.clone()",
        "static = self._model.vae, latents",
    ),
    "latents not copied": ("        self.latents.copy_(latents)\n", ""),
    **{
        f"{name} made anew": (
            GIVEN,
            GIVEN.replace("slots", f"replace(slots, {name}={made})"),
        )
        for name, made in {
            "x": "slots.x.clone()",
            "history": "slots.history.clone()",
            "conditioning": "tuple(side.clone() for side in slots.conditioning)",
        }.items()
    },
    "slots not put back": ("                state.copy_(values)\n", "                pass\n"),
    "history not put back": ("slots.x, slots.x0, slots.history\n", "slots.x, slots.x0\n"),
    "a tick not replayed": (
        "if rows.plain else tick.whole).replay()",
        "if rows.plain else tick.whole)",
    ),
    "a decoding not replayed": ("        self.graph.replay()\n", ""),
    "always without noise": ("(tick.plain if rows.plain else tick.whole)", "tick.plain"),
    # A value that the host reads or makes while a graph is captured.
    **{
        f"{name} in a capture": (DECODED, DECODED + f"            {line}\n")
        for name, line in {
            "item": "sums.sum().item()",
            "tolist": "sums.tolist()",
            "bool": "bool(sums.isfinite().all())",
            "float": "float(sums[0])",
            "cpu": "pixels.cpu()",
            "a tensor of a list": "sums = sums + torch.tensor([0.0], device=sums.device)",
            "new_tensor": "sums = sums + sums.new_tensor([0.0])",
            "a tensor of the host": "sums = sums + torch.zeros(1).to(sums.device)",
            "a mask": "sums[sums > 1e9] = 0",
            "nonzero": "sums.nonzero()",
            "a wait": "torch.cuda.synchronize()",
            "an event": "torch.cuda.Event().synchronize()",
        }.items()
    },
    "item in a tick": (
        "functools.partial(advance,",
        "functools.partial(lambda *a: (a[1].t.sum().item(), advance(*a)),",
    ),
    "no warm runs": ("_WARM_RUNS = 3", "_WARM_RUNS = 0"),
    "a warm run elsewhere": (
        "            with torch.cuda.stream(self.stream):\n",
        "            with torch.cuda.stream(torch.cuda.Stream()):\n",
    ),
    # A stream not waited for, or memory not kept for it.
    "latents not waited for": ("        stream.wait_stream(torch.cuda.current_stream())\n", ""),
    "latents not recorded": ("            latents.record_stream(stream)\n", ""),
    "inputs not waited for": ("        self.stream.wait_stream(home)\n", ""),
    "warm runs not waited for": ("            home.wait_stream(self.stream)\n", ""),
    "the buffer not waited for": ("            self._feed.wait()\n", "            pass\n"),
    "a buffer's event too early": (
        SENT + LAST + RECORDED,
        RECORDED + SENT + LAST,
    ),
    "images not waited for": ("        self._event.synchronize()\n", ""),
    "images' event not recorded": ("    event.record()\n", ""),
    "images' event of another stream": (
        "    event.record()\n",
        "    event.record(torch.cuda.default_stream())\n",
    ),
    "one recorder": (
        "self._decode_recorder = _Recorder(torch.cuda.Stream(device))",
        "self._decode_recorder = self._tick_recorder",
    ),
    "one pool": (
        "        self._pool = torch.cuda.graph_pool_handle()\n",
        "        self._pool = _Recorder.one = vars(_Recorder).get('one') or "
        "torch.cuda.graph_pool_handle()\n",
    ),
    "decoding among the ticks": (
        "        with torch.cuda.stream(stream):\n            latents",
        "        if stream:\n            latents",
    ),
    "graphs not kept": ("        self._graphs.append(graph)\n", ""),
    # Waits that hold up the host.
    "a copy that waits": ("(self._here[:words], non_blocking=True)", "(self._here[:words])"),
    "noise that waits": (
        "(self._noise_here[:size], non_blocking=True)",
        "(self._noise_here[:size])",
    ),
    "images that are waited for": ("copy_(part, non_blocking=True)", "copy_(part)"),
    "images not pinned": ("dtype=part.dtype, pin_memory=True", "dtype=part.dtype"),
    "numbers not pinned": (
        "torch.empty(words, dtype=torch.int64, pin_memory=True)",
        "torch.empty(words, dtype=torch.int64)",
    ),
    "noise not pinned": (
        "torch.empty(most, *shape, pin_memory=True)",
        "torch.empty(most, *shape)",
    ),
    "not pinned to send": ("values.pin_memory().to(", "values.to("),
    "spinning for ticks": (
        "self._copied = torch.cuda.Event(blocking=True)",
        "self._copied = torch.cuda.Event()",
    ),
    "spinning for images": (
        "    event = torch.cuda.Event(blocking=True)",
        "    event = torch.cuda.Event()",
    ),
    "a wait for the device": (
        "        self._copied.synchronize()",
        "        torch.cuda.synchronize()",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(
    name: str, device: FakeCuda, small_folder: Path, small: LatentDiffusion
) -> None:
    """Every one of these changes to the source makes a step or an image wrong, or a fault."""
    source, (old, new) = Path(cuda.__file__).read_text(), MUTANTS[name]
    assert source.count(old) == 1, "the mutant is of another source"
    module = types.ModuleType("mutant")
    exec(compile(source.replace(old, new), name, "exec"), module.__dict__)
    try:
        wrong = Life(device, small_folder, small, module.CudaGraphs).live()
    except (Exception, pytest.fail.Exception) as error:
        wrong = [repr(error)]
    assert wrong


def test_a_capture_that_fails_ends_the_process(
    device: FakeCuda, small_folder: Path, small: LatentDiffusion
) -> None:
    life = Life(device, small_folder, small, CudaGraphs)
    network = life.backend._network

    def waiting(*inputs: Tensor) -> Tensor:
        torch.cuda.synchronize()
        return network(*inputs)

    life.backend._network = waiting
    with torch.inference_mode(), pytest.raises(DeviceLost, match=r"not captured: .*not permitted"):
        life.step(2)
    assert device.current is device.home, "which a capture that fails does not see to itself"


def test_a_warm_run_that_fails_does_not(
    device: FakeCuda, small_folder: Path, small: LatentDiffusion
) -> None:
    life = Life(device, small_folder, small, CudaGraphs)
    with torch.inference_mode():
        life.fails_once(2, RuntimeError("shapes do not match"), when=2)
        life.step(2, WHOLE)
        life.backend.synchronize()
        life.compare("x", life.ours.x, life.theirs.x)
    assert life.wrong + device.faults == []


# The whole engine over it.


def test_a_model_is_opened_measured_and_described(alive: tuple[FakeCuda, Runner]) -> None:
    device, runner = alive
    info = runner.info
    assert (info.backend, info.device, info.dtype) == ("cuda-graphs", NAME, "float32")
    assert info.exact
    assert info.costs.buckets[-1].rows == 32, "all that there is memory for"
    assert info.blocks == (32, 16)
    assert not torch.backends.cudnn.allow_tf32
    assert device.faults == []


def test_a_crowd_has_the_pixels_of_the_plain_loop(
    alive: tuple[FakeCuda, Runner], tiny: LatentDiffusion
) -> None:
    """Bit for bit, alone and in company, with guidance and noise or without."""
    device, runner = alive
    chance = random.Random(1)
    wants = [wanted(chance, 1000 * i, tiny.schedule.samplers) for i in range(12)]
    crowd = served(runner, wants, slots=7)
    for want, images in zip(wants, crowd, strict=True):
        assert [pixels.data for pixels in draw(runner, want)] == images
        assert images == plain(runner, tiny, want)
    assert device.faults == []


def test_a_preview_is_of_the_x0_of_its_step(
    alive: tuple[FakeCuda, Runner], tiny: LatentDiffusion
) -> None:
    device, runner = alive
    want = drawn("tiny", 1, 6, 2.5, (0.0, 1.0), 0.4, 7, 2)
    scheduler = Scheduler(8, runner.info.costs)
    scheduler.submit(job_of(0, want, previews=2))
    made: dict[tuple[int, int], Pixels] = {}
    while scheduler.jobs:
        plan = scheduler.plan()
        for image in plan.admitted:
            runner.start(image)
        if plan.riding:
            runner.step(plan.riding, plan.rows)
            runner.decode(scheduler.advance(plan))
            runner.preview(
                [image for image in plan.riding if image.evaluation in image.job.previews]
            )
        with torch.inference_mode():
            for image, step, pixels in runner.previewed(wait=False):
                made[image.index, step] = pixels
        for image, result in runner.decoded(wait=not scheduler.busy):
            assert isinstance(result, Pixels)
            scheduler.deliver(image, result)
    for image, step, pixels in runner.previewed(wait=True):
        made[image.index, step] = pixels
    assert sorted(made) == [(image, step) for image in range(2) for step in (2, 4)]
    assert runner._previews.map is not None
    with torch.inference_mode():
        for (image, step), pixels in made.items():
            x0 = plain_x0(tiny, want, image, step).to(GPU)
            expected = to_uint8(runner._previews.map(x0)).cpu().numpy().tobytes()
            assert max(abs(a - b) for a, b in zip(pixels.data, expected, strict=True)) <= 1
    assert device.faults == []


def test_memory_decides_the_buckets_and_the_largest_bucket_the_slots(
    tiny_folder: Path,
) -> None:
    with installed(1 << 40):
        model = LatentDiffusion.open(tiny_folder, device=GPU)
        assert cuda.fitting(model, model.latent_shape)[-1] == 512
        backend = CudaGraphs(model, compiled=False)
        runner = Runner("tiny", model, "", backend, slots=None)
        assert runner._slots.x.shape[0] == 642, "with a reserve of a quarter, and two more"
    with installed(1 << 21):
        model = LatentDiffusion.open(tiny_folder, device=GPU, block_rows=1)
        assert cuda.fitting(model, model.latent_shape) == (1, 2, 4)


def test_buckets_without_memory_are_left_out_and_the_rest_is_exact(
    tiny_folder: Path, tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the estimate was wrong: 32 rows run out of it when they are tried."""
    monkeypatch.setattr(cuda, "fitting", lambda *_: (4, 16, 32))
    want = drawn("tiny", 1, 4, 2.5, (0.0, 1.0), 0.4, 7, 3)
    with opened(tiny_folder, 4_200_000) as (_, runner):
        assert runner.info.costs.buckets[-1].rows == 16
        assert [pixels.data for pixels in draw(runner, want)] == plain(runner, tiny, want)


@pytest.mark.parametrize("size", [1, 16])
def test_memory_that_runs_out_in_a_capture_costs_its_bucket(
    size: int, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(slots: Slots, rows: Rows, *more: Any) -> None:
        advance(slots, rows, *more)
        if len(rows.read) == size and device.capture:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda, "advance", short)
    monkeypatch.setattr(cuda, "fitting", lambda *_: (1, 16, 32))
    with installed() as device:
        model = LatentDiffusion.open(tiny_folder, device=GPU)
        runner = Runner("tiny", model, "", CudaGraphs(model, compiled=False), 4)
        runner.warm_up()
        assert size not in {bucket.rows for bucket in runner.info.costs.buckets}
        assert 32 in {bucket.rows for bucket in runner.info.costs.buckets}
        assert device.faults == []


def test_graphs_of_both_kinds_of_ticks_are_compared(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def otherwise(slots: Slots, rows: Rows, network: Any) -> None:
        advance(slots, rows, network)
        if len(rows.read) == 16 and not rows.plain:
            slots.x.mul_(1 + 1e-6)

    monkeypatch.setattr(cuda, "advance", otherwise)
    monkeypatch.setattr(cuda, "fitting", lambda *_: (4, 16, 32))
    with opened(tiny_folder) as (_, runner):
        assert 16 not in {bucket.rows for bucket in runner.info.costs.buckets}
        assert 32 in {bucket.rows for bucket in runner.info.costs.buckets}


def test_decoding_without_memory_for_many_decodes_few(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(images: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) == 16:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return develop(images)

    monkeypatch.setattr(cuda, "develop", short)
    monkeypatch.setattr(cuda, "fitting", lambda *_: (16,))
    with opened(tiny_folder) as (_, runner):
        assert runner._decoder.buckets[-1] == runner.info.blocks[1] == 4


def test_no_memory_even_for_one_row_is_told(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda, "advance", none)
    with pytest.raises(ValueError, match="tiny: out of memory even for the smallest tick"):
        contextlib.ExitStack().enter_context(opened(tiny_folder))


def test_previews_are_fitted_in_the_memory_that_there_is(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*given: Any, **more: Any) -> Any:
        made = measure(*given, **more)
        device.capacity = device.used + 20_000
        return made

    measure = runners.measure
    monkeypatch.setattr(cuda, "fitting", lambda *_: (16,))
    monkeypatch.setattr(runners, "measure", measured)
    with installed(ROOM) as device:
        load = msgspec.structs.replace(LOAD, device=GPU)
        runner = Runner.open("tiny", tiny_folder, load)
        runner.warm_up()
        assert runner._previews.map is not None


def test_a_step_that_runs_out_of_memory_is_tried_with_fewer_rows(
    alive: tuple[FakeCuda, Runner], tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the largest bucket had to be captured anew: nothing has moved."""
    device, runner = alive
    backend = runner._backend
    assert isinstance(backend, CudaGraphs)
    want = drawn("tiny", 1, 5, 2.5, (0.0, 1.0), 0.4, 7, 13)
    kept = backend._ticks.pop(32)
    monkeypatch.setattr(device, "capacity", device.used + 200_000)
    assert len(runner.info.costs.buckets) > 1
    assert [pixels.data for pixels in draw(runner, want)] == plain(runner, tiny, want)
    assert 32 not in backend._ticks
    backend._ticks[32] = kept
    assert device.faults == []


def test_a_closed_backend_leaves_no_memory_behind(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "fitting", lambda *_: (16,))
    with installed(ROOM) as device:
        load = msgspec.structs.replace(LOAD, device=GPU)
        runner = Runner.open("tiny", tiny_folder, load)
        runner.warm_up()
        torch.cuda.synchronize()
        del runner
        assert device.used == 0
        assert device.faults == []


def test_a_device_lost_while_loading_ends_the_worker(tmp_path: Path) -> None:
    """A new one may load it; this one could not be relied on."""

    def lost(_: object) -> Any:
        raise DeviceLost("a CUDA graph was not captured")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack(LOAD))
        with pytest.raises(DeviceLost):
            Worker(theirs, lost, orphaned=lambda: None).run()
        ours.close()


# Precision and compilers.


def test_precision_is_said(device: FakeCuda, tiny_folder: Path) -> None:
    for tf32, name in ((True, "tf32"), (False, "float32")):
        model = LatentDiffusion.open(tiny_folder, device=GPU, tf32=tf32)
        assert model.precision == name
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert torch.backends.cuda.matmul.allow_tf32 == tf32
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")


def test_it_is_said_where_cudnn_has_to_convolve(device: FakeCuda, tiny_folder: Path) -> None:
    (note,) = LatentDiffusion.open(tiny_folder, device=GPU).notes
    assert note.startswith("cuDNN makes convolutions: few numbers of rows give the same bits")
    assert "Triton" in note
    assert not LatentDiffusion.open(tiny_folder).notes


def test_products_are_not_split_by_the_size_of_the_batch(
    device: FakeCuda, tiny_folder: Path
) -> None:
    LatentDiffusion.open(tiny_folder, device=GPU)
    assert device.blas == "cublaslt"  # the only one that does what the next lines say
    matmul = torch.backends.cuda.matmul
    assert not matmul.allow_fp16_reduced_precision_reduction_split_k
    assert not matmul.allow_bf16_reduced_precision_reduction_split_k
    assert not matmul.allow_fp16_reduced_precision_reduction
    assert torch.backends.cudnn.deterministic


@pytest.mark.parametrize("how", [{}, {"device": GPU, "dtype": torch.float16}])
def test_tf32_is_refused_where_it_means_nothing(
    how: dict[str, Any], device: FakeCuda, tiny_folder: Path
) -> None:
    with pytest.raises(ValueError, match="tf32 needs a GPU and float32; the device is"):
        LatentDiffusion.open(tiny_folder, tf32=True, **how)


def test_no_operator_runs_for_nothing(tiny: LatentDiffusion) -> None:
    """No division by 1, the embedding's SiLU once, and no constant made anew."""

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    x, t = torch.randn(2, 2, 8, 8), torch.tensor([3, 900])
    tiny.vae.decode(x)
    names: list[str] = []
    with torch.no_grad(), Count():
        tiny.unet(x, t, t % 3)
    assert not {"div", "arange", "exp", "lift_fresh", "constant_pad_nd"} & set(names)
    blocks = sum(isinstance(layer, ResnetBlock) for layer in tiny.unet.modules())
    assert names.count("silu") == 2 * blocks + 3, "two in each, of time, its embedding, and the end"
    with torch.no_grad(), Count():
        tiny.vae.decode(x)
    assert "lift_fresh" not in names


@pytest.mark.parametrize(
    ("triton", "compiler", "lacks"),
    [(False, True, "Triton.*pip install"), (True, False, "C compiler.*apt-get install gcc")],
)
def test_a_lacking_compiler_is_told(
    triton: bool,
    compiler: bool,
    lacks: str,
    device: FakeCuda,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _: triton or None)
    monkeypatch.setattr(compiling.shutil, "which", lambda _: compiler or None)
    model = LatentDiffusion.open(tiny_folder, device=GPU)
    with pytest.raises(ValueError, match=f"compile is true, which needs a? ?{lacks}"):
        CudaGraphs(model, compiled=True)
