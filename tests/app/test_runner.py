"""The runner on both CPU backends: the pixels of the plain loop, whatever shares the ticks."""

import copy
import random
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import wait
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from app.engine.backends.base import WHOLE, Backend, Decoding, Part, Rows, Slots
from app.engine.backends.choice import pick_backend
from app.engine.backends.eager import Eager
from app.engine.backends.measure import NOT_FINITE
from app.engine.backends.openvino import OpenVino, _Request
from app.engine.costs import Bucket, Costs
from app.engine.errors import DeviceLost, OutOfMemory
from app.engine.job import Asker, Image, Request, SamplingParams
from app.engine.lane import Lane
from app.engine.offline import draw
from app.engine.parts import divide
from app.engine.results import Pixels
from app.engine.runner import Runner
from app.engine.scheduler import Scheduler
from models.asked import Options
from models.pipeline import LatentDiffusion, to_uint8
from models.samplers import clean, guide, step, trajectory
from models.sampling import SAMPLERS
from models.sizes import Sizes
from tests.fakes import drawn, job_of

BACKENDS = {"eager": Eager, "openvino": OpenVino}


@pytest.fixture(scope="module", params=["eager", pytest.param("openvino", marks=pytest.mark.slow)])
def runner(request: pytest.FixtureRequest, tiny: LatentDiffusion) -> Runner:
    made = Runner("tiny", tiny, "0" * 10, BACKENDS[request.param](tiny), slots=16)
    made.warm_up()
    return made


def wanted(chance: random.Random, seed: int, samplers: Sequence[str] = ("ddim",)) -> SamplingParams:
    """A request that differs from others in all that one can say."""
    scale = chance.choice([1.0, 1.0, 2.5, 7.0])
    interval = (0.0, 1.0) if scale == 1 else chance.choice([(0.0, 1.0), (0.2, 0.6), (0.5, 1.0)])
    sampler, steps = SAMPLERS[chance.choice(samplers)], chance.choice([1, 2, 3, 4, 6, 9, 14])
    steps = steps // 2 + 1 if sampler.twice else steps
    return drawn(
        "tiny",
        chance.choice([None, 0, 1, 2]) if scale == 1 else chance.randrange(3),
        steps,
        scale,
        interval,
        chance.choice([0.0, 0.0, 0.3, 1.0]) if sampler.eta else 0.0,
        seed,
        chance.choice([1, 1, 2, 5]),
        sampler=sampler.name,
        spacing=chance.choice(sampler.spacings),
        start=chance.choice([0, 0, chance.randrange(steps)]),
    )


def plain_loop(model: LatentDiffusion, want: SamplingParams, **size: int) -> list[bytes]:
    images = model.sample(*labels_and_seeds(want), **{**options(want), **size})
    return [image.numpy().tobytes() for image in to_uint8(images)]


def labels_and_seeds(want: SamplingParams) -> tuple[list[int | None], list[int]]:
    return [want.condition.index] * want.n, [want.seed_of(k) for k in range(want.n)]


def options(want: SamplingParams) -> Options:
    """As the plain loop takes them."""
    return {
        "steps": want.steps,
        "sampler": want.sampler,
        "spacing": want.spacing,
        "guidance_scale": want.guidance_scale,
        "guidance_interval": want.guidance_interval,
        "eta": want.eta,
        "start": want.start,
    }


def served(runner: Runner, wants: list[SamplingParams], slots: int) -> list[list[bytes]]:
    """All requests at once, of three clients in turn, a new one coming each tick."""
    lane, jobs = Lane(runner, slots=slots), []
    while len(jobs) < len(wants) or lane.active:
        if (number := len(jobs)) < len(wants):
            request = Request(wants[number], asker=Asker("abc"[number % 3]))
            jobs.append(lane.submit(number, request))
        ended = lane.run(lane.plan()) + lane.deliver(wait=not lane.busy)
        assert all(end.reason is None for end in ended)
    return [[job.images[k].data for k in range(job.params.n)] for job in jobs]


