"""A folder that is a bomb is refused in one line, by file and key, at once and in little memory."""

import json
import math
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save, save_file

from app.cli.main import cli
from app.engine.job import MAX_GUIDANCE_SCALE as MOST_ASKED_FOR
from models.bounds import Length, Range
from models.checkpoint import CheckpointError, open_checkpoint
from models.conditioning import MAX_GUIDANCE_SCALE
from models.config import (
    AutoencoderKLConfig,
    Config,
    DDIMConfig,
    UNet2DConditionConfig,
    UNet2DConfig,
)
from models.digests import checkpoint_digest, weights_digest
from tests.models.hostile import (
    INDEX,
    SCHEDULE,
    SHARDS,
    SPECIAL,
    UNET,
    VAE,
    WEIGHTS,
    Damage,
    changed,
    contents,
    header,
    raw,
    sharded,
    special,
)

CONFIGS: dict[str, type[Config]] = {
    VAE: AutoencoderKLConfig,
    UNET: UNet2DConfig,
    SCHEDULE: DDIMConfig,
}
LONG = 300  # characters of a message, its folder aside
SECONDS, MEBIBYTES = 5, 256  # of this process alone; a bomb takes minutes and gibibytes


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def _due() -> Iterator[None]:
    """Nothing here may wait for a pipe, or go on for ever."""

    def late(*_: Any) -> None:
        raise KeyboardInterrupt("the folder was not refused in time")  # nothing catches it

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refusal(folder: Path) -> str:
    """What opening says, without the folder's own path; in bounded time and memory."""
    began, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert time.process_time() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < MEBIBYTES << 10
    message = str(caught.value)
    assert str(folder) in message
    assert message.isprintable(), "one line"
    short = message.replace(str(folder), "")
    assert len(short) <= LONG, short
    return short


