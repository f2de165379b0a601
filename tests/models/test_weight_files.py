"""The weights of one component: text encoders as transformers saves them, and files that lie."""

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from models.files import CheckpointError
from models.tensor_file import MAX_HEADER_BYTES, MAX_WEIGHT_BYTES, Part, TensorFile, Wanted
from models.weight_files import read_weights, weight_files, weight_source
from models.weight_names import TEXT, is_variant, source
from tests.models.hostile import header
from tests.models.original import text, whole_clip

NAME = "model.safetensors"


def saved(folder: Path, *, projected: bool = False, **how: Any) -> dict[str, Tensor]:
    """A text encoder, as transformers saves it, and its weights."""
    torch.manual_seed(0)
    network = text(32, 2, projected=projected, vocab_size=99)
    network.save_pretrained(folder, **how)
    return whole_clip(network.state_dict())


def read(folder: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    return read_weights(folder, expected, "cpu", torch.float32, TEXT)


def check(folder: Path, expected: dict[str, Tensor]) -> None:
    made = read(folder, expected)
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in expected.items())


def halved(folder: Path) -> None:
    path = folder / NAME
    half = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(half, folder / "model.fp16.safetensors")
    path.unlink()


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"max_shard_size": "20KB"},
        {"variant": "fp16"},
        {"variant": "x", "max_shard_size": "20KB"},
    ],
    ids=str,
)
def test_what_transformers_saves_is_read(
    projected: bool, how: dict[str, Any], tmp_path: Path
) -> None:
    """CLIPTextModel's names have no `text_model.` there, those with projection have."""
    expected = saved(tmp_path, projected=projected, **how)
    assert is_variant(weight_source(tmp_path, TEXT).name) == ("variant" in how)
    assert (len(weight_files(tmp_path, TEXT)) > 1) == ("max_shard_size" in how)
    check(tmp_path, expected)


def test_a_file_of_halves_is_read_as_it_is_wanted(tmp_path: Path) -> None:
    expected = saved(tmp_path)
    halved(tmp_path)
    for name, tensor in read(tmp_path, expected).items():
        assert torch.equal(tensor, expected[name].half().float())


def test_the_plain_file_goes_before_others(tmp_path: Path) -> None:
    expected = saved(tmp_path)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(tmp_path / NAME).items()}
    save_file(zeros, tmp_path / "model.fp16.safetensors")
    (tmp_path / "pytorch_model.bin").touch()
    check(tmp_path, expected)


@pytest.mark.parametrize("outer", [True, False])
def test_names_as_published_and_what_is_not_needed(outer: bool, tmp_path: Path) -> None:
    """Old files have ids of positions; a projection is of no use to an encoder without."""
    expected = saved(tmp_path)
    before = "text_model." if outer else ""
    also = {
        f"{before}embeddings.position_ids": torch.arange(77)[None],
        "logit_scale": torch.tensor(4.6),
        "text_projection.weight": torch.ones(32, 32),
    }
    named = {name if outer else name.removeprefix("text_model."): t for name, t in expected.items()}
    save_file(named | also, tmp_path / NAME)
    check(tmp_path, expected)


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda t: t.popitem(), "missing tensor 'text_model."),
    "unknown": (lambda t: t.update(spare=torch.zeros(1)), "unknown tensor 'spare'"),
    "of pictures": (
        lambda t: t.update({"vision_model.a.weight": torch.zeros(1)}),
        "unknown tensor 'vision_model.a.weight'",
    ),
    "by both names": (
        lambda t: t.update({"text_model.final_layer_norm.bias": torch.zeros(32)}),
        "comes twice",
    ),
    "a shape": (
        lambda t: t.update({"final_layer_norm.bias": torch.zeros(31)}),
        "tensor 'final_layer_norm.bias' has shape [31]; [32] needed",
    ),
    "a matrix on its side": (
        lambda t: t.update({"embeddings.token_embedding.weight": torch.zeros(32, 99)}),
        "has shape [32, 99]; [99, 32] needed",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_another_text_encoder_is_refused(kind: str, tmp_path: Path) -> None:
    change, message = BROKEN[kind]
    expected = saved(tmp_path)
    tensors = load_file(tmp_path / NAME)
    change(tensors)
    save_file(tensors, tmp_path / NAME)
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, expected)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model.fp16.bin", "model.ckpt", "A.BIN"]
)
def test_a_pickle_is_refused_with_how_to_convert_it(name: str, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(CheckpointError) as caught:
        weight_source(tmp_path, TEXT)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / name}: a pickle file can run code when it is read")
    assert f"torch.load('{name}', weights_only=True)" in told
    assert "safetensors.torch.save_file" in told
    assert NAME in told
    assert told.isprintable()