@pytest.mark.slow
def test_a_crowd_has_the_pixels_of_the_plain_loop(runner: Runner, tiny: LatentDiffusion) -> None:
    """Whatever their samplers: bit for bit alone and in company, and the eager plain loop's."""
    chance = random.Random(1)
    wants = [wanted(chance, 1000 * i, tiny.schedule.samplers) for i in range(100)]
    assert {want.sampler for want in wants} == set(SAMPLERS)
    for want, images in zip(wants, served(runner, wants, slots=11), strict=True):
        if runner.info.backend == "eager":
            assert images == plain_loop(tiny, want), want
        else:
            assert [pixels.data for pixels in draw(runner, want)] == images, want
            if want.sampler == "ddim":
                for ours, theirs in zip(images, plain_loop(tiny, want), strict=True):
                    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1, want


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_in_company_what_the_plain_loop_draws(
    sampler: str, tiny: LatentDiffusion
) -> None:
    runner = Runner("tiny", tiny, "", Eager(tiny), slots=8)
    mine = drawn("tiny", 1, 5, 2.5, (0.0, 1.0), 0.0, 7, 2, sampler=sampler)
    beside = [
        drawn("tiny", 0, 4, 1.0, (0.0, 1.0), 0.6, 50, 1),
        drawn("tiny", 2, 6, 2.0, (0.0, 0.5), 0.0, 60, 1, sampler="dpmpp_3m", spacing="karras"),
    ]
    wants = [mine, *beside]
    assert served(runner, wants, slots=8) == [plain_loop(tiny, want) for want in wants]


def test_a_slot_has_nothing_left_of_its_last_owner(tiny: LatentDiffusion) -> None:
    """Who comes after an image that is not finite, and reads a history, draws as ever."""
    runner = Runner("tiny", tiny, "", Eager(tiny), slots=1)
    want = drawn("tiny", 1, 4, 2.0, (0.0, 1.0), 0.0, 7, 1, sampler="dpmpp_2m")
    expected = plain_loop(tiny, want)
    runner._slots.history.fill_(torch.nan)
    runner._slots.history[-2:] = 0  # of padding, which nothing writes
    assert [pixels.data for pixels in draw(runner, want)] == expected


class Seen(Eager):
    """Remembers its ticks."""

    def __init__(self, model: LatentDiffusion) -> None:
        super().__init__(model)
        self.ticks: list[Rows] = []

    def step(self, slots: Slots, rows: Rows, part: Part = WHOLE) -> None:
        self.ticks.append(rows)
        super().step(slots, rows, part)


@pytest.mark.parametrize(
    ("sampler", "eta", "noise", "history"),
    [
        ("ddim", 0.0, False, False),
        ("ddim", 0.5, True, False),
        ("euler", 0.0, False, False),
        ("dpmpp_2m", 0.0, False, True),
    ],
)
def test_a_tick_has_no_more_than_its_images_use(
    sampler: str, eta: float, noise: bool, history: bool, tiny: LatentDiffusion
) -> None:
    """A tick of plain DDIM makes the latents alone."""
    backend = Seen(tiny)
    want = drawn("tiny", 1, 4, 2.0, (0.0, 1.0), eta, 7, 1, sampler=sampler)
    draw(Runner("tiny", tiny, "", backend, slots=1), want)
    assert [tick.noise is not None for tick in backend.ticks] == [noise] * 3 + [False]
    assert {tick.kept is not None for tick in backend.ticks} == {history}
    assert not any(tick.shown for tick in backend.ticks)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Eager, pytest.param(OpenVino, marks=pytest.mark.slow)])
def test_another_size_has_slots_of_its_own_and_the_plain_loop_s_pixels(
    kind: Callable[[LatentDiffusion], Backend], tiny: LatentDiffusion
) -> None:
    usual = Runner("tiny", tiny, "", kind(tiny), slots=4)
    wide = usual.at(32, 24)
    wide.warm_up()
    assert (wide.info.sizes.width, wide.info.sizes.height) == (32, 24)
    assert (usual.info.sizes.width, usual.info.sizes.height) == tiny.image_size
    want = drawn("tiny", 1, 3, 2.0, (0.0, 1.0), 0.3, 7, 2, width=32, height=24)
    wider = copy.copy(tiny)
    wider.sizes = Sizes(16, 16, step=8, least=8, most=32)
    looped = plain_loop(wider, want, width=32, height=24)
    for ours, theirs in zip(draw(wide, want), looped, strict=True):
        assert (ours.width, ours.height) == (32, 24)
        assert max(abs(a - b) for a, b in zip(ours.data, theirs, strict=True)) <= (kind is OpenVino)
    again = drawn("tiny", 1, 3, 2.0, (0.0, 1.0), 0.3, 7, 2)
    if kind is Eager:
        assert [pixels.data for pixels in draw(usual, again)] == plain_loop(tiny, again)


