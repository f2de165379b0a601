"""Which shapes are used: those that make the bits of the largest that can be relied on."""

from collections import Counter
from collections.abc import Collection

import pytest
import torch
from torch import Tensor

from app.engine.backends.base import WHOLE, Decoding, Part, Rows, Slots, useful
from app.engine.backends.eager import Eager
from app.engine.backends.probing import agreeing, probed
from app.engine.errors import OutOfMemory
from app.engine.job import SamplingParams
from app.engine.offline import draw
from app.engine.runner import Runner
from models.pipeline import LatentDiffusion, to_uint8
from tests.app.test_runner import Strange, labels_and_seeds, options
from tests.fakes import drawn


def made(value: float, *others: float, rows: int = 16) -> list[Tensor]:
    """The same rows in several orders, by their first value."""
    return [torch.arange(rows) + torch.tensor(v) for v in (value, *others)]


@pytest.mark.parametrize(
    ("probes", "sizes", "exact"),
    [
        ({512: made(1, 1), 16: made(2, 2), 8: made(2, 2), 4: made(1, 1)}, (4, 512), True),
        ({512: made(1, 3), 256: made(2, 2), 16: made(2, 2), 4: made(1, 1)}, (16, 256), True),
        ({512: made(1, 1, rows=512), 16: made(1, 1)}, (16, 512), True),
        ({512: made(1, 2), 24: made(1, 2), 4: made(2, 1)}, (24,), False),
        ({4: made(1, 2), 1: made(2, 1)}, (4,), False),
        ({24: made(1, 2), 2: made(1, 2), 1: made(1, 1)}, (24,), False),
        ({1: made(1, 1)}, (1,), True),
        ({4: made(1, 1, rows=4)}, (4,), True),
    ],
)
def test_the_class_of_the_largest_that_is_steady(
    probes: dict[int, list[Tensor]], sizes: tuple[int, ...], exact: bool
) -> None:
    assert agreeing(probes) == (sizes, exact)


@pytest.mark.parametrize(
    ("probes", "sizes", "exact"),
    [
        ({4: made(1, 1), 2: made(2, 2), 1: made(2, 2), 8: made(2, 2)}, (1, 2, 8), True),
        ({4: made(2, 2), 2: made(2, 3), 1: made(2, 2), 8: made(1, 1)}, (1, 4), True),
        ({1: made(1, 1), 2: made(2, 2)}, (2,), True),
        ({1: made(1, 1)}, (1,), True),
        ({2: made(1, 3), 4: made(1, 2)}, (4,), False),
    ],
)
def test_where_rows_are_dear_the_class_of_the_smallest_that_is_steady(
    probes: dict[int, list[Tensor]], sizes: tuple[int, ...], exact: bool
) -> None:
    assert agreeing(probes, largest=False) == (sizes, exact)


def test_sizes_without_memory_are_left_out_largest_first() -> None:
    tried = []

    def probe(size: int, shift: int) -> Tensor:
        tried.append(size)
        if size > 4 or (size, shift) == (1, 1):
            raise torch.OutOfMemoryError
        return torch.zeros(1)

    assert set(probed((1, 2, 4, 8, 16), probe, 2)) == {2, 4}
    assert tried == [16, 8, 4, 2, 1, 4, 2, 1]


def test_no_memory_for_any_size_is_told() -> None:
    def probe(size: int, shift: int) -> Tensor:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")

    with pytest.raises(OutOfMemory):
        probed((1, 2), probe, 1)


def params(n: int) -> SamplingParams:
    return drawn("tiny", 1, 5, 2.5, (0.0, 1.0), 0.4, 7, n)