BOMBS: dict[str, list[tuple[str, Any]]] = {
    SCHEDULE: [
        *[("num_train_timesteps", 10**power) for power in (5, 6, 7, 9, 30, 90)],
        *[("num_train_timesteps", value) for value in (0, -1, 1e3, True, "1000", [1000], None)],
        ("num_train_timesteps", {"a": ["b" * 10**6] * 3}),
        ("num_train_timesteps", "9" * 10**6),
        ("trained_betas", [0.5] * 100_000),
        ("trained_betas", [0.5] * 999 + [math.nan]),
        ("trained_betas", [[[0.5]]]),
        ("beta_start", math.nan),
        ("beta_end", math.inf),
        ("beta_end", 1),
        ("beta_start", 0.5),
        ("steps_offset", -1),
        ("steps_offset", 10**30),
        ("clip_sample_range", 0),
        ("clip_sample_range", -1.0),
        ("clip_sample_range", 1e308),
        ("beta_schedule", "x" * 10**6),
        ("num_train_timesteps", 1),  # no first and last to scale between
    ],
    UNET: [
        ("layers_per_block", 10**6),
        ("layers_per_block", 17),
        ("layers_per_block", 0),
        ("layers_per_block", -1),
        ("sample_size", 1024),
        ("sample_size", 512),
        ("sample_size", [8, 1024]),
        ("sample_size", [8]),
        ("sample_size", []),
        ("sample_size", [8] * 10**5),
        ("sample_size", 0),
        ("sample_size", -8),
        ("sample_size", None),
        ("sample_size", [0, 0]),
        ("block_out_channels", [16, 2**30]),
        ("block_out_channels", [16, 0]),
        ("block_out_channels", [16, -32]),
        ("block_out_channels", [16] * 200_000),
        ("block_out_channels", []),
        ("down_block_types", ["DownBlock2D"] * 200_000),
        ("up_block_types", ["x" * 10**6]),
        ("in_channels", 10**9),
        ("out_channels", 0),
        ("num_class_embeds", 10**9),
        ("num_class_embeds", 0),
        ("attention_head_dim", 0),
        ("attention_head_dim", 10**9),
        ("norm_num_groups", 0),
        ("norm_eps", 0),
        ("norm_eps", math.nan),
        ("norm_eps", -1e-5),
        ("time_embedding_dim", 10**9),
        ("time_embedding_dim", 0),
        ("mid_block_scale_factor", 0),
        ("mid_block_scale_factor", math.inf),
        ("dropout", 2),
        ("freq_shift", 8),
        ("num_train_timesteps", 10**9),
        ("act_fn", ["x" * 10**6] * 4),
        ("x" * 10**6, 1),
        ("_class_name", "U" * 10**6),
        ("_class_name", {"a": "U" * 10**6}),
    ],
    VAE: [
        ("layers_per_block", 10**6),
        ("block_out_channels", [8] * 200_000),
        ("block_out_channels", [8, 8 << 20]),
        ("latent_channels", 10**6),
        ("in_channels", 2),
        ("out_channels", 10**6),
        ("sample_size", 10**9),
        ("scaling_factor", math.nan),
        ("scaling_factor", 0),
        ("scaling_factor", 1e-300),
        ("shift_factor", math.inf),
        ("latents_mean", [math.nan, 0]),
        ("latents_mean", [0] * 10**5),
        ("latents_std", [1, 0]),
        ("norm_num_groups", 10**30),
    ],
    INDEX: [
        ("guidance_scale", 35),
        ("guidance_scale", 30.001),
        ("guidance_scale", 1e308),
        ("guidance_scale", 10**90),
        ("guidance_scale", math.inf),
        ("guidance_scale", -0.1),
        ("guidance_scale", True),
        ("guidance_scale", "1" * 10**6),
        ("guidance_scale", None),
        ("id2label", {str(i): str(i) for i in range(70_000)}),
        ("id2label", {"0": "c" * 257, "1": "dog", "2": "3"}),
        ("id2label", {"0": "cat", "1": "dog", "2": ["x" * 10**6]}),
        ("id2label", {"0": "cat", "1": "dog", "2": "two\nlines"}),
        ("id2label", {"0": "cat", "1": "dog", "2": "\ud800"}),
        ("id2label", {"x" * 10**6: "cat"}),
        ("id2label", ["cat"] * 10**5),
        ("vae", "A" * 10**6),
        ("unet", ["diffusers", ["U" * 10**6]]),
        ("scheduler", None),
    ],
}


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [(file, key, value) for file, rows in BOMBS.items() for key, value in rows],
    ids=lambda part: repr(part)[:30],
)
def test_a_value_out_of_bounds(folder: Path, file: str, key: str, value: Any) -> None:
    changed(file, **{key: value})(folder)
    message = refusal(folder)
    assert message.startswith(f"/{file}: ")
    assert key[:20] in message


NUMBERS = ("1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1" * 10_000, "-" + "9" * 10**6)


def annotations(config: type[Config]) -> dict[str, Any]:
    hints = get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in fields(config)}