def test_a_size_without_memory_is_refused_before_it_is_taken(tiny: LatentDiffusion) -> None:
    runner = Runner("tiny", tiny, "", Eager(tiny), slots=1)
    with pytest.raises(ValueError, match=r"tiny: one image of 400000x400000 needs about .* MiB"):
        runner.at(400_000, 400_000)


@pytest.mark.parametrize("size", [(33, 16), (16, 18), (0, 16), (2, 2)])
def test_a_size_that_the_networks_cannot_make_is_refused(
    size: tuple[int, int], tiny: LatentDiffusion
) -> None:
    runner = Runner("tiny", tiny, "", Eager(tiny), slots=1)
    with pytest.raises(ValueError, match=f"size is {size[0]}x{size[1]}; allowed: multiples of 4"):
        runner.at(*size)


def test_a_last_step_is_seen_to_though_nobody_waits(runner: Runner) -> None:
    """As where another model is busy: no step of this one comes after it."""
    want = drawn("tiny", 1, 4, 2.0, (0.0, 1.0), 0.5, 7, 5)
    scheduler, job = Scheduler(8, runner.info.costs), job_of(1, want)
    scheduler.submit(job)
    while scheduler.busy:
        plan = scheduler.plan()
        for image in plan.admitted:
            runner.start(image)
        runner.step(plan.riding, plan.rows)
        runner.decode(scheduler.advance(plan))
    end = time.monotonic() + 30
    while not job.ended:
        assert time.monotonic() < end
        for image, made in runner.decoded(wait=False):
            assert isinstance(made, Pixels)
            scheduler.deliver(image, made)
    assert [job.images[k] for k in range(want.n)] == draw(runner, want)


def test_the_table_has_what_was_measured(runner: Runner) -> None:
    assert runner.info.exact
    assert {16} <= {bucket.rows for bucket in runner.info.costs.buckets}
    assert all(bucket.seconds > 0 for bucket in runner.info.costs.buckets)


class Strange(Eager):
    """Rounds otherwise at some sizes, as kernels may."""

    def __init__(self, model: LatentDiffusion, sizes: set[int], *, by_position: bool = False):
        super().__init__(model)
        self._sizes, self._by_position = sizes, by_position

    def step(self, slots: Slots, rows: Rows, part: Part = WHOLE) -> None:
        super().step(slots, rows, part)
        if len(rows.read) in self._sizes:
            odd = rows.write[:1] if self._by_position else rows.write
            slots.x[odd] = torch.nextafter(slots.x[odd], torch.tensor(torch.inf))


def test_a_bucket_that_rounds_otherwise_is_not_used(tiny: LatentDiffusion) -> None:
    runner = Runner("tiny", tiny, "", Strange(tiny, {4, 32}), slots=4)
    runner.warm_up()
    kept = {bucket.rows for bucket in runner.info.costs.buckets}
    assert not kept & {4, 32}
    assert {16, 64} <= kept
    assert runner.info.exact


def test_where_no_shape_is_exact_it_is_said(tiny: LatentDiffusion) -> None:
    backend = Strange(tiny, {1, 2, 4, 8, 16, 32, 64}, by_position=True)
    runner = Runner("tiny", tiny, "", backend, slots=4)
    runner.warm_up()
    assert [bucket.rows for bucket in runner.info.costs.buckets] == [16]
    assert not runner.info.exact


