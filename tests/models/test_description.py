"""What `darkroom models` says of a checkpoint, beside the networks themselves."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from app.cli.main import cli
from models.bounds import size
from models.checkpoint import open_checkpoint
from models.description import Description, describe
from models.files import CheckpointError, read_json, write_json
from models.library import find
from models.memory import activations, parameters
from models.pipeline import LatentDiffusion
from tests import stable
from tests.models.original import whole, write_header
from tests.models.wording import write_tokenizer

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
FULL = {  # family -> parameters of the UNet, in millions
    "1.x": ("Stable Diffusion 1.x", 859.5),
    "2.x": ("Stable Diffusion 2.x", 865.9),
    "SDXL": ("Stable Diffusion XL", 2567.5),
}


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data of no file may be read."""

    def read(*_: object) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr("models.tensor_file.TensorFile.read", read)


@pytest.mark.usefixtures("unread")
def test_a_model_of_ours_is_what_it_is_opened_as(tiny_folder: Path, tiny: LatentDiffusion) -> None:
    told = describe(tiny_folder)
    assert (told.family, told.draws) == ("class-conditional", "one of 3 classes")
    assert told.prediction_type == tiny.schedule.own.prediction_type
    assert (told.sampler, told.spacing) == (tiny.schedule.sampler, tiny.schedule.spacing)
    assert told.samplers == tiny.schedule.samplers
    assert (told.width, told.height) == tiny.image_size
    assert (told.sizes, told.guidance_scale) == (tiny.sizes, tiny.guidance_scale)
    assert (told.notes, told.refusal) == (tiny.notes, None)
    assert {name: part.parameters for name, part in told.components.items()} == {
        "unet": parameters(tiny.unet),
        "vae": parameters(tiny.vae),
    }
    assert told.bytes == 4 * told.parameters
    assert told.memory["float32"].weights == 4 * told.parameters
    # Our VAE asks for float32 by its configuration, where float16 is asked for.
    vae, unet = told.components["vae"].parameters, told.components["unet"].parameters
    assert told.memory["float16"].weights == 4 * vae + 2 * unet
    assert told.memory["bfloat16"].weights == 2 * told.parameters
    assert told.memory["float16"].drawing == activations(tiny.unet.config, tiny.vae.config, 1)


@pytest.mark.usefixtures("unread")
def test_what_ships_is_described() -> None:
    told = describe(find("digits"))
    assert (told.draws, told.width, told.height) == ("one of 10 classes", 32, 32)


@pytest.mark.parametrize("name", ["1.5", "2.1", "SDXL"])
@pytest.mark.parametrize("single", [False, True], ids=["folder", "file"])
def test_a_stable_diffusion_is_what_it_is_opened_as(
    name: str, single: bool, stable_folder: Folders, tmp_path: Path
) -> None:
    place = stable_folder(name)
    if single:
        place = stable.save_file(name, tmp_path / "one.safetensors")
    told, opened = describe(place), open_checkpoint(place)
    assert opened.reader is not None
    encoders = [reader.encoder for reader in opened.reader._readers]
    names = ("text_encoder", "text_encoder_2")[: len(encoders)]
    networks = {"unet": opened.unet, "vae": opened.vae, **dict(zip(names, encoders, strict=True))}
    assert [*told.components] == [*networks]
    for part, component in told.components.items():
        assert component.parameters == parameters(networks[part]), part
        assert component.bytes == 4 * component.parameters
        assert component.stored_as == ("F32",)
    assert told.draws == "prompts of 77 tokens"
    assert told.prediction_type == opened.schedule.own.prediction_type
    assert (told.sampler, told.spacing) == (opened.schedule.sampler, opened.schedule.spacing)
    assert told.guidance_scale == opened.guidance_scale
    assert (told.sizes, told.notes, told.refusal) == (opened.sizes, opened.notes, None)
    unet, vae = opened.unet.config, opened.vae.config
    assert {memory.drawing for memory in told.memory.values()} == {activations(unet, vae, 1)}
    decoder = parameters(opened.vae)
    least = 2 * (told.parameters - decoder)
    assert told.memory["float16"].weights == least + decoder * (4 if vae.force_upcast else 2)
    assert told.memory["bfloat16"].weights == 2 * told.parameters


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("family", FULL)
def test_a_folder_and_a_file_of_full_size_are_called_the_same(family: str, tmp_path: Path) -> None:
    """Their weights take no place on the disk."""
    with torch.device("meta"):
        full = whole(family, full=True)
    name, millions = FULL[family]
    mark = {}
    if family == "2.x":  # or what it predicts is guessed from data
        mark = {"v_pred": torch.empty(0)}
        full.networks["unet"].register_to_config(sample_size=96)  # type: ignore[operator]
    file = describe(write_header(tmp_path / "one.safetensors", full.tensors() | mark))
    folder = describe(as_folder(full.networks, tmp_path / "folder"))
    for told in (file, folder):
        assert told.family == name
        assert round(told.components["unet"].parameters / 1e6, 1) == millions
    for key in ("draws", "guidance_scale", "components", "memory", "sizes", "refusal"):
        assert getattr(file, key) == getattr(folder, key), key


