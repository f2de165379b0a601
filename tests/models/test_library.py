"""How names and paths become models."""

import json
from pathlib import Path

import pytest

from models.checkpoint import CheckpointError
from models.library import WEIGHTS, Located, find, locate, split


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with runs, a hub's cache and odd names in it."""
    monkeypatch.chdir(tmp_path)
    for path in (
        "runs/shoes/model",
        "runs/lr=0.1/model",
        "model",
        "hub/models--owner--pets/snapshots/0a1b2c",
        "hub/models--gpt/snapshots/0a1b2c/inner",
        "hub/models--gpt/snapshots/0a1b2c",
        "a, b",
        "digits",
        "a",
        "[x]",
        "snapshots/x",
    ):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
    (tmp_path / "link").symlink_to("runs/shoes/model")
    (tmp_path / "blob").touch()
    for name in ("film_v1.5.safetensors", "a, b.safetensors", "old.ckpt", "old.CKPT", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "hub/models--gpt/snapshots/0a1b2c/dream.safetensors").symlink_to(tmp_path / "blob")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("runs/shoes/model", "shoes", "runs/shoes/model"),
        ("./runs/shoes/model/", "shoes", "runs/shoes/model"),
        ("runs/shoes", "shoes", "runs/shoes"),
        ("runs/shoes/../shoes/model", "shoes", "runs/shoes/model"),
        ("runs/lr=0.1/model", "lr=0.1", "runs/lr=0.1/model"),
        ("link", "link", "runs/shoes/model"),
        ("hub/models--owner--pets/snapshots/0a1b2c", "pets", None),
        ("hub/models--gpt/snapshots/0a1b2c", "gpt", None),
        ("hub/models--gpt/snapshots/0a1b2c/inner", "inner", None),
        ("snapshots/x", "x", None),
        ("a, b", "a, b", None),
        ("boots=runs/shoes/model", "boots", "runs/shoes/model"),
        ("x=runs/lr=0.1/model", "x", "runs/lr=0.1/model"),
        ("./digits", "digits", "digits"),
        ("my shoes=a, b", "my shoes", "a, b"),
        ("film_v1.5.safetensors", "film_v1.5", "film_v1.5.safetensors"),
        ("a/../a, b.safetensors", "a, b", "a, b.safetensors"),
        ("film=./film_v1.5.safetensors", "film", "film_v1.5.safetensors"),
    ],
)
def test_a_path_has_a_name(here: Path, text: str, name: str, path: str | None) -> None:
    assert locate(text) == Located(name, (here / (path or text)).resolve())
    assert find(text) == (here / (path or text)).resolve()


def test_a_file_in_a_cache_keeps_its_name(here: Path) -> None:
    """There it is a link to a file that is called by its hash."""
    path = "hub/models--gpt/snapshots/0a1b2c/dream.safetensors"
    assert locate(path) == Located("dream", here / path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("old.ckpt", r"'\S*old.ckpt': it is not a .safetensors file: a pickle file can run code"),
        ("old.ckpt", r"torch.load\('old.ckpt', .*\)\['state_dict'\], 'old.safetensors'\)$"),
        ("x=./old.CKPT", r"is never opened; .*\)\['state_dict'\], 'old.safetensors'\)$"),
        ("notes.txt", "it is not a .safetensors file$"),
    ],
)
def test_other_files_are_refused(here: Path, text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        locate(text)


def test_a_model_in_the_root_is_called_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a volume of a container may be mounted: /model."""
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    assert locate("/model") == Located("model", Path("/model"))


def test_what_ships_goes_before_what_lies_here(here: Path) -> None:
    assert locate("digits") == Located("digits", WEIGHTS / "digits")
    assert locate("mine=digits") == Located("mine", WEIGHTS / "digits")


@pytest.mark.parametrize("name", ["", " x", "x ", "a/b", "a\\b", "\n", "x" * 101])
def test_a_name_is_plain(here: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"a model is called .*; allowed: 1 to 100") as caught:
        locate(f"{name}=a")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("text", ["", "nothing", "x=nothing", "a,b", "a=", "=", "digits=digits2"])
def test_no_such_model(here: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"no model .*; shipped: .*digits.*or name=path"):
        locate(text)


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("digits, a,,runs/shoes/model ,", ["digits", "a", "runs/shoes/model"]),
        ("a, b", ["a, b"]),
        ("digits,a, b,a", ["digits", "a, b", "a"]),
        ("a, b.safetensors,b/c@v1,x=b/c", ["a, b.safetensors", "b/c@v1", "x=b/c"]),
        ("x=a, b", ["x=a, b"]),
        ("a,nothing", ["a", "nothing"]),
        ('["a", "a, b", "x=digits"]', ["a", "a, b", "x=digits"]),
        ("[x]", ["[x]"]),
        ("", []),
        (" , ", []),
    ],
)
def test_commas_part_models_and_not_paths(here: Path, text: str, models: list[str]) -> None:
    assert split(text) == tuple(models)
    assert split(json.dumps(models)) == tuple(models)


@pytest.mark.parametrize("text", ["[a]", '["a"', "[1]", '["a", null]', "[" * 10**5])
def test_a_list_is_json(here: Path, text: str) -> None:
    with pytest.raises(
        ValueError, match=r'is no JSON list of texts; allowed: \["digits", "a/path"\]'
    ):
        split(text)