def test_an_image_that_is_not_finite_fails_and_its_neighbours_are_whole(
    runner: Runner, tiny: LatentDiffusion
) -> None:
    want = drawn("tiny", 1, 3, 2.0, (0.0, 1.0), 0.5, 7, 5)
    scheduler, job = Scheduler(8, runner.info.costs), job_of(1, want)
    scheduler.submit(job)
    made = {}
    while len(made) < want.n:
        plan = scheduler.plan()
        for image in plan.admitted:
            runner.start(image)
            if image.index in (1, 4):
                noise = torch.full(tiny.latent_shape, torch.nan if image.index == 1 else torch.inf)
                runner._starting[image.slot] = noise, runner._starting[image.slot][1]
        if plan.riding:
            runner.step(plan.riding, plan.rows)
            runner.decode(scheduler.advance(plan))
        made |= {image.index: pixels for image, pixels in runner.decoded(wait=True)}
    assert [made[k] == NOT_FINITE for k in range(5)] == [False, True, False, False, True]
    expected = [pixels.data for pixels in draw(runner, want)]
    for k in (0, 2, 3):
        pixels = made[k]
        assert isinstance(pixels, Pixels)
        assert pixels.data == expected[k]


class Failing(Eager):
    """Does not decode latents that begin with `bad`, and raises `error` in a step."""

    bad: Tensor | None = None
    error: BaseException | None = None

    def step(self, slots: Slots, rows: Rows, part: Part = WHOLE) -> None:
        if self.error:
            raise self.error
        super().step(slots, rows, part)

    def decode(self, latents: Tensor, part: int = 0) -> Decoding:
        if self.bad is not None and any(torch.equal(latent, self.bad) for latent in latents):
            raise RuntimeError("cuDNN did not like it")
        return super().decode(latents, part)


def test_a_decoding_that_fails_takes_no_other_with_it(tiny: LatentDiffusion) -> None:
    backend = Failing(tiny)
    runner = Runner("tiny", tiny, "", backend, slots=8)
    want = drawn("tiny", 1, 1, 1.0, (0.0, 1.0), 0.0, 7, 5)
    scheduler = Scheduler(8, runner.info.costs)
    scheduler.submit(job_of(1, want))
    plan = scheduler.plan()
    for image in plan.admitted:
        runner.start(image)
    runner.step(plan.riding, plan.rows)
    backend.bad = runner._slots.x[plan.riding[2].slot].clone()
    runner.decode(scheduler.advance(plan))
    made = [pixels for _, pixels in runner.decoded(wait=True)]
    assert made.pop(2) == "RuntimeError in the decoder"
    assert all(isinstance(pixels, Pixels) for pixels in made)


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (torch.AcceleratorError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), OutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemory),
        (RuntimeError("GET was unable to find an engine to execute this"), OutOfMemory),
        (DeviceLost("a CUDA graph was not captured"), DeviceLost),
        (torch.AcceleratorError("an illegal memory access"), DeviceLost),
        (RuntimeError("shapes do not match"), RuntimeError),
    ],
)
def test_errors_of_a_device_are_told_apart(
    raised: BaseException, becomes: type[BaseException], tiny: LatentDiffusion
) -> None:
    backend = Failing(tiny)
    runner = Runner("tiny", tiny, "", backend, slots=2)
    scheduler = Scheduler(2, runner.info.costs)
    scheduler.submit(job_of(1, drawn("tiny", 1, 2, 1.0, (0.0, 1.0), 0.0, 7, 1)))
    plan = scheduler.plan()
    runner.start(plan.admitted[0])
    noise, _ = runner._starting[plan.riding[0].slot]
    backend.error = raised
    with pytest.raises(becomes):
        runner.step(plan.riding, plan.rows)
    assert torch.equal(runner._slots.x[plan.riding[0].slot], noise), "it has not moved"


def test_a_step_that_is_tried_again_has_the_same_noise(tiny: LatentDiffusion) -> None:
    class Once(Eager):
        """Raises in its third step."""

        steps = 0

        def step(self, slots: Slots, rows: Rows, part: Part = WHOLE) -> None:
            self.steps += 1
            if self.steps == 3:
                raise torch.OutOfMemoryError
            super().step(slots, rows, part)

    want = drawn("tiny", 1, 9, 2.0, (0.0, 1.0), 0.7, 7, 3)
    runner = Runner("tiny", tiny, "", Once(tiny), slots=4)
    assert [pixels.data for pixels in draw(runner, want)] == plain_loop(tiny, want)


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("cuda-graphs", torch.float32, "needs a GPU"),
        ("openvino", torch.float16, "runs only float32 and bfloat16, and only on the CPU"),
    ],
)
def test_a_backend_that_does_not_fit_is_refused(
    name: str, dtype: torch.dtype, message: str, tiny: LatentDiffusion
) -> None:
    other = LatentDiffusion.__new__(LatentDiffusion)
    other.__dict__ |= tiny.__dict__ | {"dtype": dtype}
    with pytest.raises(ValueError, match=message):
        pick_backend(other, name, compiled=False)


