"""Models in folders: which names they have, which are whole, and what cannot be read."""

import json
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.shelf import Shelf

HEADER = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
WHOLE = struct.pack("<Q", len(HEADER)) + HEADER + b"\0\0\0\0"
WEIGHTS = "diffusion_pytorch_model"


def file(path: Path, content: bytes = WHOLE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def folder(path: Path) -> Path:
    """The outside of a model folder: an index and a component with weights."""
    index = {"_class_name": "X", "unet": ["diffusers", "U"], "safety_checker": [None, None]}
    file(path / "model_index.json", json.dumps(index).encode())
    file(path / "unet" / "config.json", b"{}")
    file(path / f"unet/{WEIGHTS}.safetensors")
    return path


def names(*folders: Path, taken: tuple[str, ...] = ()) -> list[str]:
    return list(Shelf(folders, taken).scan())


def test_files_and_folders_are_models_by_their_names(tmp_path: Path) -> None:
    file(tmp_path / "b.v1.safetensors")
    folder(tmp_path / "a")
    folder(tmp_path / "c.safetensors")
    for no_model in ("d.ckpt", "e.txt", "sub/f.safetensors", "g.SAFETENSORS"):
        file(tmp_path / no_model)
    (tmp_path / "h.safetensors").mkdir()
    found = Shelf([tmp_path]).scan()
    assert {name: each.place.name for name, each in found.items()} == {
        "a": "a",
        "c.safetensors": "c.safetensors",
        "b.v1": "b.v1.safetensors",
    }


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("with space", True),
        ("été", True),
        ("模型", True),
        ("a,b=c", True),
        ("100%?#&", True),
        ("x" * 100, True),
        ("x" * 101, False),
        (" leading", False),
        ("trailing ", False),
        ("\u3000", False),
        (".hidden", False),
        ("._of_a_mac", False),
        ("back\\slash", False),
        ("line\nbreak", False),
        ("bell\a", False),
        ("bidi\u202e", False),
        (os.fsdecode(b"latin\xe9"), False),
    ],
)
def test_names_are_printable_and_not_hidden(tmp_path: Path, name: str, served: bool) -> None:
    """As those that users give; they are written into messages, headers and addresses."""
    file(tmp_path / f"{name}.safetensors")
    folder(tmp_path / "in folders" / name)
    file(tmp_path / "plain.safetensors")
    assert names(tmp_path) == ["plain", *([name] if served else [])][:: -1 if name < "p" else 1]
    assert names(tmp_path / "in folders") == ([name] if served else [])


def test_of_several_with_a_name_the_first_is_served_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    file(first / "a.safetensors")
    folder(first / "a")
    file(second / "a.safetensors")
    file(second / "b.safetensors")
    file(second / "digits.safetensors")
    shelf = Shelf([first, second, first], ["digits"])
    for _ in range(3):
        found = shelf.scan()
    assert {name: each.place for name, each in found.items()} == {
        "a": first / "a",
        "b": second / "b.safetensors",
    }
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(" is not served: ")[2] for line in told] == [
        "another model is called a",
        "another model is called a",
        "another model is called digits",
    ]
    shutil.rmtree(first / "a")
    assert shelf.scan()["a"].place == first / "a.safetensors"


def test_what_is_still_being_copied_is_no_model_yet(tmp_path: Path) -> None:
    """However the copy goes on: byte by byte, part by part, the index first or last."""
    for size in range(len(WHOLE)):
        file(tmp_path / "file.safetensors", WHOLE[:size])
        assert names(tmp_path) == [], size
    file(tmp_path / "file.safetensors")
    assert names(tmp_path) == ["file"]
    made = folder(tmp_path / "elsewhere" / "made")
    parts = [path for path in sorted(made.rglob("*")) if path.is_file()]
    for order in (parts, parts[::-1]):
        shelf = Shelf([tmp_path / "copies"])
        shutil.rmtree(tmp_path / "copies", ignore_errors=True)
        (tmp_path / "copies" / "made" / "unet").mkdir(parents=True)
        for part in order:
            target = tmp_path / "copies" / "made" / part.relative_to(made)
            weights_there = (target.parent.parent / f"made/unet/{WEIGHTS}.safetensors").exists()
            assert not shelf.scan() or weights_there
            target.write_bytes(part.read_bytes()[:-1])
            if part.suffix == ".safetensors" or part.name == "model_index.json":
                assert not shelf.scan()
            target.write_bytes(part.read_bytes())
        assert list(shelf.scan()) == ["made"]


