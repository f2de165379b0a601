"""One model on its device: the images in flight, step by step, in the parts of a tick.

The scheduler decides which images ride and when; this file knows when a slot may be read and
written. Ticks are made in tick.py, pixels in decoding.py and previews.py.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from app.engine.backends.base import Backend, Part, Slots, TooLittleMemory, device_errors
from app.engine.backends.choice import pick_backend, weights_dtype
from app.engine.backends.hardware import device_name, platform_of
from app.engine.backends.measure import Clock, Measured, measure, unmeasured
from app.engine.backends.sketching import fit_preview
from app.engine.costs import Costs
from app.engine.decoding import Decoder
from app.engine.errors import DeviceLost, OutOfMemory
from app.engine.job import Image, SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.parts import divide
from app.engine.previews import Previews
from app.engine.results import Pixels
from app.engine.shares import with_reserve
from app.engine.tick import Flight
from app.engine.turnstile import Turn
from app.engine.wire import Load
from models.digests import checkpoint_digest
from models.files import CheckpointError
from models.memory import activations, available
from models.pipeline import LatentDiffusion, pick_device
from models.sheet_file import read_sheet

log = logging.getLogger(__name__)

_DECODED = 8  # images that a part decodes before a step, at most; it ends the batch it is at
_SLOTS = 64  # where neither settings nor the largest bucket say more


class Runner:
    """One model on its device at one image size, and the images in flight."""

    def __init__(
        self,
        name: str,
        model: LatentDiffusion,
        digest: str,
        backend: Backend,
        slots: int | None,
        sheet: bytes | None = None,
    ) -> None:
        """Room for `slots` images of one client; by the largest bucket if None."""
        self._name, self._model, self._digest, self._backend = name, model, digest, backend
        self._sheet = sheet
        self._asked = slots
        slots = max(with_reserve(slots or max(_SLOTS, *backend.buckets)), *backend.buckets)
        # Two more than there are: one that padding reads, and one where it writes.
        self._slots = Slots.of(slots + 2, model.denoiser, backend.shape)
        self._flight = Flight(model, backend)
        self._starting: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}  # by slot: what goes in
        self._aloft: dict[int, int] = {}  # by slot in a step not settled, the part that steps it
        self._parts = 1  # of the last tick
        self._finishing: list[Image] = []  # in their last step
        self._showing: list[tuple[Image, int]] = []  # in a step that is shown, and which it is
        blank = self._slots.x[self._slots.waste - 1]
        expected = unmeasured(backend, model)
        self._decoder = Decoder(backend, blank, expected.decode_buckets)
        self._previews = Previews(backend)
        self.begun = 0.0  # when the first part of the last step began; time.perf_counter()
        self.info = self._describe(expected)

    @classmethod
    def open(cls, name: str, place: Path, load: Load) -> "Runner":
        """Load a model; raises `CheckpointError`, or `ValueError` for a wrong device.

        Notes on what the folder has that is ignored, or lacks and is assumed, are logged: in a
        server by its worker, on the command line to standard error.
        """
        tf32, device = load.dtype == "tf32", pick_device(load.device)
        dtype = torch.float32 if tf32 else getattr(torch, load.dtype)
        model = LatentDiffusion.open(
            place,
            device=load.device,
            dtype=weights_dtype(device, dtype, load.backend),
            tf32=tf32,
            prediction=load.prediction,
            # A GPU has to have memory for one row only: the backend has as many more as it can.
            block_rows=1 if device.type == "cuda" else None,
        )
        for note in model.notes:
            log.warning("%s: %s", name, note)
        backend = pick_backend(model, load.backend, compiled=load.compile, dtype=dtype)
        digest, sheet = checkpoint_digest(place, load.prediction), _sheet_of(name, place, model)
        return cls(name, model, digest, backend, load.slots, sheet)

    def at(self, width: int, height: int) -> "Runner":
        """The same networks for images of another size, in pixels; to be warmed up before use.

        It has slots and graphs of its own.

        Raises:
            ValueError: the networks cannot make this size, or there is no memory for it.
        """
        unet, vae = self._model.unet.config, self._model.vae.config
        step = vae.downscale * 2 ** (len(unet.block_out_channels) - 1)
        if min(width, height) < step or width % step or height % step:
            raise ValueError(f"size is {width}x{height}; allowed: multiples of {step}")
        size = height // vae.downscale, width // vae.downscale
        need, room = activations(unet, vae, 1, size), available(self._model.device)
        try:
            if room is not None and need > room:
                raise OutOfMemory(f"{need} bytes")
            with device_errors():
                backend = self._backend.at((self._backend.shape[0], *size))
                return Runner(self._name, self._model, self._digest, backend, self._asked)
        except TooLittleMemory as error:
            raise ValueError(f"{self._name}: {error}") from OutOfMemory(str(error))
        except OutOfMemory as error:
            raise ValueError(
                f"{self._name}: one image of {width}x{height} needs about {need >> 20:,} MiB of "
                "memory beside the weights, which is not free"
            ) from error

    @torch.inference_mode()
    def warm_up(self, clock: Clock = time.perf_counter, turn: Turn = nullcontext) -> None:
        """Measure the backend, with a turn on the device for each run, and use what is exact.

        Raises:
            ValueError: a step is not finite, or there is no memory for one; the message names the
                model.
        """
        given = self._backend, self._model, self._slots
        try:
            measured = measure(*given, clock=clock, turn=turn)
        except ValueError as error:
            raise ValueError(f"{self._name}: {error}") from error
        except OutOfMemory as error:
            raise ValueError(f"{self._name}: out of memory even for the smallest tick") from error
        self._decoder.buckets = measured.decode_buckets
        self.info = self._describe(measured)
        self._previews.map = fit_preview(*given, measured, clock=clock, turn=turn)

    def expect(self, params: SamplingParams) -> None:
        """Begin to encode a prompt."""
        self._model.denoiser.expect(params.condition)

    @torch.inference_mode()
    def start(self, image: Image) -> None:
        """Make what goes into an image's slot: its first latent, and what the network reads."""
        first = self._flight.begin(image)
        params = image.job.params
        read, image.job.cut = self._model.denoiser.encode(
            params.condition, (params.width, params.height)
        )
        self._starting[image.slot] = first, read

    @torch.inference_mode()
    def step(self, images: Sequence[Image], rows: int) -> None:
        """Begin one evaluation of these images, all or none, in a bucket of `rows`.

        Each part of the tick begins as soon as the same part of the last one is settled.

        Raises:
            OutOfMemory: with fewer it may succeed.
            DeviceLost: nothing will, in this process.
        """
        count = self._backend.parts(rows)
        shares = divide(images, count, rows // count, self._aloft)
        begun = False
        try:
            with self._flight.undone_on_error(images), device_errors():
                ticks = [self._flight.rows(share, rows // count, self._slots) for share in shares]
                if count != self._parts or self._mixed(shares):
                    self._settle(range(self._parts))
                self._parts = count
                for part in self._in_turn([k for k, share in enumerate(shares) if share]):
                    began = time.perf_counter()
                    self._backend.step(self._slots, ticks[part], Part(part, count))
                    self._aloft |= {image.slot: part for image in shares[part]}
                    if not begun:  # what is the first to begin is the first to end
                        self.begun = began
                    begun = True
        except Exception as error:
            if begun:
                raise DeviceLost(f"only parts of a tick were begun: {error}") from error
            raise

    @torch.inference_mode()
    def settle(self) -> None:
        """Wait until the device has made the step begun last; decoding may go on.

        Raises:
            DeviceLost: it was not made.
        """
        with device_errors():
            self._settle(range(self._parts))
            self._backend.synchronize()

    @torch.inference_mode()
    def decode(self, images: Sequence[Image]) -> None:
        """Decode images that are in their last step, as soon as it is done."""
        self._finishing += images
        self._collect()

    @torch.inference_mode()
    def preview(self, images: Sequence[Image]) -> None:
        """Keep the x0 of these images at the step begun last, for previews."""
        self._showing += [(image, image.evaluation) for image in images]
        self._collect()

    @torch.inference_mode()
    def previewed(self, *, wait: bool) -> list[tuple[Image, int, Pixels]]:
        """Previews, each with the evaluation it is of; with `wait`, all that were kept."""
        return self._previews.take(wait=wait)

    @torch.inference_mode()
    def decoded(self, *, wait: bool) -> list[tuple[Image, Pixels | str]]:
        """Images that came out since, or the reason why one cannot."""
        for part in range(self._parts):  # the last step may be the last there is
            if wait or self._backend.done(part):
                with device_errors():
                    self._settle([part])
                self._decoder.begin(part)
        return self._decoder.take(wait=wait)

    def _in_turn(self, parts: Iterable[int]) -> Iterator[int]:
        """These parts, each when it has done its last step and what it was then given to decode."""
        waiting, decoded = set(parts), Counter[int]()
        while waiting:
            part = self._backend.first(waiting)
            self._settle([part])
            count = self._decoder.begin(part) if decoded[part] < _DECODED else 0
            decoded[part] += count
            if not count:
                waiting.remove(part)
                yield part

    def _mixed(self, shares: Sequence[Sequence[Image]]) -> bool:
        """Whether a part has images that another one still steps."""
        return any(
            self._aloft.get(image.slot, part) != part
            for part, share in enumerate(shares)
            for image in share
        )

    def _settle(self, parts: Iterable[int]) -> None:
        """Let parts finish their steps; take what is ready out of slots, put in what starts."""
        for part in parts:
            self._backend.settle(part)
            self._aloft = {slot: at for slot, at in self._aloft.items() if at != part}
        self._collect()
        if ready := [slot for slot in self._starting if slot not in self._aloft]:
            send = self._backend.send
            first, conditionings = zip(*(self._starting[slot] for slot in ready), strict=True)
            read = [send(torch.stack(sides)) for sides in zip(*conditionings, strict=True)]
            self._slots.fill(send(torch.tensor(ready)), send(torch.stack(first)), tuple(read))
            for slot in ready:  # not before: it may have to be tried again
                del self._starting[slot]

    def _collect(self) -> None:
        """Take finished latents, and x0 that are wanted, out of slots that no step is using."""
        landed = [image for image in self._finishing if image.slot not in self._aloft]
        self._decoder.add(landed, self._copies(self._slots.x, landed))
        self._finishing = [image for image in self._finishing if image.slot in self._aloft]
        shown = [wanted for wanted in self._showing if wanted[0].slot not in self._aloft]
        self._previews.add(shown, self._copies(self._slots.x0, [image for image, _ in shown]))
        self._showing = [wanted for wanted in self._showing if wanted[0].slot in self._aloft]

    def _copies(self, slots: Tensor, images: Sequence[Image]) -> Sequence[Tensor]:
        """What these images have in their slots, as it is now."""
        if not images:
            return ()
        places = torch.tensor([image.slot for image in images])
        return slots[self._backend.send(places)].unbind()

    def _describe(self, measured: Measured) -> ModelInfo:
        """What the server may know of this model."""
        model, costs = self._model, Costs(measured.buckets)
        platform = platform_of(model.device, self._backend.name)
        _, height, width = self._backend.shape
        factor, schedule = model.vae.config.downscale, model.schedule
        return ModelInfo(
            name=self._name,
            classes=model.classes,
            prompts=model.prompts,
            sheet=self._sheet,
            sizes=replace(model.sizes, width=width * factor, height=height * factor),
            max_steps=schedule.num_train_timesteps,
            guidance_scale=model.guidance_scale,
            digest=self._digest,
            backend=self._backend.name,
            device=device_name(model.device),
            dtype=self._backend.precision,
            exact=measured.exact,
            costs=costs,
            sampler=schedule.sampler,
            spacing=schedule.spacing,
            samplers=schedule.samplers,
            platform=f"{platform}, rounding {measured.rounding}",
            blocks=measured.blocks,
            slots=self._asked or max(_SLOTS, costs.buckets[-1].rows),
        )


def _sheet_of(name: str, place: Path, model: LatentDiffusion) -> bytes | None:
    """The class sheet of a model folder; a wrong one is left out, and the log says why."""
    sizes = model.sizes
    try:
        return read_sheet(place, len(model.classes.names), sizes.width, sizes.height)
    except CheckpointError as error:
        log.warning("%s: its class sheet is not shown: %s", name, error)
        return None