def plain(runner: Runner, model: LatentDiffusion, want: SamplingParams) -> list[bytes]:
    """The plain loop on the CPU, in the blocks that the runner says it is like."""
    stepping, decoding = (LatentDiffusion.__new__(LatentDiffusion) for _ in range(2))
    stepping.__dict__ |= model.__dict__ | {"_block_rows": runner.info.blocks[0]}
    decoding.__dict__ |= model.__dict__ | {"_block_rows": runner.info.blocks[1]}
    latents = stepping.denoise(*labels_and_seeds(want), **options(want))
    return [image.numpy().tobytes() for image in to_uint8(decoding.decode(latents))]


class Narrow(Eager):
    """Without a bucket of sixteen rows, as a device may be."""

    buckets = (1, 2, 4)
    decode_buckets = (1, 3)


def test_a_backend_without_sixteen_rows_works_and_says_which_it_is_like(
    tiny: LatentDiffusion,
) -> None:
    runner = Runner("tiny", tiny, "", Narrow(tiny), slots=1)
    runner.warm_up()
    assert runner.info.blocks[0] == runner.info.costs.buckets[-1].rows == 4
    assert runner.info.blocks[1] in (1, 3)
    assert runner._previews.map is not None
    assert len(draw(runner, params(3))) == 3


def test_buckets_are_timed_again_until_none_is_faster(tiny: LatentDiffusion) -> None:
    class Counting(Eager):
        buckets = (2,)
        steps = 0

        def step(self, slots: Slots, rows: Rows, part: Part = WHOLE) -> None:
            self.steps += 1
            super().step(slots, rows, part)

    def steps(slowing: float) -> int:
        """Of a start whose clock advances by less and less, or always by the same."""
        now, pause = 0.0, 1e-3

        def clock() -> float:
            nonlocal now, pause
            pause *= slowing
            now += pause
            return now

        backend = Counting(tiny)
        Runner("tiny", tiny, "", backend, slots=1).warm_up(clock)
        return backend.steps

    assert steps(0.99) - steps(1.0) == 20 - 3


def test_the_plain_loop_in_blocks_of_what_is_told_has_the_same_pixels(
    tiny: LatentDiffusion,
) -> None:
    class Few(Eager):
        buckets = (1, 2, 8)
        decode_buckets = (1, 8)

    runner = Runner("tiny", tiny, "", Few(tiny), slots=8)
    runner.warm_up()
    assert runner.info.blocks[0] == 8
    assert [pixels.data for pixels in draw(runner, params(5))] == plain(runner, tiny, params(5))


@pytest.mark.slow
def test_entity_tags_depend_on_the_bits_and_on_nothing_else(tiny: LatentDiffusion) -> None:
    """`platform` goes into them: another class of sizes is another one, fewer sizes are not."""
    usual, other, fewer = (
        Runner("tiny", tiny, "", backend, slots=4)
        for backend in (
            Strange(tiny, set()),
            Strange(tiny, {64}),
            Strange(tiny, {64}, by_position=True),
        )
    )
    for runner in (usual, other, fewer):
        runner.warm_up()
    assert (usual.info.blocks[0], other.info.blocks[0], fewer.info.blocks[0]) == (64, 64, 32)
    assert usual.info.platform != other.info.platform
    assert usual.info.platform == fewer.info.platform


@pytest.mark.parametrize(("asked", "told"), [(None, 64), (3, 3)])
def test_slots_are_the_settings_or_the_device_s(
    asked: int | None, told: int, tiny: LatentDiffusion
) -> None:
    runner = Runner("tiny", tiny, "", Narrow(tiny), slots=asked)
    runner.warm_up()
    assert runner.info.slots == told


# Time is the backend's own: what it does, takes as long as it says.