def leaves(hint: Any, bounds: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Plain types within an annotation, and the bounds right around each."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from leaves(args[0], args[1:])
    elif origin in (None, Literal):
        yield hint, bounds
    else:
        if origin is tuple:
            yield tuple, bounds
        for arg in args:
            yield from leaves(arg)


@pytest.mark.parametrize("config", [*CONFIGS.values(), UNet2DConditionConfig])
def test_every_number_and_list_has_bounds(config: type[Config]) -> None:
    for name, hint in annotations(config).items():
        for kind, bounds in leaves(hint):
            needed = {int: Range, float: Range, tuple: Length}.get(kind)
            assert needed is None or [type(bound) for bound in bounds] == [needed], name


@pytest.mark.parametrize(
    ("file", "key"),
    [
        (file, name)
        for file, config in CONFIGS.items()
        for name, hint in annotations(config).items()
        if any(kind in (int, float) for kind, _ in leaves(hint))
    ],
)
def test_every_number_is_refused_where_it_is_none(
    tiny_folder: Path, tmp_path: Path, file: str, key: str
) -> None:
    """As text, since a number of 10,000 digits is more than Python reads or writes."""
    for text in NUMBERS:
        copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
        raw(file, key, text)(copy)
        message = refusal(copy)
        assert message.startswith(f"/{file}: ")
        assert key in message
        shutil.rmtree(copy)


DEEP = 100_000
TEXTS: dict[str, tuple[bytes, str]] = {
    "lists within lists": (b"[" * DEEP, "nested too deeply"),
    "closed, too": (b"[" * DEEP + b"]" * DEEP, "nested too deeply"),
    "objects within objects": (b'{"a":' * DEEP, "nested too deeply"),
    "deep within a key": (b'{"_a":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deeply"),
    "a key twice": (b'{"sample_size": 8, "sample_size": 16}', "'sample_size' comes twice"),
    "a key twice, further in": (b'{"a": {"b": 1, "b": 1}}', "'b' comes twice"),
    "a long key twice": (b'{"%b": 1, "%b": 2}' % ((b"k" * 10**6,) * 2), "comes twice"),
    "Latin-1": ('{"é": 1}'.encode("latin-1"), "not JSON"),
    "UTF-16": ('{"sample_size": 8}'.encode("utf-16"), "not JSON"),
    "UTF-8 with a mark": (b"\xef\xbb\xbf{}", "not JSON"),
    "nulls": (b"\0" * 1000, "not JSON"),
    "nothing": (b"", "not JSON"),
    "half of it": (b'{"sample_size": ', "not JSON"),
    "two of them": (b"{}{}", "not JSON"),
    "a list": (b"[]", "a JSON object is needed, found list"),
    "a number": (b"1" * 10_000, "a JSON object is needed, found float"),
    "a word": (b'"word"', "a JSON object is needed, found str"),
    "nothing said": (b"null", "a JSON object is needed, found NoneType"),
    "too large": (b'{"_": "' + b"x" * (4 << 20) + b'"}', "bytes; allowed: up to"),
    "many small lists": (b"[" + b"[]," * 10**6 + b"[]]", "a JSON object is needed"),
}


@pytest.mark.parametrize("file", [INDEX, VAE, UNET, SCHEDULE, SHARDS])
@pytest.mark.parametrize("kind", TEXTS)
def test_text_that_is_no_configuration(folder: Path, file: str, kind: str) -> None:
    data, expected = TEXTS[kind]
    if file == SHARDS:
        (folder / WEIGHTS).unlink()
    contents(file, data)(folder)
    message = refusal(folder)
    assert message.startswith(f"/{file}: ")
    assert expected in message


@pytest.mark.parametrize("file", [INDEX, VAE, UNET, SCHEDULE, WEIGHTS, SHARDS])
@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_of_a_size_are_opened(folder: Path, file: str, kind: str) -> None:
    if file == SHARDS:
        (folder / WEIGHTS).unlink()
    special(file, kind)(folder)
    message = refusal(folder)
    assert Path(file).name in message
    if file != INDEX:  # the digest alone
        with pytest.raises(CheckpointError, match=Path(file).name):
            checkpoint_digest(folder)


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind not in ("empty",)])
def test_what_a_model_is_not_opened_from_is_not_read(
    tiny_folder: Path, folder: Path, kind: str
) -> None:
    expected = checkpoint_digest(tiny_folder)
    for file in ("unet/spare.json", "vae/spare.safetensors", "scheduler/spare.json"):
        SPECIAL[kind](folder / file)
    open_checkpoint(folder)
    assert checkpoint_digest(folder) == expected
    assert weights_digest(folder / "vae") == weights_digest(tiny_folder / "vae")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def with_tensor(name: str, tensor: torch.Tensor) -> Damage:
    return lambda folder: save_file(weights(folder) | {name: tensor}, folder / WEIGHTS)


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


