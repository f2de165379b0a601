"""What `darkroom models` says of a checkpoint, beside the networks themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from app.cli.main import cli
from models import checkpoint
from models.description import describe
from models.files import CheckpointError, read_json, write_json
from models.library import find
from models.memory import activations, parameters
from models.pipeline import LatentDiffusion

STABLE_DIFFUSION: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 768,
    "sample_size": 64,
}


def test_a_model_of_ours_is_what_it_is_opened_as(
    tiny_folder: Path, tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safetensors.torch.load_file", None)
    told = describe(tiny_folder)
    assert (told.family, told.draws) == ("class-conditional", "one of 3 classes")
    assert told.prediction_type == tiny.schedule.own.prediction_type
    assert (told.sampler, told.spacing) == (tiny.schedule.sampler, tiny.schedule.spacing)
    assert told.samplers == tiny.schedule.samplers
    assert (told.width, told.height) == tiny.image_size
    assert {name: part.parameters for name, part in told.components.items()} == {
        "unet": parameters(tiny.unet),
        "vae": parameters(tiny.vae),
    }
    files = tiny_folder.glob("*/*.safetensors")
    assert told.bytes == sum(path.stat().st_size for path in files)
    assert told.memory["float32"].weights == 4 * told.parameters
    # Our VAE asks for float32 by its configuration.
    vae, unet = told.components["vae"].parameters, told.components["unet"].parameters
    assert told.memory["float16"].weights == 4 * vae + 2 * unet
    assert told.memory["float16"].drawing == activations(tiny.unet.config, tiny.vae.config, 1)


def test_what_ships_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "read_weights", None)
    told = describe(find("digits"))
    assert (told.draws, told.width, told.height) == ("one of 10 classes", 32, 32)


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Callable[..., Path]:
    """A Stable Diffusion with a UNet of diffusers' own and, as its VAE, ours."""

    def make(**unet: object) -> Path:
        torch.manual_seed(0)
        network = UNet2DConditionModel(**STABLE_DIFFUSION | unet).half()
        network.save_pretrained(tmp_path / "unet")
        for name in ("config.json", "diffusion_pytorch_model.safetensors"):
            (tmp_path / "vae").mkdir(exist_ok=True)
            (tmp_path / "vae" / name).write_bytes((tiny_folder / "vae" / name).read_bytes())
        scheduler = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"}
        write_json(tmp_path / "scheduler/scheduler_config.json", scheduler)
        write_json(tmp_path / "text_encoder/config.json", {})
        text = {"a": torch.zeros(3, 5), "position_ids": torch.arange(77)}
        save_file(text, tmp_path / "text_encoder/model.safetensors")
        for name in ("vocab.json", "merges.txt"):
            write_json(tmp_path / "tokenizer" / name, {})
        index = {
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        }
        write_json(tmp_path / "model_index.json", index)
        return tmp_path

    return make


TEXT_TIME = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}


@pytest.mark.parametrize(
    ("unet", "family"),
    [
        ({}, "Stable Diffusion 1.x"),
        ({"in_channels": 9}, "Stable Diffusion 1.x, inpainting"),
        ({"time_cond_proj_dim": 16}, "Stable Diffusion 1.x, distilled with its guidance"),
        ({"cross_attention_dim": 1024, "use_linear_projection": True}, "Stable Diffusion 2.x"),
        ({"cross_attention_dim": 24}, "Stable Diffusion 1.x, texts of width 24"),
        (
            {"cross_attention_dim": 24, "use_linear_projection": True},
            "Stable Diffusion 2.x, texts of width 24",
        ),
        ({"cross_attention_dim": 2048, **TEXT_TIME}, "Stable Diffusion XL"),
        ({"cross_attention_dim": 1280, **TEXT_TIME}, "Stable Diffusion XL refiner"),
    ],
)
def test_a_stable_diffusion_is_told_by_its_unet(
    folder: Callable[..., Path], unet: dict[str, object], family: str
) -> None:
    there = folder(**unet)
    told = describe(there)
    network = UNet2DConditionModel.from_pretrained(there / "unet")
    assert told.family == family
    assert (told.draws, told.width, told.height) == ("prompts", 128, 128)
    assert (told.prediction_type, told.sampler) == ("v_prediction", "euler")
    assert told.components["unet"].parameters == network.num_parameters()
    assert told.components["unet"].stored_as == ("F16",)
    assert told.components["text_encoder"].parameters == 15, "positions are no parameters"
    assert "safety_checker" not in told.components


