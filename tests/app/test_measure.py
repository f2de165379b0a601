"""Which shapes are used: those that make the bits of the largest that can be relied on."""

import pytest
import torch
from torch import Tensor

from app.engine.backends.eager import Eager
from app.engine.backends.measure import agreeing, probed
from app.engine.errors import OutOfMemory
from app.engine.job import SamplingParams
from app.engine.offline import draw
from app.engine.runner import Runner
from models.pipeline import LatentDiffusion, to_uint8
from tests.app.test_runner import Strange
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
    latents = stepping.denoise(
        [want.condition.index] * want.n,
        [want.seed_of(k) for k in range(want.n)],
        steps=want.steps,
        guidance_scale=want.guidance_scale,
        guidance_interval=want.guidance_interval,
        eta=want.eta,
    )
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
    assert runner._sketch is not None
    assert len(draw(runner, params(3))) == 3


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