NAMES = [
    {"model.safetensors", "model.safetensors.index.json", "model.fp16.safetensors"},
    {"model.safetensors.index.json", "model-00001-of-00002.safetensors", "model.bin"},
    {"model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors"},
    {"model.safetensors.index.fp16.json", "model.fp16-00001-of-00002.safetensors"},
    {"model.safetensors.fp16.index.json", "diffusion_pytorch_model.safetensors"},
    {"model.fp16.safetensors", "model.bf16.safetensors"},
    {"pytorch_model.bin"},
    {"\x1b[2J.bin"},
    {"diffusion_pytorch_model.safetensors"},
    set(),
]


@pytest.mark.parametrize("names", NAMES)
def test_a_repository_and_its_folder_are_read_by_one_rule(names: set[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    told = []
    for found in (
        lambda: weight_source(tmp_path, TEXT).name,
        lambda: source(TEXT, sorted(names), str(tmp_path)),
    ):
        try:
            told.append(found())
        except CheckpointError as error:
            told.append(f"refused: {error}")
    assert told[0] == told[1]
    assert told[0].isprintable()


def test_a_network_s_file_is_no_text_encoder_s(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        weight_source(tmp_path, TEXT)


def entry(start: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def twice(first: dict[str, Any], second: dict[str, Any]) -> bytes:
    return f'{{"a": {json.dumps(first)}, "a": {json.dumps(second)}}}'.encode()


HUGE = 2**64 - 1
LIES: dict[str, tuple[bytes, str]] = {
    **{
        f"a header of 2^{power}": ((2**power).to_bytes(8, "little") + b"{}", "a header of")
        for power in (23, 31, 32, 60, 63)
    },
    "a header of all there is": (b"\xff" * 8, f"allowed: up to {MAX_HEADER_BYTES:,}"),
    "less than a length": (b"\0\0\0", "not a whole"),
    "a header that goes past the end": ((100).to_bytes(8, "little") + b"{}", "not a whole"),
    "an overlap": (
        header({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
        "not a whole",
    ),
    "one within another": (
        header({"a": entry(0, 8, [2]), "b": entry(4, 8, [1])}, bytes(8)),
        "not a whole",
    ),
    "two in one place": (header({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, bytes(4)), "not a"),
    "a gap": (header({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)), "not a whole"),
    "a gap at the start": (header({"a": entry(4, 8, [1])}, bytes(8)), "not a whole"),
    "more than is said": (header({"a": entry(0, 4, [1])}, bytes(8)), "not a whole"),
    "less than is said": (header({"a": entry(0, 8, [2])}, bytes(4)), "not a whole"),
    "backwards": (header({"a": entry(4, 0, [1])}, bytes(4)), "not a whole"),
    "before the start": (header({"a": entry(-4, 0, [1])}, bytes(4)), "not a whole"),
    "past all numbers": (header({"a": entry(HUGE - 3, HUGE, [1])}, bytes(4)), "not a whole"),
    "numbers past all": (header({"a": entry(0, 2**70, [1])}, bytes(4)), "not a whole"),
    "a shape of other size": (header({"a": entry(0, 4, [2])}, bytes(4)), "not a whole"),
    "a shape that overflows": (header({"a": entry(0, 4, [2**33, 2**33])}, bytes(4)), "not a whole"),
    "a shape that overflows to fit": (
        header({"a": entry(0, 4, [2**62, 4, 2**62])}, bytes(4)),
        "not a whole",
    ),
    "a negative shape": (header({"a": entry(0, 4, [-1])}, bytes(4)), "not a whole"),
    "a shape of fractions": (header({"a": entry(0, 4, [1.0])}, bytes(4)), "not a whole"),
    "a shape of words": (header({"a": entry(0, 4, ["1"])}, bytes(4)), "not a whole"),
    "an unknown type": (header({"a": entry(0, 4, [1], "F33")}, bytes(4)), "not a whole"),
    "a name twice": (
        header(twice(entry(0, 4, [1]), entry(0, 4, [1])), bytes(4)),
        "'a' comes twice",
    ),
    "a name twice, in two places": (
        header(twice(entry(0, 4, [1]), entry(4, 8, [1])), bytes(8)),
        "not a whole",
    ),
    "metadata twice": (header(b'{"__metadata__": {}, "__metadata__": {}}'), "not a whole"),
    "metadata of numbers": (header({"__metadata__": {"a": 1}}), "not a whole"),
    "no object": (header([]), "not a whole"),
    "text that is none": (header(b'{"\xff": 1}'), "not a whole"),
    "a zip": (b"PK\x03\x04" + bytes(99), "by its first bytes a pickle file can run code"),
    "a pickle": (b"\x80\x02}q\x00." + bytes(99), "by its first bytes a pickle file can run code"),
    "a page": (b"<!DOCTYPE html><html>" + b" " * 999, "not a whole"),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_file_that_lies_is_refused(kind: str, tmp_path: Path) -> None:
    data, message = LIES[kind]
    path = tmp_path / NAME
    path.write_bytes(data)
    began = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        TensorFile.open(path)
    assert time.process_time() - began < 1
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert message in told
    assert told.isprintable()
    assert told.count(str(path)) == 1
    assert len(told.replace(str(path), "")) <= 400, told


def test_shapes_that_hold_nothing_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(header({"a": entry(0, 0, [0, 2**62]), "b": entry(0, 0, [2**62, 0])}))
    file = TensorFile.open(path)
    with pytest.raises(CheckpointError, match=r"has shape \[0, 46116.*; \[4\] needed"):
        read_weights(
            tmp_path, {"a": torch.zeros(4), "b": torch.zeros(4)}, "cpu", torch.float32, TEXT
        )
    assert file.entries["a"].size == 0


def test_a_file_larger_than_the_memory_is_opened_and_costs_none(tmp_path: Path) -> None:
    """A description says what it needs; to map it for PyTorch would need as much at once."""
    size = MAX_WEIGHT_BYTES // 4 * 4 - 4096
    path = tmp_path / NAME
    path.write_bytes(header({"a": entry(0, size, [size // 4])}))
    os.truncate(path, path.stat().st_size + size)  # of holes
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert TensorFile.open(path).entries["a"].size == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 64 << 10


def test_every_cut_and_every_changed_bit_is_refused_or_read_to_its_shape(tmp_path: Path) -> None:
    """Of the header; no flipped bit of data can be told, in a format without check sums."""
    torch.manual_seed(0)
    tensors = {name: torch.randn(3, 2) for name in ("a.weight", "a.bias", "b")}
    whole = save(tensors, {"format": "pt"})
    path, rng = tmp_path / NAME, random.Random(0)
    end = 8 + int.from_bytes(whole[:8], "little")
    for size in (0, 1, 7, 8, 9, end - 1, end, end + 1, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=NAME):
            read_weights(tmp_path, tensors, "cpu", torch.float32, TEXT)
    for _ in range(300):
        changed, at = bytearray(whole), rng.randrange(end)
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            made = read_weights(tmp_path, tensors, "cpu", torch.float32, TEXT)
            assert {n: t.shape for n, t in made.items()} == dict.fromkeys(tensors, (3, 2))


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    """Mapped, it would be a signal that ends the process."""
    path = tmp_path / NAME
    save_file({name: torch.ones(4096) for name in "ab"}, path)
    file = TensorFile.open(path)
    read = file.read([Wanted("a"), Wanted("b")])
    assert next(read).sum() == 4096
    with path.open("r+b") as cut:
        cut.truncate(file.entries["b"].start + 100)
    with pytest.raises(CheckpointError, match="ends within tensor 'b'"):
        next(read)


def test_a_file_that_is_overwritten_later_changes_nothing(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(4096)}
    save_file(tensors, tmp_path / NAME)
    made = read_weights(tmp_path, tensors, "cpu", torch.float32, TEXT)
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(-4096, 2)
        file.write(bytes(4096))
    assert torch.equal(made["a"], tensors["a"])


def test_a_part_is_read_alone(tmp_path: Path) -> None:
    fused = torch.arange(36.0).reshape(9, 4)
    save_file({"qkv": fused}, tmp_path / NAME)
    file = TensorFile.open(tmp_path / NAME)
    parts = list(file.read(Wanted("qkv", Part(i, 3)) for i in range(3)))
    assert all(map(torch.equal, parts, fused.chunk(3)))


PEAK = """
import resource, sys, torch
from pathlib import Path
from models.weight_files import read_weights
from models.weight_names import TEXT
expected = {f"{i:02}": torch.empty(4 << 20, device="meta") for i in range(16)}
folder, dtype = Path(sys.argv[1]), torch.float16
torch.zeros(1).half().float()  # what is imported at first use
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = read_weights(folder, expected, "cpu", dtype, TEXT)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)
"""


@pytest.mark.slow
def test_opening_takes_the_memory_of_the_weights_and_of_one_tensor(tmp_path: Path) -> None:
    """Halves of a file of 256 MiB: neither a copy of the whole nor its pages are held."""
    save_file({f"{i:02}": torch.ones(4 << 20) for i in range(16)}, tmp_path / NAME)
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 128 + 4 * 16


def test_the_shards_of_a_text_encoder_stay_in_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    expected = saved(folder, max_shard_size="20KB")
    first = next(folder.glob("*-00001-of-*"))
    shutil.move(first, tmp_path / first.name)
    first.symlink_to(tmp_path / first.name)
    with pytest.raises(
        CheckpointError, match=f"{first.name}: a link leads out of its model folder"
    ):
        read(folder, expected)
