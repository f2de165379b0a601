"""Pictures from every dialect and format, drawn again from what they say of themselves."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.main import cli
from app.cli.verification import claim_of, compare, folder_of, params_of
from app.engine.offline import draw
from app.engine.runner import Runner
from app.files.formats import open_image
from tests.e2e.live import web

INPUT = {"prompt": "a 7", "seed": 42, "num_inference_steps": 12, "guidance_scale": 1.7}
TXT2IMG = {"prompt": "a 7", "seed": 42, "steps": 12, "cfg_scale": 1.7}
PREDICTIONS = "/v1/models/x/digits/predictions"


def native(url: str, media_type: str) -> bytes:
    wanted = {"class": "7", "seed": 42, "steps": 12, "guidance_scale": 1.7}
    return web.post(f"{url}/generate", json=wanted, headers={"accept": media_type}).content


def openai(url: str, kind: str, **more: object) -> bytes:
    body = INPUT | {"output_format": kind} | more
    data = web.post(f"{url}/v1/images/generations", json=body).json()["data"][0]
    return web.get(data["url"]).content if "url" in data else base64.b64decode(data["b64_json"])


def huggingface(url: str, media_type: str) -> bytes:
    parameters = {name: value for name, value in INPUT.items() if name != "prompt"}
    body = {"inputs": "a 7", "parameters": parameters}
    return web.post(f"{url}/models/digits", json=body, headers={"accept": media_type}).content


def automatic1111(url: str) -> bytes:
    answer = web.post(f"{url}/sdapi/v1/txt2img", json=TXT2IMG).json()
    return base64.b64decode(answer["images"][0])


def replicate(url: str, kind: str) -> bytes:
    body = {"input": INPUT | {"output_format": kind}}
    answer = web.post(url + PREDICTIONS, json=body, headers={"prefer": "wait"})
    (uri,) = answer.json()["output"]
    return base64.b64decode(uri.partition(",")[2])


PICTURES: dict[str, Callable[[str], bytes]] = {
    "native png": lambda url: native(url, "image/png"),
    "native webp": lambda url: native(url, "image/webp"),
    "native jpeg": lambda url: native(url, "image/jpeg"),
    "openai png": lambda url: openai(url, "png"),
    "openai webp": lambda url: openai(url, "webp"),
    "openai jpeg": lambda url: openai(url, "jpeg", output_compression=60),
    "openai url": lambda url: openai(url, "png", response_format="url"),
    "huggingface png": lambda url: huggingface(url, "image/png"),
    "huggingface webp": lambda url: huggingface(url, "image/webp"),
    "automatic1111": automatic1111,
    "replicate png": lambda url: replicate(url, "png"),
    "replicate webp": lambda url: replicate(url, "webp"),
    "replicate jpg": lambda url: replicate(url, "jpg"),
}


@pytest.fixture(scope="module")
def runner(url: str) -> Runner:
    """As `darkroom verify` opens it, once for all."""
    from app.cli.opening import open_runner

    claim = claim_of(open_image(native(url, "image/png")))
    return open_runner(folder_of(claim, None), "auto")


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_it_says(url: str, runner: Runner, name: str) -> None:
    opened = open_image(PICTURES[name](url))
    verdict = compare(opened, draw(runner, params_of(claim_of(opened), runner.info))[0])
    assert verdict.same, f"{verdict}"
    assert verdict.total == 32 * 32


def test_a_lossy_webp_differs_and_says_why(url: str, runner: Runner) -> None:
    opened = open_image(openai(url, "webp", output_compression=20))
    verdict = compare(opened, draw(runner, params_of(claim_of(opened), runner.info))[0])
    assert not verdict.same
    assert str(verdict).endswith("; the file is lossy")


def test_the_command_says_so(url: str, tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(native(url, "image/png"))
    result = CliRunner().invoke(cli, ["verify", str(path)])
    assert result.output == f"{path}: same: all 1024 pixels\n"
    assert result.exit_code == 0