def as_folder(networks: dict[str, Any], folder: Path) -> Path:
    """A folder of networks on the meta device."""
    index: dict[str, Any] = {"scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    write_json(folder / "scheduler/scheduler_config.json", {"_class_name": index["scheduler"][1]})
    for name, network in networks.items():
        text = name.startswith("text")
        index[name] = ["x", type(network).__name__]
        if text:
            tokenizer = name.replace("text_encoder", "tokenizer")
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
            files = {"tokenizer_config": {"model_max_length": 77, "pad_token": "!"}}
            write_tokenizer(folder / tokenizer, **files)
            (folder / name).mkdir()
            network.config.save_pretrained(folder / name)
        else:
            network.save_config(folder / name)
        stem = "model" if text else "diffusion_pytorch_model"
        write_header(folder / name / f"{stem}.safetensors", network.state_dict())
    write_json(folder / "model_index.json", index)
    return folder


@pytest.fixture
def folder(tmp_path: Path, stable_folder: Folders) -> Path:
    """A Stable Diffusion, to be changed."""
    return Path(shutil.copytree(stable_folder("1.5"), tmp_path / "model"))


def with_unet(folder: Path, **values: object) -> Description:
    path = folder / "unet/config.json"
    write_json(path, read_json(path) | values)
    return describe(folder)


@pytest.mark.parametrize(
    ("values", "family"),
    [
        ({}, "Stable Diffusion 1.x, texts of width 32"),
        ({"cross_attention_dim": 768}, "Stable Diffusion 1.x"),
        ({"cross_attention_dim": 1024}, "Stable Diffusion 2.x"),
        ({"use_linear_projection": True}, "Stable Diffusion 2.x, texts of width 32"),
        (
            {"in_channels": 9, "cross_attention_dim": 768},
            "Stable Diffusion 1.x, inpainting",
        ),
        (
            {"in_channels": 8, "cross_attention_dim": 768},
            "Stable Diffusion 1.x, editing by instruction",
        ),
        (
            {"time_cond_proj_dim": 16, "cross_attention_dim": 768},
            "Stable Diffusion 1.x, distilled with its guidance",
        ),
    ],
)
def test_a_family_is_told_by_its_unet(folder: Path, values: dict[str, object], family: str) -> None:
    assert with_unet(folder, **values).family == family


@pytest.mark.parametrize("single", [False, True], ids=["folder", "file"])
def test_what_inpaints_is_described_and_cannot_be_drawn_by(
    single: bool, stable_folder: Folders, tmp_path: Path
) -> None:
    place = stable_folder("inpainting")
    if single:
        place = stable.save_file("inpainting", tmp_path / "one.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(place)
    told = describe(place)
    assert told.family == "Stable Diffusion 1.x, texts of width 32, inpainting"
    assert told.refusal == str(caught.value)
    assert "in_channels 9: a UNet for inpainting, which cannot be drawn by yet" in told.refusal
    assert told.sizes is None
    side = 512 if single else stable.SIDE
    assert (told.width, told.height) == (side, side)
    table = CliRunner().invoke(cli, ["models", str(place)], catch_exceptions=False)
    assert table.exit_code == 0
    assert f"cannot be drawn   {told.refusal}" in table.output
    assert f"sizes             {side}x{side}\n" in table.output


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"cross_attention_dim": 48}, "cross_attention_dim is 48; the text encoders make 32"),
        ({"out_channels": 8}, "in_channels 4 and out_channels 8; the VAE has latent_channels 4"),
        ({"sample_size": None}, "sample_size is missing"),
    ],
)
def test_parts_that_do_not_fit_are_described(
    folder: Path, values: dict[str, object], refusal: str
) -> None:
    told = with_unet(folder, **values)
    assert told.refusal == f"{folder / 'unet/config.json'}: {refusal}"
    sized = values.get("sample_size", 8) is not None
    assert (told.width is not None) == (told.memory["float32"].drawing is not None) == sized