class Dear(Eager):
    """Rows and images take simulated seconds; more than `memory` rows run out of it."""

    def __init__(
        self,
        model: LatentDiffusion,
        row: float,
        image: float,
        *,
        tick: float = 0.0,
        memory: int = 10**6,
        odd: Collection[int] = (),
    ) -> None:
        super().__init__(model)
        self._row, self._image, self._tick, self._memory = row, image, tick, memory
        self._odd = odd  # sizes that round otherwise
        self.now = 0.0
        self.stepped: Counter[int] = Counter()  # ticks by size

    def clock(self) -> float:
        return self.now

    def step(self, slots: Slots, rows: Rows, part: Part = WHOLE) -> None:
        size = len(rows.read)
        if size > self._memory:
            raise torch.OutOfMemoryError
        self.now += self._tick + self._row * size
        self.stepped[size] += 1
        super().step(slots, rows, part)
        if size in self._odd:
            slots.x[rows.write] = torch.nextafter(slots.x[rows.write], torch.tensor(torch.inf))

    def decode(self, latents: Tensor, part: int = 0) -> Decoding:
        self.now += self._image * len(latents)
        return super().decode(latents, part)


def warmed(backend: Dear, model: LatentDiffusion) -> Runner:
    runner = Runner("tiny", model, "", backend, slots=64)
    runner.warm_up(backend.clock)
    return runner


@pytest.mark.parametrize("image", [0.1, 1.0, 2.0])
def test_a_second_per_row_is_ready_within_a_minute(image: float, tiny: LatentDiffusion) -> None:
    backend = Dear(tiny, 1.0, image)
    runner = warmed(backend, tiny)
    assert backend.now < 60
    used = [bucket.rows for bucket in runner.info.costs.buckets]
    assert runner.info.exact
    assert max(used) < 16
    assert all(bucket.seconds == bucket.rows for bucket in runner.info.costs.buckets)
    assert runner._previews.map is not None
    assert [pixels.data for pixels in draw(runner, params(3))] == plain(runner, tiny, params(3))


def test_cheap_rows_are_all_compared_in_five_orders(tiny: LatentDiffusion) -> None:
    """As the shipped model's: 840 rows and more."""
    backend = Dear(tiny, 0.0003, 0.001, tick=0.002)
    warmed(backend, tiny)
    for size in backend.buckets:
        assert backend.stepped[size] >= 5 * max(16 // size, 1)


@pytest.mark.parametrize("row", [0.02, 0.05, 0.2, 1.0, 3.0, 20.0])
def test_what_was_not_compared_is_not_used(row: float, tiny: LatentDiffusion) -> None:
    """Twice in any case: a size that makes other bits would be taken for the same otherwise."""
    backend = Dear(tiny, row, row, odd={4, 16})
    runner = warmed(backend, tiny)
    used = {bucket.rows for bucket in runner.info.costs.buckets}
    assert not used & {4, 16}
    for size in used:
        assert backend.stepped[size] >= 2
    assert runner.info.exact


def test_the_bits_do_not_depend_on_how_far_the_time_reaches(tiny: LatentDiffusion) -> None:
    """Where rows are dear, a slower start leaves buckets out, and keeps to the same class."""
    told = set()
    for row in (0.08, 0.3, 1.0, 4.0):
        runner = warmed(Dear(tiny, row, 0.1, odd={8, 16, 32, 64}), tiny)
        assert max(bucket.rows for bucket in runner.info.costs.buckets) < 8
        told.add(runner.info.platform)
    assert len(told) == 1


def test_memory_that_ends_while_dear_rows_are_tried_shrinks_the_buckets(
    tiny: LatentDiffusion,
) -> None:
    runner = warmed(Dear(tiny, 0.3, 0.1, memory=3), tiny)
    assert max(bucket.rows for bucket in runner.info.costs.buckets) == 2
    with pytest.raises(ValueError, match="out of memory even for the smallest tick"):
        warmed(Dear(tiny, 0.3, 0.1, memory=0), tiny)


def test_rows_with_large_maps_have_no_large_buckets(tiny: LatentDiffusion) -> None:
    """By an estimate, so at every start the same."""
    assert useful((1, 2, 4, 8), 100, 400) == (1, 2, 4)
    assert useful((4, 8), 10**9, 400) == (4,)
    assert Eager(tiny).buckets[-1] == 64
    assert Eager(tiny).at((2, 2048, 2048)).buckets[-1] < 8