def test_shards_are_counted_together(folder: Callable[..., Path]) -> None:
    whole = describe(there := folder()).components["unet"]
    network = UNet2DConditionModel.from_pretrained(there / "unet", torch_dtype=torch.float16)
    (there / "unet/diffusion_pytorch_model.safetensors").unlink()
    network.save_pretrained(there / "unet", max_shard_size="500KB")
    assert len([*(there / "unet").glob("*.safetensors")]) > 1
    assert describe(there).components["unet"].parameters == whole.parameters


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_index.json", "{}", "model_index.json names no unet"),
        ("unet/diffusion_pytorch_model.safetensors", "", "not a whole safetensors file"),
        ("unet/config.json", '{"sample_size": [1]}', "config.json: sample_size has 1 values"),
        ("unet/config.json", '{"sample_size": "x"}', "config.json: sample_size is 'x'; allowed"),
        ("vae/config.json", '{"block_out_channels": 3}', "block_out_channels is 3; allowed"),
        ("vae/config.json", '{"block_out_channels": []}', "block_out_channels has 0 values"),
        ("scheduler/scheduler_config.json", '{"_class_name": "Flow"}', "_class_name is 'Flow'"),
        ("unet/config.json", None, "unet/config.json is missing"),
        ("text_encoder/model.safetensors", None, "text_encoder: model.safetensors is missing"),
    ],
)
def test_what_is_wrong_is_named(
    folder: Callable[..., Path], name: str, content: str | None, message: str
) -> None:
    there = folder()
    (there / name).unlink()
    if content is not None:
        (there / name).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        describe(there)
    assert str(there) in str(caught.value)


def test_what_others_wrote_is_shown_and_not_obeyed(folder: Callable[..., Path]) -> None:
    there = folder()
    index = read_json(there / "model_index.json")
    write_json(there / "model_index.json", index | {"text_encoder": ["x", "\x1b[2J" + "y" * 999]})
    odd = {"cross_attention_dim": [1, 2], "in_channels": [9]}
    write_json(there / "unet/config.json", read_json(there / "unet/config.json") | odd)
    table = CliRunner().invoke(cli, ["models", str(there)], catch_exceptions=False).output
    assert "Stable Diffusion 1.x, texts of width [1, 2]" in table
    assert all(line.isprintable() and len(line) < 300 for line in table.splitlines())


def test_the_command_prints_a_table_or_json(folder: Callable[..., Path]) -> None:
    there = folder()
    table = CliRunner().invoke(cli, ["models", str(there)], catch_exceptions=False).output
    told = describe(there)
    lines = {line.split("  ")[0]: line for line in table.splitlines()}
    assert lines["family"].endswith("Stable Diffusion 1.x")
    assert lines["draws"].endswith("prompts, 128x128")
    assert lines["parameters"].endswith(f"{told.parameters:,}")
    assert lines["unet"].split()[1:] == [
        "UNet2DConditionModel",
        f"{told.components['unet'].parameters:,}",
        f"{told.components['unet'].bytes / 1e6:.1f}",
        "MB",
        "F16",
    ]
    printed = CliRunner().invoke(cli, ["models", str(there), "--json"]).output
    assert json.loads(printed) == json.loads(json.dumps(told.to_dict()))
    assert json.loads(printed)["bytes"] == told.bytes


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
