"""A model folder that is wrong is refused, by file and key; one that is right moves both ways."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import CheckpointError, open_checkpoint, save_network
from models.pipeline import LatentDiffusion
from models.unet import UNet2D
from tests.models.hostile import POINTER
from tests.tiny import SCHEDULE, UNET, VAE

SCHEDULER = "scheduler/scheduler_config.json"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (values | changes).items() if v is not ...}))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_what_was_saved_opens_as_it_was(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.vae.config, checkpoint.unet.config) == (VAE, UNET)
    assert checkpoint.schedule.own == SCHEDULE
    assert checkpoint.classes.names == ("cat", "dog", "3")
    assert checkpoint.classes.null == 3
    assert checkpoint.guidance_scale == 1.5
    for name, tensor in load_file(folder / UNET_WEIGHTS).items():
        assert torch.equal(checkpoint.unet.state_dict()[name], tensor)


def test_what_we_save_opens_in_diffusers(folder: Path, tiny: LatentDiffusion) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae")
    unet = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    assert vae.state_dict().keys() == tiny.vae.state_dict().keys()
    x, t, labels = torch.randn(2, 2, 8, 8), torch.tensor([3, 900]), torch.tensor([0, 3])
    with torch.inference_mode():
        expected = unet(x, t, class_labels=labels).sample
        torch.testing.assert_close(tiny.unet(x, t, labels), expected)


def test_what_diffusers_saves_opens_here(folder: Path) -> None:
    """Sharded, too: the index names the file of every tensor."""
    before = open_checkpoint(folder)
    for name, size in (("unet", "100KB"), ("vae", "10GB")):
        kind = {"unet": diffusers.UNet2DModel, "vae": diffusers.AutoencoderKL}[name]
        network = kind.from_pretrained(folder, subfolder=name)
        shutil.rmtree(folder / name)
        network.save_pretrained(folder / name, max_shard_size=size)
    diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler").save_pretrained(
        folder / "scheduler"
    )
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    again = open_checkpoint(folder)
    for old, new in ((before.unet, again.unet), (before.vae, again.vae)):
        for name, tensor in old.state_dict().items():
            assert torch.equal(new.state_dict()[name], tensor), name
    shard = next((folder / "unet").glob("*-00002-*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}: missing"):
        open_checkpoint(folder)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing tensor": (
        lambda f: edit_weights(f / UNET_WEIGHTS, lambda t: t.pop("conv_in.bias")),
        r"unet: missing tensor 'conv_in.bias'",
    ),
    "extra tensor": (
        lambda f: edit_weights(f / UNET_WEIGHTS, lambda t: t.update(spare=torch.zeros(1))),
        r"model.safetensors: unknown tensor 'spare'",
    ),
    "misshapen tensor": (
        lambda f: edit_weights(
            f / UNET_WEIGHTS, lambda t: t.update({"conv_in.bias": torch.ones(3)})
        ),
        r"model.safetensors: tensor 'conv_in.bias' has shape \[3\]; \[16\] needed",
    ),
    "truncated file": (
        lambda f: (f / UNET_WEIGHTS).write_bytes((f / UNET_WEIGHTS).read_bytes()[:-100]),
        r"model.safetensors: not a whole safetensors file",
    ),
    "empty file": (
        lambda f: (f / UNET_WEIGHTS).write_bytes(b""),
        r"model.safetensors: not a whole safetensors file",
    ),
    "pickle": (
        lambda f: (f / UNET_WEIGHTS).rename(f / "unet/diffusion_pytorch_model.bin"),
        r"diffusion_pytorch_model.bin: a pickle file can run code",
    ),
    "pickle in disguise": (
        lambda f: torch.save({"a": torch.zeros(1)}, f / UNET_WEIGHTS),
        r"model.safetensors: not a whole safetensors file",
    ),
    "no weights": (
        lambda f: (f / UNET_WEIGHTS).unlink(),
        r"unet: diffusion_pytorch_model.safetensors is missing",
    ),
    "unknown key": (
        lambda f: edit_json(f / "unet/config.json", colour="red"),
        r"unet/config.json: unknown key 'colour' for UNet2DModel; known: .*act_fn",
    ),
    "wrong type": (
        lambda f: edit_json(f / "vae/config.json", latent_channels="4"),
        r"vae/config.json: latent_channels is '4'; allowed: int",
    ),
    "unsupported value": (
        lambda f: edit_json(f / "unet/config.json", act_fn="gelu"),
        r"unet/config.json: act_fn is 'gelu'; allowed: 'silu', 'swish'",
    ),
    "blocks do not match": (
        lambda f: edit_json(f / "unet/config.json", block_out_channels=[16]),
        r"unet/config.json: the blocks do not match: .*block_out_channels has 1",
    ),
    "groups do not divide": (
        lambda f: edit_json(f / "vae/config.json", norm_num_groups=3),
        r"vae/config.json: widths 8, 16 must be multiples of norm_num_groups 3",
    ),
    "other class": (
        lambda f: edit_json(f / "unet/config.json", _class_name="UNet3D"),
        r"unet/config.json: _class_name is 'UNet3D'; allowed: 'UNet2DModel'",
    ),
    "other component": (
        lambda f: edit_json(f / "model_index.json", vae=["os", "system"]),
        r"model_index.json: vae is 'system'; allowed: 'AutoencoderKL'",
    ),
    "no component": (
        lambda f: edit_json(f / "model_index.json", scheduler=...),
        r"model_index.json: scheduler is None; allowed: 'DDIMScheduler'",
    ),
    "classes do not match": (
        lambda f: edit_json(f / "model_index.json", id2label={"0": "cat"}),
        r"model_index.json: id2label: 1 class names for num_class_embeds 4",
    ),
    "classes repeat": (
        lambda f: edit_json(f / "model_index.json", id2label={"0": "a", "1": "a", "2": "b"}),
        r"model_index.json: id2label names a class twice",
    ),
    "epsilon at zero signal": (
        lambda f: edit_json(f / "scheduler/scheduler_config.json", prediction_type="epsilon"),
        r"scheduler_config.json: rescale_betas_zero_snr with prediction_type 'epsilon'",
    ),
    "latents do not match": (
        lambda f: save_network(f / "unet", UNet2D(replace(UNET, in_channels=3, out_channels=3))),
        r"unet/config.json: in_channels 3 and out_channels 3; the VAE has latent_channels 2",
    ),
    "a latent that cannot be halved": (
        lambda f: edit_json(f / "unet/config.json", sample_size=7),
        r"unet/config.json: sample_size is 7; allowed: multiples of 2",
    ),
    "groups of the middle attention do not divide": (
        lambda f: edit_json(f / "unet/config.json", attn_norm_num_groups=3),
        r"unet/config.json: widths 32 must be multiples of attn_norm_num_groups 3",
    ),
    "no spread": (
        lambda f: edit_json(f / "vae/config.json", latents_std=[1.0, 0.0]),
        r"vae/config.json: latents_std is 0.0; allowed: above 0",
    ),
    "betas that are none": (
        lambda f: edit_json(f / "scheduler/scheduler_config.json", beta_start=-1),
        r"scheduler_config.json: beta_start is -1",
    ),
    "an empty list of betas": (
        lambda f: edit_json(f / "scheduler/scheduler_config.json", trained_betas=[]),
        r"scheduler_config.json: trained_betas has 0 values",
    ),
    "betas that leave two timesteps alike": (
        lambda f: edit_json(
            f / SCHEDULER, trained_betas=[0.01] * 999 + [1e-18], rescale_betas_zero_snr=False
        ),
        r"scheduler_config.json: num_train_timesteps and betas give neighbours one alpha-bar",
    ),
    "betas that leave nothing long before the end": (
        lambda f: edit_json(
            f / SCHEDULER, trained_betas=[0.5] * 1000, rescale_betas_zero_snr=False
        ),
        r"scheduler_config.json: num_train_timesteps and betas .* below 1e-30 before the last",
    ),
    "guidance that is no number": (
        lambda f: edit_json(f / "model_index.json", guidance_scale=float("nan")),
        r"model_index.json: guidance_scale is nan; allowed: a number from 0",
    ),
    "not JSON": (
        lambda f: (f / "vae/config.json").write_text("{"),
        r"vae/config.json: not JSON",
    ),
    "no config": (
        lambda f: (f / "vae/config.json").unlink(),
        r"vae/config.json: cannot be read: No such file",
    ),
    "a Git LFS pointer for weights": (
        lambda f: (f / UNET_WEIGHTS).write_bytes(POINTER),
        r"model.safetensors: is a Git LFS pointer, .*`git lfs pull`",
    ),
    "a Git LFS pointer for a configuration": (
        lambda f: (f / "vae/config.json").write_bytes(POINTER),
        r"vae/config.json: is a Git LFS pointer, .*`git lfs pull`",
    ),
    "a Git LFS pointer for the index": (
        lambda f: (f / "model_index.json").write_bytes(POINTER),
        r"model_index.json: is a Git LFS pointer, .*`git lfs pull`",
    ),
    "a Git LFS pointer for a variant": (
        lambda f: (
            (f / UNET_WEIGHTS).unlink(),
            (f / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(POINTER),
        ),
        r"fp16.safetensors: is a Git LFS pointer, .*`git lfs pull`",
    ),
    "two variants": (
        lambda f: (
            shutil.copy(f / UNET_WEIGHTS, f / "unet/diffusion_pytorch_model.fp16.safetensors"),
            (f / UNET_WEIGHTS).rename(f / "unet/diffusion_pytorch_model.non_ema.safetensors"),
        ),
        r"unet: .* is missing, and there are several variants: fp16, non_ema; allowed: one",
    ),
    "shards without their index": (
        lambda f: (f / UNET_WEIGHTS).rename(
            f / "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"
        ),
        r"unet: diffusion_pytorch_model.safetensors is missing",
    ),
    "a tensor by its old and its present name": (
        lambda f: edit_weights(
            f / UNET_WEIGHTS,
            lambda t: t.update({"mid_block.attentions.0.query.bias": torch.zeros(32)}),
        ),
        r"tensor 'mid_block.attentions.0.to_q.bias' comes twice, once by its old name",
    ),
    "a convolution of more than one position": (
        lambda f: edit_weights(
            f / UNET_WEIGHTS,
            lambda t: t.update({"mid_block.attentions.0.to_q.weight": torch.zeros(32, 32, 3, 3)}),
        ),
        r"to_q.weight' has shape \[32, 32, 3, 3\]; \[32, 32\] needed",
    ),
    "a picture of two channels": (
        lambda f: edit_json(f / "vae/config.json", out_channels=2),
        r"vae/config.json: out_channels is 2; allowed: 1, 3, 4",
    ),
    "a picture of other channels than were learned": (
        lambda f: edit_json(f / "vae/config.json", out_channels=3),
        r"vae/config.json: out_channels is 3, in_channels 1; allowed: the same number",
    ),
    "a variance that was learned, by channels": (
        lambda f: edit_json(f / "unet/config.json", out_channels=4),
        r"unet/config.json: in_channels 2 and out_channels 4; the VAE has latent_channels 2",
    ),
    "a variance that was learned, by its key": (
        lambda f: edit_json(f / SCHEDULER, variance_type="learned_range"),
        r"scheduler_config.json: variance_type is 'learned_range'; allowed: null, 'fixed_small'",
    ),
    "noise levels for timesteps": (
        lambda f: edit_json(f / SCHEDULER, timestep_type="continuous"),
        r"scheduler_config.json: timestep_type is 'continuous'; allowed: 'discrete'",
    ),
    "flow sigmas": (
        lambda f: edit_json(f / SCHEDULER, use_flow_sigmas=True),
        r"scheduler_config.json: use_flow_sigmas is True; allowed: False",
    ),
    "flow prediction": (
        lambda f: edit_json(f / SCHEDULER, prediction_type="flow_prediction"),
        r"scheduler_config.json: prediction_type is 'flow_prediction'; allowed: 'epsilon'",
    ),
    "thresholding": (
        lambda f: edit_json(f / SCHEDULER, thresholding=True),
        r"scheduler_config.json: thresholding is True; allowed: False",
    ),
    "a typing error": (
        lambda f: edit_json(f / SCHEDULER, set_alpha_to_on=False),
        r"scheduler_config.json: unknown key 'set_alpha_to_on' .*known: set_alpha_to_one,",
    ),
    "a typing error in a foreign key": (
        lambda f: edit_json(f / SCHEDULER, skip_prk_step=True),
        r"scheduler_config.json: unknown key 'skip_prk_step' for DDIMScheduler",
    ),
    "flow matching": (
        lambda f: edit_json(f / SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"),
        r"_class_name is 'FlowMatchEulerDiscreteScheduler' \(flow matching is not DDIM\); "
        r"allowed: 'DDIMScheduler', 'DDPMScheduler', ",
    ),
    "EDM": (
        lambda f: edit_json(f / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"]),
        r"model_index.json: scheduler is 'EDMEulerScheduler' \(its networks are scaled",
    ),
    "a UNet that was quantized": (
        lambda f: edit_json(f / "unet/config.json", quantization_config={"quant_method": "x"}),
        r"unet/config.json: quantization_config is .*; allowed: null",
    ),
    "attention to prompts": (
        lambda f: edit_json(f / "model_index.json", unet=["diffusers", "UNet2DConditionModel"]),
        r"model_index.json: text_encoder is None; allowed: 'CLIPTextModel'",
    ),
    "a codebook": (
        lambda f: edit_json(f / "model_index.json", vae=..., vqvae=["diffusers", "VQModel"]),
        r"vqvae is 'VQModel' \(its latents are .*\); allowed: 'AutoencoderKL'",
    ),
    "no autoencoder": (
        lambda f: edit_json(f / "model_index.json", vae=[None, None]),
        r"model_index.json: vae is None; allowed: 'AutoencoderKL'",
    ),
    "no index": (
        lambda f: (f / "model_index.json").unlink(),
        r"not a model folder: model_index.json is missing",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_folder_is_refused_by_file_and_key(
    folder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_nearly_the_same(
    folder: Path, tiny: LatentDiffusion, dtype: torch.dtype
) -> None:
    """With the VAE in float32 where float16 may overflow, as its configuration says here."""
    half = LatentDiffusion.open(folder, dtype=dtype)
    assert next(half.unet.parameters()).dtype is dtype
    upcast = torch.float32 if dtype is torch.float16 else dtype
    assert next(half.vae.parameters()).dtype is upcast
    expected = tiny.sample(["cat"] * 2, [1, 2], steps=4)
    error = (half.sample(["cat"] * 2, [1, 2], steps=4) - expected).abs().mean()
    assert 0 < error < 0.05, "of a range of 2"
    edit_json(folder / "vae/config.json", force_upcast=False)
    assert next(LatentDiffusion.open(folder, dtype=dtype).vae.parameters()).dtype is dtype


def test_a_shard_index_cannot_leave_its_folder(folder: Path) -> None:
    (folder / UNET_WEIGHTS).rename(folder / "stolen.safetensors")
    index = {"weight_map": {"conv_in.bias": "../stolen.safetensors"}}
    (folder / f"{UNET_WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"'conv_in.bias' is not a file name"):
        open_checkpoint(folder)