BIAS = "conv_in.bias"
WHOLE = "not a whole safetensors file"
FILES: dict[str, tuple[Damage, str]] = {
    "a header without end": (contents(WEIGHTS, b"\xff" * 8 + b"{}"), "a header of"),
    "a header of 99 MB": (contents(WEIGHTS, header(b" " * 99_000_000)), "allowed: up to"),
    "a header past the end": (contents(WEIGHTS, (10**6).to_bytes(8, "little") + b"{}"), WHOLE),
    "a deep header": (contents(WEIGHTS, header(b'{"a":' * DEEP)), WHOLE),
    "a header that is no JSON": (contents(WEIGHTS, header(b"\x93NUMPY" * 100)), WHOLE),
    "a dtype of a megabyte": (
        contents(WEIGHTS, header({BIAS: entry("X" * 10**6, [1], 0, 4)}, b"0000")),
        WHOLE,
    ),
    "offsets that overlap": (
        contents(
            WEIGHTS,
            header({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, b"\0" * 12),
        ),
        WHOLE,
    ),
    "offsets that go back": (contents(WEIGHTS, header({"a": entry("F32", [1], 8, 4)})), WHOLE),
    "offsets past the end": (
        contents(WEIGHTS, header({"a": entry("F32", [2**30], 0, 2**32)})),
        WHOLE,
    ),
    "a shape that overflows": (
        contents(WEIGHTS, header({"a": entry("F32", [2**62, 4], 0, 0)})),
        WHOLE,
    ),
    "a long name": (with_tensor("n" * 10**6, torch.zeros(1)), "unknown tensor 'nnn"),
    "a name that prints": (with_tensor("\x1b[31m\n", torch.zeros(1)), r"'\x1b[31m\n'"),
    "thousands of names": (
        lambda f: (f / WEIGHTS).write_bytes(
            save(weights(f) | {f"{i:050}": torch.zeros(1) for i in range(20_000)})
        ),
        "and 19999 more",
    ),
    "a shape of many sides": (with_tensor(BIAS, torch.zeros([1] * 1000)), "has shape [1, 1"),
    "whole numbers": (with_tensor(BIAS, torch.ones(16, dtype=torch.int64)), f"{BIAS!r} is I64"),
    "complex numbers": (with_tensor(BIAS, torch.ones(16, dtype=torch.complex64)), "is C64"),
    "more than is needed": (
        lambda f: os.truncate(f / WEIGHTS, 10 << 30),
        "bytes; allowed: up to",
    ),
    "a little more": (
        lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size + 100),
        WHOLE,
    ),
    **{
        f"a shard called {name[:12]!r}": (sharded({BIAS: name}), "is not a file name")
        for name in (
            *("", ".", "..", "../x.safetensors", "/dev/zero", "a\0.safetensors", "x.bin"),
            *("x" * 10**6 + ".safetensors", "\ud800.safetensors", "a/b.safetensors"),
            *("a\n.safetensors", ".safetensors/", "\udcff.safetensors"),
        )
    },
    "a shard that is a number": (sharded({BIAS: 3}), f"weight_map {BIAS!r} is not a file name: 3"),
    "a map that is a list": (sharded([BIAS] * 10**5), "weight_map is missing"),
    "an empty map": (sharded({}), "weight_map is missing or empty"),
    "a large map": (
        sharded({f"{i:040}": "x.safetensors" for i in range(50_000)}),
        "missing tensor",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_weights_that_are_none(folder: Path, kind: str) -> None:
    damage, expected = FILES[kind]
    damage(folder)
    message = refusal(folder)
    assert message.startswith("/unet")
    assert expected in message


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "empty"])
def test_a_shard_is_a_regular_file(folder: Path, kind: str) -> None:
    names = dict.fromkeys(weights(folder), "rest.safetensors") | {BIAS: "x.safetensors"}
    sharded(names)(folder)
    SPECIAL[kind](folder / "unet/x.safetensors")
    (folder / "unet/rest.safetensors").write_bytes(header({}))
    assert "rest.safetensors: missing tensor" in refusal(folder)  # files are read in order of name
    (folder / "unet/rest.safetensors").rename(folder / "unet/z.safetensors")
    sharded_again = {name: at.replace("rest", "z") for name, at in names.items()}
    (folder / SHARDS).write_text(json.dumps({"weight_map": sharded_again}))
    assert "unet/x.safetensors" in refusal(folder)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        checkpoint_digest(folder)


