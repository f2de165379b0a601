"""`darkroom sample` and `darkroom verify` with a model that takes prompts, without a network."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image, PngImagePlugin

from app.cli.main import cli
from app.files.formats import open_image
from models.library import Located
from tests.fakes import INFO, TEXT, FakeRunner

DRAW = ["sample", "--steps", "2", "--seed", "1", "--out"]


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[FakeRunner]:
    """Whatever is asked for is the fake model that takes prompts; what was opened of it."""
    runners: list[FakeRunner] = []

    def open_runner(*_: object) -> FakeRunner:
        runners.append(FakeRunner(TEXT))
        return runners[-1]

    for command in ("sample", "verify"):
        monkeypatch.setattr(f"app.cli.{command}.open_runner", open_runner)
    for module in ("sample", "verification"):
        monkeypatch.setattr(f"app.cli.{module}.locate", lambda name: Located(name, tmp_path))
    return runners


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.mark.parametrize(
    ("prompt", "negative", "skip"),
    [
        ("a cat", "", "0"),
        ("a cat\nNegative prompt: dog", "blurry\nNegative prompt: ", "2"),
        ("猫 \N{CAT FACE}", "", "1"),
        ("", "only this", "0"),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_what_is_drawn_from_a_prompt_is_verified(
    prompt: str, negative: str, skip: str, suffix: str, tmp_path: Path, opened: list[FakeRunner]
) -> None:
    path = tmp_path / f"x.{suffix}"
    drawn = run(
        *(*DRAW, str(path), "--prompt", prompt, "--negative-prompt", negative),
        *("--clip-skip", skip, "--width", "16"),
    )
    assert drawn.exit_code == 0, drawn.output
    assert open_image(path.read_bytes()).image.size == (16, 8)
    told = run("verify", str(path), "--model", "text")
    assert (told.exit_code, "same: all 128 pixels" in told.output) == (0, True), told.output
    assert [runner.started for runner in opened] == [[], []], "a runner of this size draws"
    assert [runner.sizes[16, 8].started for runner in opened] == [[1], [1]]


def test_another_prompt_is_another_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    run(*DRAW, str(path), "--prompt", "a cat")
    with Image.open(path) as image:
        notes = PngImagePlugin.PngInfo()
        notes.add_text("parameters", image.info["parameters"].replace("cat", "dog"))
        image.save(path, pnginfo=notes)
    told = run("verify", str(path), "--model", "text")
    assert told.exit_code == 1
    assert "differs by 64 of 64 pixels" in told.output


@pytest.mark.parametrize("skip", ["4", "99", "x", "9" * 500, "\x1b[2J"])
def test_a_clip_skip_that_the_model_does_not_have_is_told(skip: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    run(*DRAW, str(path), "--prompt", "a cat", "--clip-skip", "1")
    with Image.open(path) as image:
        text = image.info["parameters"].replace("Clip skip: 2", f"Clip skip: {skip}")
        notes = PngImagePlugin.PngInfo()
        notes.add_text("parameters", text)
        image.save(path, pnginfo=notes)
    told = run("verify", str(path), "--model", "text")
    assert told.exit_code == 2
    assert "clip_skip: " in told.output
    assert told.output.strip().isprintable()


def test_a_prompt_that_was_cut_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    result = run(*DRAW, str(path), "--prompt", "one two three four five six seven")
    assert "prompt: cut after 6 tokens; 1 more did not fit" in result.stderr
    assert result.stdout.strip() == str(path)


def test_files_are_named_by_a_short_part_of_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for prompt in ("a cat, on/../a mat", "猫" * 300, "x" * 300):
        result = run(*DRAW[:-1], "--prompt", prompt)
        assert result.exit_code == 0, result.output
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == ["text-1.png", "text-a-cat-on-..-a-mat-1.png", f"text-{'x' * 80}-1.png"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--class", "7"], "text takes 'prompt' instead of a class"),
        (["--prompt", "x" * 4097], "prompt: must be a string of at most 4096 characters"),
        (["--prompt", "a\udcff"], "prompt: must be a string of at most 4096 characters"),
        (["--prompt", "a", "--clip-skip", "3"], "clip_skip: at most 2 of the layers"),
    ],
)
def test_what_the_model_does_not_take_is_told(
    arguments: list[str], told: str, tmp_path: Path
) -> None:
    result = run(*DRAW, str(tmp_path / "x.png"), *arguments)
    assert result.exit_code != 0
    assert told in result.output
    assert result.output.count("\n") == 1


def test_a_model_that_takes_classes_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.sample.open_runner", lambda *_: FakeRunner(INFO))
    result = run(*DRAW, str(tmp_path / "x.png"), "--prompt", "a cat")
    assert "prompt: fake takes 'class' instead of a prompt; class: a, b" in result.output