@pytest.mark.parametrize(
    ("single", "dtype", "change", "refusal"),
    [
        (False, torch.float8_e4m3fn, {}, "is F8_E4M3; allowed: F64, F32, F16, BF16"),
        (False, torch.float16, {"spare": torch.zeros(1)}, "unknown tensor '"),
        (True, torch.float16, {"spare": torch.zeros(1)}, "unknown tensor '"),
    ],
)
def test_weights_that_cannot_be_opened_are_described(
    single: bool,
    dtype: torch.dtype,
    change: dict[str, torch.Tensor],
    refusal: str,
    folder: Path,
    tmp_path: Path,
) -> None:
    place = stable.save_file("1.5", tmp_path / "one.safetensors") if single else folder
    path, prefix = place, "model.diffusion_model."
    if not single:
        path, prefix = place / "unet/diffusion_pytorch_model.safetensors", ""
    tensors = load_file(path) | {prefix + name: tensor for name, tensor in change.items()}
    save_file({n: t.to(dtype) if n.startswith(prefix) else t for n, t in tensors.items()}, path)
    with pytest.raises(CheckpointError, match=re.escape(refusal)) as caught:
        open_checkpoint(place)
    told = describe(place)
    assert told.refusal == str(caught.value)
    assert told.sizes is None


def test_shards_are_counted_together(folder: Path) -> None:
    whole = describe(folder).components["unet"]
    network = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16)
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    network.save_pretrained(folder / "unet", max_shard_size="3MB")
    assert len([*(folder / "unet").glob("*.safetensors")]) > 1
    sharded = describe(folder).components["unet"]
    assert (sharded.parameters, sharded.bytes) == (whole.parameters, whole.bytes // 2)
    assert sharded.stored_as == ("F16",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_index.json", "{}", "vae is None; allowed"),
        ("unet/diffusion_pytorch_model.safetensors", "", "not a whole safetensors file"),
        ("unet/config.json", '{"sample_size": [1]}', "config.json: sample_size has 1 values"),
        ("unet/config.json", '{"sample_size": "x"}', "config.json: sample_size is 'x'; allowed"),
        ("vae/config.json", '{"block_out_channels": 3}', "block_out_channels is 3; allowed"),
        ("vae/config.json", '{"block_out_channels": []}', "block_out_channels has 0 values"),
        ("scheduler/scheduler_config.json", '{"_class_name": "Flow"}', "_class_name is 'Flow'"),
        ("text_encoder/config.json", '{"hidden_act": "relu"}', "hidden_act is 'relu'; allowed"),
        ("unet/config.json", None, "unet/config.json: cannot be read: No such file"),
        ("text_encoder/model.safetensors", None, "text_encoder: model.safetensors is missing"),
        ("tokenizer/tokenizer.json", None, "tokenizer"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, name: str, content: str | None, message: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        describe(folder)
    assert str(folder) in str(caught.value)


def test_what_others_wrote_is_shown_and_not_obeyed(folder: Path) -> None:
    written = read_json(folder / "model_index.json")
    for odd in (
        {"text_encoder": ["x", "\x1b[2J" + "y" * 999]},
        {"\x1b[2J": ["x", "Y"]},
        {"_class_name": "\x1b[2J"},
    ):
        write_json(folder / "model_index.json", written | odd)
        output = CliRunner().invoke(cli, ["models", str(folder)]).output
        lines = output.splitlines()
        assert lines
        assert all(line.isprintable() and len(line) < 300 for line in lines)


def test_the_command_prints_a_table_or_json(folder: Path) -> None:
    table = CliRunner().invoke(cli, ["models", str(folder)], catch_exceptions=False).output
    told = describe(folder)
    lines = {line.split("  ")[0]: line for line in table.splitlines()}
    assert lines["family"].endswith("Stable Diffusion 1.x, texts of width 32")
    assert lines["draws"].endswith("prompts of 77 tokens")
    assert lines["sizes"].endswith(str(told.sizes))
    assert lines["guidance"].endswith("7.5")
    assert lines["parameters"].endswith(f"{told.parameters:,}")
    assert lines["unet"].split()[1:] == [
        "UNet2DConditionModel",
        f"{told.components['unet'].parameters:,}",
        *size(told.components["unet"].bytes).split(),
        "F32",
    ]
    printed = CliRunner().invoke(cli, ["models", str(folder), "--json"]).output
    assert json.loads(printed) == json.loads(json.dumps(told.to_dict()))
    assert json.loads(printed)["bytes"] == told.bytes
    assert json.loads(printed)["sizes"]["width"] == told.width


def test_what_cannot_be_described_is_one_line(tmp_path: Path) -> None:
    for model, message in (
        (str(tmp_path), "not a model folder: model_index.json is missing"),
        ("nothing", "no model 'nothing'; shipped: digits"),
    ):
        result = CliRunner().invoke(cli, ["models", model])
        assert result.exit_code == 1
        assert message in result.output
        assert len(result.output.splitlines()) == 1


def test_what_ships_is_listed_as_json_as_well() -> None:
    assert [*json.loads(CliRunner().invoke(cli, ["models", "--json"]).output)] == ["digits"]