EIGHT = {"down_block_types": ["AttnDownBlock2D"] * 8, "up_block_types": ["AttnUpBlock2D"] * 8}
TOGETHER: dict[str, tuple[list[Damage], str]] = {
    "parameters": (
        [
            changed(UNET, block_out_channels=[4096] * 8, layers_per_block=16, **EIGHT),
            changed(UNET, sample_size=128),
        ],
        "/unet/config.json: block_out_channels and layers_per_block make 143,",
    ),
    "pixels": (
        [
            changed(VAE, block_out_channels=[8] * 8),
            changed(VAE, down_block_types=["DownEncoderBlock2D"] * 8),
            changed(VAE, up_block_types=["UpDecoderBlock2D"] * 8),
            changed(UNET, sample_size=32),
        ],
        "/unet/config.json: sample_size is 32, which makes images with a side of 4096",
    ),
    "positions that attend": (
        [changed(UNET, sample_size=256, down_block_types=["AttnDownBlock2D"] * 2)],
        "/unet/config.json: sample_size is 256: attention would compare 65536 positions",
    ),
    "positions that attend, in the VAE": (
        [
            changed(UNET, sample_size=[256, 128], down_block_types=["DownBlock2D"] * 2),
            changed(UNET, up_block_types=["UpBlock2D"] * 2),
        ],
        "/unet/config.json: sample_size is (256, 128): attention would compare 32768 positions",
    ),
    "narrow frequencies": (
        [
            changed(UNET, block_out_channels=[2, 2], freq_shift=1),
            changed(UNET, norm_num_groups=1, attention_head_dim=None),
        ],
        "/unet/config.json: freq_shift is 1; block_out_channels begins with 2",
    ),
    "no signal is left": (
        [
            changed(SCHEDULE, beta_start=0.9, beta_end=0.9),
            changed(SCHEDULE, rescale_betas_zero_snr=False, prediction_type="epsilon"),
        ],
        f"/{SCHEDULE}: num_train_timesteps and betas give alpha-bars from 0 to 0.1;",
    ),
    "no noise": (
        [changed(SCHEDULE, trained_betas=[1e-12] * 1000, rescale_betas_zero_snr=False)],
        f"/{SCHEDULE}: num_train_timesteps and betas give alpha-bars from 1 to 1;",
    ),
}


@pytest.mark.parametrize("kind", TOGETHER)
def test_values_that_are_too_much_together(folder: Path, kind: str) -> None:
    changes, expected = TOGETHER[kind]
    for change in changes:
        change(folder)
    assert refusal(folder).startswith(expected)


def test_a_default_guidance_scale_is_one_that_may_be_asked_for(folder: Path) -> None:
    assert MAX_GUIDANCE_SCALE == MOST_ASKED_FOR
    changed(INDEX, guidance_scale=MAX_GUIDANCE_SCALE)(folder)
    assert open_checkpoint(folder).guidance_scale == MAX_GUIDANCE_SCALE


def in_hub_cache(folder: Path, repository: Path) -> Path:
    """A snapshot of links to blobs, as huggingface_hub lays them out."""
    for path in folder.rglob("*.*"):
        name = path.relative_to(folder)
        snapshot = repository / "snapshots" / "0a1b2c" / name
        blob = repository / "blobs" / name.as_posix().replace("/", "-")
        for made in (snapshot, blob):
            made.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        snapshot.symlink_to(os.path.relpath(blob, snapshot.parent))
    return repository / "snapshots" / "0a1b2c"


def test_a_link_may_lead_from_a_snapshot_to_its_blobs(tiny_folder: Path, tmp_path: Path) -> None:
    snapshot = in_hub_cache(tiny_folder, tmp_path / "models--owner--pets")
    open_checkpoint(snapshot)
    assert checkpoint_digest(snapshot) == checkpoint_digest(tiny_folder)
    # To those of another repository it may not.
    other = in_hub_cache(tiny_folder, tmp_path / "models--owner--cars")
    for file in (INDEX, VAE, UNET, SCHEDULE, WEIGHTS):
        there = (snapshot / file).readlink()
        (snapshot / file).unlink()
        (snapshot / file).symlink_to((other / file).resolve())
        assert f"/{file}: a link leads out of its model folder" in refusal(snapshot)
        (snapshot / file).unlink()
        (snapshot / file).symlink_to(there)
    open_checkpoint(snapshot)


