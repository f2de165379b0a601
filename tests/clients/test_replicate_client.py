"""Replicate's Python client."""

import asyncio
import base64
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.files.formats import open_image
from tests.clients.conftest import assert_same

FAST = {"seed": 42, "num_inference_steps": 20}


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    client = pytest.importorskip("replicate").Client(api_token="x", base_url=url)
    yield client
    client._client.close()  # nobody else would


def test_run(url: str, client: Any) -> None:
    (file,) = client.run("local/digits", input={"prompt": "7", **FAST})
    assert_same(file.read(), url, **{"class": "7"}, seed=42, steps=20)


def test_run_several(url: str, client: Any) -> None:
    wanted = {"prompt": "a 3", "num_outputs": 2, "output_format": "webp", **FAST}
    files = client.run("local/digits", input=wanted, wait=5)
    assert len(files) == 2
    for k, file in enumerate(files):
        assert open_image(file.read()).image.format == "WEBP"
        assert_same(file.read(), url, **{"class": "3"}, seed=42 + k, steps=20)


def test_run_without_waiting(url: str, client: Any) -> None:
    """It is polled."""
    (file,) = client.run("local/digits", input={"prompt": "7", **FAST}, wait=False)
    assert_same(file.read(), url, **{"class": "7"}, seed=42, steps=20)


def test_run_asynchronously(url: str, client: Any) -> None:
    async def run() -> bytes:
        (file,) = await client.async_run("local/digits", input={"prompt": "7", **FAST})
        content: bytes = await file.aread()
        await client._async_client.aclose()
        return content

    assert_same(asyncio.run(run()), url, **{"class": "7"}, seed=42, steps=20)


def test_create(client: Any) -> None:
    wanted = {"prompt": "7", **FAST}
    prediction = client.models.predictions.create(model="local/digits", input=wanted, wait=True)
    assert (prediction.status, prediction.error) == ("succeeded", None)
    assert (prediction.model, prediction.input) == ("local/digits", wanted)
    assert prediction.created_at <= prediction.started_at < prediction.completed_at
    assert 0 < prediction.metrics["predict_time"] < 60
    prediction.wait()
    assert prediction.output[0].startswith("data:image/png;base64,")


def test_create_and_poll(url: str, client: Any) -> None:
    client.poll_interval = 0.05
    wanted = {"prompt": "7", **FAST}
    prediction = client.predictions.create(model="local/digits", input=wanted)
    assert (prediction.status, prediction.output) == ("starting", None)
    prediction.wait()
    assert prediction.status == "succeeded"
    content = base64.b64decode(prediction.output[0].partition(",")[2])
    assert_same(content, url, **{"class": "7"}, seed=42, steps=20)
    assert client.predictions.get(prediction.id).output == prediction.output


def test_progress_and_cancel(client: Any) -> None:
    wanted = {"prompt": "7", "num_inference_steps": 1000, "num_outputs": 8}
    prediction = client.predictions.create(model="local/digits", input=wanted)
    while prediction.progress is None:
        assert prediction.status in ("starting", "processing")
        time.sleep(0.02)
        prediction.reload()
    assert prediction.status == "processing"
    assert 0 <= prediction.progress.current < prediction.progress.total == 8000
    prediction.cancel()
    assert (prediction.status, prediction.output) == ("canceled", None)
    prediction.wait()


def test_list(client: Any) -> None:
    wanted = {"prompt": "7", "seed": 1, "num_inference_steps": 1}
    made = [client.predictions.create(model="local/digits", input=wanted) for _ in range(101)]
    ids = [prediction.id for prediction in reversed(made)]
    first = client.predictions.list()
    assert [prediction.id for prediction in first] == ids[:100]
    second = client.predictions.list(cursor=first.next)
    assert second[0].id == ids[100]
    back = client.predictions.list(cursor=second.previous)
    assert [prediction.id for prediction in back] == ids[:100]
    made[-1].wait()
    (listed,) = [each for each in client.predictions.list() if each.id == ids[0]]
    assert listed.output[0].endswith(f"/jobs/{ids[0]}/images/0")


def test_run_a_version(url: str, client: Any) -> None:
    model = client.models.get("local/digits")
    (version,) = model.versions.list()
    assert model.latest_version.id == version.id == model.versions.get(version.id).id
    wanted = {"prompt": "7", **FAST}
    for reference in (f"local/digits:{version.id}", version, model):
        (file,) = client.run(reference, input=wanted)
        assert_same(file.read(), url, **{"class": "7"}, seed=42, steps=20)
    prediction = client.predictions.create(version=version, input=wanted, wait=30)
    assert (prediction.status, prediction.version) == ("succeeded", version.id)


def test_run_a_version_asynchronously(url: str, client: Any) -> None:
    async def run() -> bytes:
        model = await client.models.async_get("local/digits")
        reference = f"local/digits:{model.latest_version.id}"
        (file,) = await client.async_run(reference, input={"prompt": "7", **FAST})
        content: bytes = await file.aread()
        await client._async_client.aclose()
        return content

    assert_same(asyncio.run(run()), url, **{"class": "7"}, seed=42, steps=20)


def test_errors(client: Any) -> None:
    error = pytest.importorskip("replicate").exceptions.ReplicateError
    with pytest.raises(error) as refused:
        client.run("local/digits", input={"prompt": "a cat"})
    assert (refused.value.status, refused.value.title) == (422, "Invalid request")
    assert refused.value.detail.startswith("prompt: names none of the classes")
    with pytest.raises(error) as missing:
        client.run("local/shoes", input={"prompt": "7"})
    assert missing.value.status == 404
    assert missing.value.detail == "unknown model 'shoes'; loaded: digits"
