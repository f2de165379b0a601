"""The benchmark's device that takes no time draws like any other, through the engine's own loop."""

import asyncio
from dataclasses import replace

import msgspec

from app.engine.client import EngineClient
from app.engine.job import Request
from app.engine.results import Preview, Result
from app.generation import Studio
from benchmarks.free_worker import FreeRunner
from tests.engine import LIMITS, asynchronous
from tests.fakes import LOAD, ThreadWorker, params


@asynchronous
async def test_every_image_and_preview_comes() -> None:
    runner = FreeRunner()
    load = msgspec.structs.replace(LOAD, models={"free": ""})
    client = EngineClient(load, LIMITS, lambda load: ThreadWorker(load, lambda _: [runner]))
    await client.start()
    try:
        await client.loaded()
        studio = Studio(client, marked=True)

        async def told(seed: int) -> list[object]:
            want = params(seed, steps=9, n=3, model="free", scale=3.0)
            request = Request(replace(want, width=32, height=32), previews=2)
            return [update async for news in studio.generation(request).follow() for update in news]

        drawn = await asyncio.gather(*(told(10 * k) for k in range(8)))
    finally:
        await client.close()
    for k, updates in enumerate(drawn):
        result = updates[-1]
        assert isinstance(result, Result)
        assert result.images == tuple(runner._pictures[(10 * k + i) % 64] for i in range(3))
        assert sum(isinstance(update, Preview) for update in updates) == 6
    sizes = {(p.width, p.height, len(p.data)) for p in runner._pictures}
    assert sizes == {(32, 32, 1024)}
    assert len({p.data for p in runner._pictures}) == 64
