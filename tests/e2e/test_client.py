"""The Python client against the real server."""

import asyncio
import itertools
from contextlib import aclosing, closing

import pytest

from app.client import AsyncClient, Client, ServerError
from app.files.formats import open_image
from app.schemas.responses import CompletedEvent, PreviewEvent, ProgressEvent, QueuedEvent
from tests.e2e.live import engine, wait_until


def test_pictures_and_responses_are_the_same(url: str) -> None:
    with Client(url) as client:
        (model,) = client.models()
        assert (model.name, model.default) == ("digits", True)
        picture = client.picture(class_="7", steps=10, seed=5)
        response = client.generate(class_="7", steps=10, seed=5, n=2)
        assert response.images[0].content == picture
        assert client.generate(class_=7, steps=10).seed >= 0
        webp = client.picture("image/webp", class_="7", steps=10, seed=5)
        assert open_image(webp).lossless

    async def asynchronous() -> None:
        async with AsyncClient(url) as client:
            assert [model.name for model in await client.models()] == ["digits"]
            assert await client.picture(class_="7", steps=10, seed=5) == picture
            assert await client.generate(class_="7", steps=10, seed=5, n=2) == response

    asyncio.run(asynchronous())


def test_a_request_is_followed_to_its_end(url: str) -> None:
    with Client(url) as client:
        told = list(client.follow(class_="7", steps=100, seed=5, previews=3))
        whole = client.generate(class_="7", steps=100, seed=5)
    assert isinstance(told[0], QueuedEvent)
    assert sum(isinstance(event, PreviewEvent) for event in told) == 3
    assert all(isinstance(event, ProgressEvent | PreviewEvent) for event in told[1:-1])
    assert isinstance(told[-1], CompletedEvent)
    assert told[-1].images == whole.images
    shown = next(event for event in told if isinstance(event, PreviewEvent))
    assert open_image(shown.content).image.size == (32, 32)


def test_many_are_followed_at_once_each_with_one_end_and_steps_in_order(url: str) -> None:
    async def follow(client: AsyncClient, seed: int) -> CompletedEvent:
        steps, ends = [], []
        async with aclosing(client.follow(class_="3", steps=60, seed=seed)) as events:
            async for event in events:
                if isinstance(event, ProgressEvent | PreviewEvent):
                    steps.append(event.step)
                elif isinstance(event, CompletedEvent):
                    ends.append(event)
        assert steps == sorted(steps)
        (end,) = ends
        assert end.seed == seed
        return end

    async def all_at_once() -> list[CompletedEvent]:
        async with AsyncClient(url) as client:
            return await asyncio.gather(*(follow(client, seed) for seed in range(16)))

    pictures = {end.images[0].content for end in asyncio.run(all_at_once())}
    assert len(pictures) == 16


def test_errors_say_what_the_server_said(url: str) -> None:
    with Client(url) as client:
        with pytest.raises(ServerError, match="422 Invalid request: steps: must be") as caught:
            client.picture(steps=0)
        assert caught.value.problem.errors[0].pointer == "#/steps"
        with pytest.raises(ServerError, match="404 Unknown model"):
            list(client.follow(model="nothing"))

    async def asynchronous() -> None:
        async with AsyncClient(url) as client:
            with pytest.raises(ServerError, match="unknown class 'eleven'"):
                await anext(client.follow(class_="eleven"))

    asyncio.run(asynchronous())


def test_leaving_a_stream_ends_the_request(url: str) -> None:
    before = engine(url)["cancelled"]
    with Client(url) as client:
        with closing(client.follow(class_="7", steps=1000, n=16, timeout=600)) as events:
            for _ in itertools.takewhile(lambda e: not isinstance(e, ProgressEvent), events):
                pass
            assert engine(url)["running"] == 16
        wait_until(lambda: engine(url)["running"] == 0)
    assert engine(url)["cancelled"] == before + 1
    assert engine(url)["cancel_ticks"] <= 1