def test_a_blob_may_be_a_link_to_those_of_the_whole_cache(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """As huggingface_hub 2 has it, where repositories share what is the same in them."""
    snapshot = in_hub_cache(tiny_folder, tmp_path / "models--owner--pets")
    for blob in (snapshot.parents[1] / "blobs").iterdir():
        shared = tmp_path / "blobs" / "ab" / f"0{blob.name}"
        shared.parent.mkdir(parents=True, exist_ok=True)
        blob.rename(shared)
        blob.symlink_to(os.path.relpath(shared, blob.parent))
    open_checkpoint(snapshot)
    assert checkpoint_digest(snapshot) == checkpoint_digest(tiny_folder)


def test_a_link_may_lead_to_another_file_of_its_folder(tiny_folder: Path, folder: Path) -> None:
    (folder / "shared").mkdir()
    for file in (VAE, UNET, SCHEDULE, WEIGHTS):
        moved = (folder / file).rename(folder / "shared" / file.replace("/", "-"))
        (folder / file).symlink_to(os.path.relpath(moved, (folder / file).parent))
    open_checkpoint(folder)
    # The folder itself may be one, and what its path goes through.
    (folder.parent / "link").symlink_to(folder)
    open_checkpoint(folder.parent / "link")
    assert checkpoint_digest(folder.parent / "link") == checkpoint_digest(tiny_folder)


def linked_out(file: str, to: str = "outside") -> Damage:
    """The same file, elsewhere, and a link to it."""

    def damage(folder: Path) -> None:
        (folder.parent / to).mkdir()
        moved = (folder / file).rename(folder.parent / to / Path(file).name)
        (folder / file).symlink_to(moved)

    return damage


@pytest.mark.parametrize("to", ["outside", "copy-of-it", "blobs"])
@pytest.mark.parametrize("file", [INDEX, VAE, UNET, SCHEDULE, WEIGHTS, "unet", "vae"])
def test_no_link_leads_out_of_the_folder(folder: Path, file: str, to: str) -> None:
    linked_out(file, to)(folder)
    message = refusal(folder)
    assert message.startswith(f"/{file}")
    assert "a link leads out of its model folder; allowed: links within it, or from" in message
    with pytest.raises(CheckpointError, match="leads out of its model folder"):
        checkpoint_digest(folder)


def test_no_link_of_a_shard_leads_out_of_the_folder(folder: Path) -> None:
    sharded(dict.fromkeys(weights(folder), "x.safetensors"))(folder)
    (folder / "unet/x.safetensors").symlink_to(save_outside(folder))
    assert "unet/x.safetensors: a link leads out" in refusal(folder)


def save_outside(folder: Path) -> Path:
    path = folder.parent / "stolen.safetensors"
    path.write_bytes(header({BIAS: entry("F32", [0], 0, 0)}))
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed(SCHEDULE, num_train_timesteps=10**9), f"{SCHEDULE}: num_train_timesteps is 10000"),
        (raw(SCHEDULE, "num_train_timesteps", "9" * 10_000), f"{SCHEDULE}: num_train_timesteps is"),
        (changed(UNET, layers_per_block=10**6), f"{UNET}: layers_per_block is 1000000; allowed: 1"),
        (changed(UNET, act_fn="x" * 10**6), f"{UNET}: act_fn is 'xxx"),
        (changed(INDEX, guidance_scale=35), f"{INDEX}: guidance_scale is 35; allowed: a number"),
        (special(VAE, "a pipe"), f"{VAE}: is a pipe"),
        (special(INDEX, "/dev/zero"), f"{INDEX}: is a device"),
        (special(WEIGHTS, "10 GB of nothing"), f"{WEIGHTS}: has 10,737,418,240 bytes"),
        (contents(UNET, b"[" * DEEP), f"{UNET}: not JSON: nested too deeply"),
    ],
)
def test_the_command_line_says_it_in_one_line(
    folder: Path, tmp_path: Path, damage: Damage, message: str
) -> None:
    damage(folder)
    out = tmp_path / "never.png"
    result = CliRunner().invoke(cli, ["sample", "--model", str(folder), "--out", str(out)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {folder / message}")
    assert result.output.count("\n") == 1
    assert not out.exists()