def test_a_folder_of_shards_is_whole_with_the_last_of_them(tmp_path: Path) -> None:
    made = folder(tmp_path / "made")
    (made / f"unet/{WEIGHTS}.safetensors").unlink()
    shards = [f"{WEIGHTS}-0000{k}-of-00002.safetensors" for k in (1, 2)]
    index = {"weight_map": dict(zip("xy", shards, strict=True))}
    file(made / f"unet/{WEIGHTS}.safetensors.index.json", json.dumps(index).encode())
    for shard in shards:
        assert names(tmp_path) == []
        file(made / "unet" / shard)
    assert names(tmp_path) == ["made"]


def test_links_are_followed_and_broken_ones_are_no_models(tmp_path: Path) -> None:
    """A folder of links to a store elsewhere is common; a cache makes them before their files."""
    here, store = tmp_path / "here", tmp_path / "store"
    here.mkdir()
    (here / "file.safetensors").symlink_to(file(store / "blob"))
    (here / "folder").symlink_to(folder(store / "folder"))
    (here / "broken.safetensors").symlink_to(store / "nothing")
    (here / "round.safetensors").symlink_to(here / "round.safetensors")
    (here / "nowhere").symlink_to(store / "no folder")
    for suffix in ("safetensors", "bin"):
        half = folder(here / f"half {suffix}")
        (half / f"unet/{WEIGHTS}.safetensors").unlink()
        (half / f"unet/{WEIGHTS}.{suffix}").symlink_to(store / "nothing")
    loop = folder(here / "loop")
    (loop / "unet" / "itself").symlink_to(loop)
    assert names(here) == ["folder", "loop", "file"]


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """Opening a pipe would wait for whoever writes into it."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    made = folder(tmp_path / "made")
    os.mkfifo(made / "unet" / "other.safetensors")
    assert names(tmp_path) == ["made"]


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"x",
        struct.pack("<Q", 3) + b"{]}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 6) + b'{"a":1',
        bytes(100),
        struct.pack("<Q", 40_000) + b"[" * 40_000,
    ],
    ids=["endless", "no JSON", "a list", "cut JSON", "zeros", "deep"],
)
def test_a_broken_file_is_listed_and_its_opening_says_why(tmp_path: Path, content: bytes) -> None:
    file(tmp_path / "broken.safetensors", content)
    assert names(tmp_path) == ["broken"]


def test_a_change_shows_in_the_stamp_and_only_then_is_anything_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, single = folder(tmp_path / "made"), file(tmp_path / "single.safetensors")
    shelf = Shelf([tmp_path])
    before = shelf.scan()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_, **__: pytest.fail("opened"))
        assert shelf.scan() == before
    file(single, WHOLE + b"more")
    after = shelf.scan()
    assert after["single"] != before["single"]
    assert after["made"] == before["made"]
    os.utime(made / "unet" / "config.json", (1, 1))
    assert shelf.scan()["made"] != after["made"]


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of ours, for a user who may not read everything; root may."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    was = os.geteuid()
    yield place
    os.seteuid(was)
    for path in place.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(place)


def test_what_may_not_be_read_hides_nothing_else(
    nobody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, closed = nobody / "good", nobody / "closed"
    for name in ("a", "b", "c"):
        file(good / f"{name}.safetensors")
    folder(good / "model")
    folder(good / "model2")
    file(closed / "x.safetensors")
    (good / "lost+found").mkdir()
    for path in (closed, good / "lost+found", good / "b.safetensors", good / "model" / "unet"):
        path.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65_534)
    shelf = Shelf([closed, good])
    for _ in range(2):
        assert list(shelf.scan()) == ["model2", "a", "c"]
    told = [record.getMessage() for record in caplog.records]
    assert [Path(line.partition(" is not served: ")[0].strip("'")).name for line in told] == [
        "closed",
        "model",
        "b.safetensors",
    ]
    assert all("Permission denied" in line for line in told)


def test_a_folder_that_goes_takes_its_models_along_and_brings_them_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = tmp_path / "there"
    file(there / "a.safetensors")
    shelf = Shelf([there])
    assert list(shelf.scan()) == ["a"]
    there.rename(tmp_path / "away")
    assert shelf.scan() == shelf.scan() == {}
    (tmp_path / "away").rename(there)
    assert list(shelf.scan()) == ["a"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