def test_auto_is_the_fastest_that_fits(tiny: LatentDiffusion) -> None:
    assert pick_backend(tiny, "auto", compiled=False).name == "openvino"
    half = LatentDiffusion.__new__(LatentDiffusion)
    half.__dict__ |= tiny.__dict__ | {"dtype": torch.bfloat16}
    assert pick_backend(half, "auto", compiled=False).name == "eager"


def test_a_preview_is_of_the_x0_of_its_step(runner: Runner, tiny: LatentDiffusion) -> None:
    """Beside others, with guidance and noise: what the plain loop has there, through the map."""
    want = drawn("tiny", 1, 6, 2.5, (0.0, 1.0), 0.4, 7, 2)
    others = [drawn("tiny", 0, 3 + k, 1.0, (0.0, 1.0), 0.0, 50 + k, 1) for k in range(4)]
    scheduler = Scheduler(8, runner.info.costs)
    for number, params in enumerate([want, *others]):
        scheduler.submit(job_of(number, params, previews=2 if params is want else 0))
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
        for image, evaluation, pixels in runner.previewed(wait=True):
            made[image.index, evaluation] = pixels
        for image, result in runner.decoded(wait=not scheduler.busy):
            assert isinstance(result, Pixels)
            scheduler.deliver(image, result)
    assert sorted(made) == [(image, evaluation) for image in range(2) for evaluation in (2, 4)]
    assert runner._previews.map is not None
    for (image, evaluation), pixels in made.items():
        x0 = plain_x0(tiny, want, image, evaluation)
        expected = to_uint8(runner._previews.map(x0)).numpy().tobytes()
        assert max(abs(a - b) for a, b in zip(pixels.data, expected, strict=True)) <= 1


def plain_x0(model: LatentDiffusion, want: SamplingParams, image: int, steps: int) -> Tensor:
    """What one image's evaluation saw, from the UNet, guidance and the update alone."""
    x, generator = model.start(want.seed_of(image))
    way = trajectory(model.schedule, want.sampler, want.steps, eta=want.eta)
    x, x0 = way.noise * x[None], x[None]
    for t, row in zip(way.timesteps[:steps].float(), way.coefficients.float(), strict=False):
        with torch.no_grad():
            labels = torch.tensor([want.condition.index, model.classes.null])
            both = model.unet(torch.cat([x, x]), t.expand(2), labels)
        output = guide(both[:1], both[1:], torch.tensor([want.guidance_scale]))
        noise = torch.randn(model.latent_shape, generator=generator)[None]
        x0 = clean(x, output, row[None])
        x, _ = step(x, output, row[None], noise=noise)
    return x0


def image_of(slot: int, rows: int) -> Image:
    params = drawn("tiny", 1, 4, 1.0 if rows == 1 else 2.0, (0.0, 1.0), 0.0, slot, 1)
    return Image(job_of(slot, params), 0, (0, slot, 0), slot=slot)


@pytest.mark.parametrize("seed", range(20))
def test_every_image_has_a_place_in_one_part_and_stays_where_it_is_if_it_can(seed: int) -> None:
    chance = random.Random(seed)
    parts, room = chance.choice([1, 2, 3, 4]), chance.choice([4, 6, 12])
    images: list[Image] = []
    while (
        left := parts * room - sum(image.rows for image in images)
    ) > 0 and chance.random() > 0.03:
        images.append(image_of(len(images), chance.choice([1, 2]) if left > 1 else 1))
    chance.shuffle(images)
    aloft = {image.slot: chance.randrange(parts) for image in images if chance.random() < 0.6}
    shares = divide(images, parts, room, aloft)
    assert sorted(image.slot for share in shares for image in share) == list(range(len(images)))
    assert all(sum(image.rows for image in share) <= room for share in shares)
    bound = [[image for image in images if aloft.get(image.slot) == part] for part in range(parts)]
    if all(sum(image.rows for image in share) <= room for share in bound):
        rest = sum(image.rows == 2 for image in images if image.slot not in aloft)
        free = sum((room - sum(image.rows for image in share)) // 2 for share in bound)
        if rest <= free:  # the pairs that may go anywhere fit beside those that may not
            moved = [i for part, share in enumerate(shares) for i in share if i not in bound[part]]
            assert not any(image.slot in aloft for image in moved)


def test_parts_that_have_their_images_wait_for_no_other(tiny: LatentDiffusion) -> None:
    """One part is held in its step; the other goes on, step after step, with the same pixels."""
    backend = OpenVino(tiny)
    if backend.parts(8) < 2:
        pytest.skip("one core has one part")
    runner = Runner("tiny", tiny, "", backend, slots=16)
    runner.info = replace(runner.info, costs=Costs((Bucket(8, 1.0),)))  # no tick of one part
    order: list[int] = []

    def first(parts: Collection[int]) -> int:  # the second one first, whatever is done
        part = max(parts)
        if part in backend._running:
            wait([backend._running[part]])
        order.append(part)
        return part

    want = drawn("tiny", 1, 6, 2.0, (0.0, 1.0), 0.5, 7, 4)
    expected = draw(runner, want)
    backend.first = first  # type: ignore[method-assign]
    assert draw(runner, want) == expected
    assert order[:6] == [1, 0] * 3


def test_a_part_that_fails_ends_the_process(
    tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who rode in it have been counted on, so it cannot be tried again."""

    class Broken(_Request):
        def result(self) -> Tensor:
            raise RuntimeError("out of workspace")

    monkeypatch.setattr("app.engine.backends.openvino._Request", Broken)
    runner = Runner("tiny", tiny, "", OpenVino(tiny), slots=8)
    with pytest.raises(DeviceLost, match="out of workspace"):
        draw(runner, drawn("tiny", 1, 3, 1.0, (0.0, 1.0), 0.0, 7, 1))


class Short(Eager):
    """Has no memory for what is sent, `fails` times."""

    fails = 0

    def send(self, values: Tensor) -> Tensor:
        if self.fails:
            self.fails -= 1
            raise torch.OutOfMemoryError
        return super().send(values)


@pytest.mark.parametrize("tick", range(5))
def test_memory_that_runs_out_between_steps_loses_nothing(tick: int, tiny: LatentDiffusion) -> None:
    """Noise on its way into slots, and latents and x0 on their way out, are tried again."""
    backend = Short(tiny)
    runner = Runner("tiny", tiny, "", backend, slots=8)
    want = drawn("tiny", 1, 3, 2.0, (0.0, 1.0), 0.7, 7, 4)
    expected = plain_loop(tiny, want)
    scheduler, job = Scheduler(2, runner.info.costs), job_of(0, want)
    scheduler.submit(job)
    made, ticks = {}, 0
    while not job.ended:
        plan = scheduler.plan()
        for image in plan.admitted:
            runner.start(image)
        if plan.riding:
            backend.fails = int(ticks == tick)
            ticks += 1
            try:
                runner.step(plan.riding, plan.rows)
            except OutOfMemory:
                assert scheduler.stumble(plan, memory=True) is None
                continue
            backend.fails = 0
            runner.decode(scheduler.advance(plan))
        for image, pixels in runner.decoded(wait=not scheduler.busy):
            assert isinstance(pixels, Pixels)
            made[image.index] = pixels.data
            scheduler.deliver(image, pixels)
    assert [made[k] for k in range(want.n)] == expected


def test_a_step_is_known_to_have_begun_before_it_was_made(tiny: LatentDiffusion) -> None:
    """A device that has made its step when `step` returns is not waited for."""

    class Slow(Eager):
        def step(self, slots: Slots, rows: Rows, part: Part = WHOLE) -> None:
            time.sleep(0.05)
            super().step(slots, rows, part)

    runner = Runner("tiny", tiny, "", Slow(tiny), slots=4)
    draw(runner, drawn("tiny", 1, 1, 1.0, (0.0, 1.0), 0.0, 7, 1))
    assert runner.begun + 0.05 < time.perf_counter()
