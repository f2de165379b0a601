"""One file in the original layout opens to the weights and configurations of its folder."""

import contextlib
import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils as reference
from torch import Tensor

from models.checkpoint import open_checkpoint
from models.files import CheckpointError
from models.original.families import SD1, SD2, SDXL
from models.schedulers import SchedulerConfig
from models.single_file import Component, SingleFile
from models.tensor_file import TensorFile, part_shape
from tests.models.hostile import header
from tests.models.original import (
    State,
    Whole,
    open_clip_state,
    prefixed,
    whole,
    whole_clip,
    write,
    write_header,
)

FAMILIES = {"1.x": SD1, "2.x": SD2, "SDXL": SDXL}
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
XL, XL_2 = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
Change = Callable[[State], Any]


@pytest.fixture(scope="module")
def wholes() -> dict[str, Whole]:
    torch.manual_seed(0)
    made = {family: whole(family) for family in FAMILIES}
    for each in made.values():
        for network in each.networks.values():
            for weight in network.parameters():
                torch.nn.init.normal_(weight)  # norms too, which begin as ones and zeros
    return made


def expected(network: torch.nn.Module) -> State:
    state = network.state_dict()
    text = type(network).__module__.startswith("transformers")
    return whole_clip(state) if text else dict(state)


def weights(component: Component, network: torch.nn.Module) -> State:
    return component.read(expected(network), "cpu", torch.float32)


def check(opened: SingleFile, networks: dict[str, torch.nn.Module]) -> None:
    """Every tensor, bit for bit, and no other."""
    assert opened.components.keys() == networks.keys()
    for name, network in networks.items():
        read, wanted = weights(opened.components[name], network), expected(network)
        assert read.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert torch.equal(read[key], tensor), (name, key)


def check_forms(path: Path, networks: dict[str, torch.nn.Module]) -> None:
    opened = SingleFile.open(path)
    for name, network in networks.items():
        opened.components[name].check(expected(network))


def built(component: str, config: dict[str, Any]) -> torch.nn.Module:
    """The network that diffusers or transformers make of a configuration, without memory."""
    with torch.device("meta"):
        if component == "unet":
            return diffusers.UNet2DConditionModel.from_config(config)
        if component == "vae":
            return diffusers.AutoencoderKL.from_config(config)
        (name,) = config["architectures"]
        kind = getattr(transformers, name)
        return kind(transformers.CLIPTextConfig(**config))  # type: ignore[no-any-return]


OWN = {  # what is said otherwise: the first two by a name or not at all, the others not by shapes
    *("_class_name", "_name_or_path", "_use_default_values", "_diffusers_version"),
    *("architectures", "torch_dtype", "dtype", "transformers_version", "sample_size"),
}


def said(network: torch.nn.Module) -> dict[str, Any]:
    config = network.config
    values = dict(config) if isinstance(config, dict) else config.to_dict()
    listed = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
    return {key: value for key, value in listed.items() if key not in OWN}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_opens_to_the_weights_of_its_folder(
    family: str, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    networks = wholes[family].networks
    opened = SingleFile.open(write(tmp_path / "model.safetensors", wholes[family].tensors()))
    assert opened.family == FAMILIES[family].name
    assert opened.prediction_type == ("v_prediction" if family == "2.x" else "epsilon")
    check(opened, networks)
    for name, network in networks.items():
        again = built(name, dict(opened.components[name].config))
        assert said(again) == said(network), name
        shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
        assert {key: tensor.shape for key, tensor in again.state_dict().items()} == shapes


def test_diffusers_makes_the_same_of_the_same_file(
    wholes: dict[str, Whole], tmp_path: Path
) -> None:
    """Its own conversion, by its own rules; what it leaves to a strict loader is not compared."""
    for family, each in wholes.items():
        tensors = each.tensors()
        opened = SingleFile.open(write(tmp_path / "model.safetensors", tensors))
        config = dict(each.networks["unet"].config)
        made = {"unet": reference.convert_ldm_unet_checkpoint(dict(tensors), config)}
        config = dict(each.networks["vae"].config)
        made["vae"] = reference.convert_ldm_vae_checkpoint(dict(tensors), config)
        if family != "2.x":
            made["text_encoder"] = reference.convert_ldm_clip_checkpoint(dict(tensors))
        else:
            made["text_encoder"] = reference.convert_open_clip_checkpoint(
                each.networks["text_encoder"], dict(tensors)
            )
        if family == "SDXL":
            made["text_encoder_2"] = reference.convert_open_clip_checkpoint(
                each.networks["text_encoder_2"], dict(tensors), prefix=XL_2
            )
        for name, theirs in made.items():
            ours = weights(opened.components[name], each.networks[name])
            assert ours.keys() == theirs.keys(), (family, name)
            for key, tensor in theirs.items():
                assert torch.equal(ours[key], tensor), (family, name, key)


FULL = {  # millions of parameters, and tensors, of the UNet
    "1.x": (859.5, 686),
    "2.x": (865.9, 686),
    "SDXL": (2567.5, 1680),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_full_size_has_every_name_and_shape_of_its_folder(
    family: str, tmp_path: Path
) -> None:
    with torch.device("meta"):
        each = whole(family, full=True)
    path = write_header(tmp_path / "model.safetensors", each.tensors())
    opened, file = SingleFile.open(path), TensorFile.open(path)
    for name, network in each.networks.items():
        component, wanted = opened.components[name], expected(network)
        assert said(built(name, dict(component.config))) == said(network), name
        assert component.tensors.keys() == wanted.keys()
        for key, at in component.tensors.items():
            shape = part_shape(file.entries[at.name].shape, at.part)
            shape = shape[::-1] if at.transposed else shape
            assert tuple(wanted[key].shape) == shape[: wanted[key].ndim], key
            assert set(shape[wanted[key].ndim :]) <= {1}
    numbers = sum(weight.numel() for weight in each.networks["unet"].parameters())
    assert (round(numbers / 1e6, 1), len(opened.components["unet"].tensors)) == FULL[family]
    assert opened.notes == () or "does not say what its UNet predicts" in opened.notes[0]
    size = {"1.x": 64, "2.x": 64, "SDXL": 128}[family]
    assert opened.components["unet"].config["sample_size"] == size


def also(**tensors: Tensor) -> Change:
    return lambda state: state.update({key.replace("__", "."): v for key, v in tensors.items()})


def renamed(old: str, new: str) -> Change:
    def change(state: State) -> None:
        for name in [name for name in state if name.startswith(old)]:
            state[new + name.removeprefix(old)] = state.pop(name)

    return change


def with_schedule(state: State) -> None:
    """What CompVis' training leaves beside the networks."""
    for name in ("betas", "alphas_cumprod", "alphas_cumprod_prev", "posterior_variance", "logvar"):
        state[name] = torch.ones(1000)
    state["global_step"] = torch.tensor(840_000)
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["model_ema.num_updates"] = torch.tensor(7)
    state["first_stage_model.loss.logvar"] = torch.zeros(())
    state["first_stage_model.loss.discriminator.main.0.weight"] = torch.zeros(4, 3, 4, 4)
    for name in [name for name in state if name.startswith(UNET)]:
        flat = name.removeprefix("model.").replace(".", "")
        state[f"model_ema.{flat}"] = torch.zeros_like(state[name])


def with_last_layer(state: State) -> None:
    """OpenCLIP-H as Stability AI's files have it: a layer that is not used, and a projection."""
    for name in [name for name in state if f"{OPEN_CLIP}transformer.resblocks.1." in name]:
        last = name.replace("resblocks.1.", "resblocks.2.")
        state[last] = torch.full_like(state[name], 7)
    state[f"{OPEN_CLIP}text_projection"] = torch.ones(128, 128)
    state[f"{OPEN_CLIP}logit_scale"] = torch.tensor(4.6)
    state[f"{OPEN_CLIP}attn_mask"] = torch.zeros(77, 77)


def by_names_of_transformers(each: Whole) -> Change:
    def change(state: State) -> None:
        for name in [name for name in state if name.startswith(OPEN_CLIP)]:
            del state[name]
        state.update(prefixed(CLIP, whole_clip(each.networks["text_encoder"].state_dict())))

    return change


POSITIONS = torch.arange(77)[None]
FORMS: dict[str, tuple[str, Change, str]] = {
    "what training leaves": ("1.x", with_schedule, "of 'model_ema'"),
    "position ids": (
        "1.x",
        also(**{f"{CLIP}text_model.embeddings.position_ids": POSITIONS}),
        "",
    ),
    "as NovelAI's was named": ("1.x", renamed(f"{CLIP}text_model.", CLIP), ""),
    "vae.": ("1.x", renamed(VAE, "vae."), ""),
    "vae., SDXL": ("SDXL", renamed(VAE, "vae."), ""),
    "a layer that is not used": ("2.x", with_last_layer, ""),
    "SGM's layout, as SD-Turbo": (
        "2.x",
        renamed("cond_stage_model.", "conditioner.embedders.0."),
        "",
    ),
    "a logit scale": ("SDXL", also(**{f"{XL_2}logit_scale": torch.tensor(4.6)}), ""),
    "position ids, SDXL": (
        "SDXL",
        also(**{f"{XL}text_model.embeddings.position_ids": POSITIONS}),
        "",
    ),
    "others' notes": (
        "SDXL",
        also(**{f"note_{i}__a": torch.zeros(1) for i in range(9)}),
        "5 other",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_as_they_are_found(form: str, wholes: dict[str, Whole], tmp_path: Path) -> None:
    family, change, note = FORMS[form]
    tensors = wholes[family].tensors()
    change(tensors)
    opened = SingleFile.open(write(tmp_path / "model.safetensors", tensors))
    check(opened, wholes[family].networks)
    passed = [line for line in opened.notes if "passed over" in line]
    assert len(passed) == bool(note)
    assert all(note in line for line in passed)


def test_the_text_encoder_of_2_may_have_the_names_of_transformers(tmp_path: Path) -> None:
    """It is known by its width, and has OpenCLIP's activation."""
    with torch.device("meta"):
        each = whole("2.x", full=True)
    tensors = each.tensors()
    by_names_of_transformers(each)(tensors)
    opened = SingleFile.open(write_header(tmp_path / "model.safetensors", tensors))
    assert opened.family == "SD 2.x"
    text = opened.components["text_encoder"]
    assert said(built("text_encoder", dict(text.config))) == said(each.networks["text_encoder"])
    assert text.tensors.keys() == expected(each.networks["text_encoder"]).keys()


BIAS = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
EMPTY = torch.zeros(0)
PREDICTIONS: dict[str, tuple[str, Change, dict[str, str], str | None, str]] = {
    "SDXL by v_pred": ("SDXL", also(v_pred=EMPTY), {}, None, "v_prediction"),
    "SDXL by its header": (
        "SDXL",
        lambda _: None,
        {"modelspec.prediction_type": "v"},
        None,
        "v_prediction",
    ),
    "1.x by its header": (
        "1.x",
        lambda _: None,
        {"modelspec.prediction_type": "v_prediction"},
        None,
        "v_prediction",
    ),
    "a header that says nothing": (
        "1.x",
        lambda _: None,
        {"modelspec.prediction_type": "x" * 999},
        None,
        "epsilon",
    ),
    "1.x, asked for": ("1.x", lambda _: None, {}, "v_prediction", "v_prediction"),
    "2.x by its bias, wide": ("2.x", also(**{BIAS: torch.randn(64)}), {}, None, "v_prediction"),
    "2.x by its bias, narrow": ("2.x", also(**{BIAS: torch.zeros(64)}), {}, None, "epsilon"),
    "2.x, asked for": ("2.x", also(**{BIAS: torch.randn(64)}), {}, "epsilon", "epsilon"),
    "2.x by its header": (
        "2.x",
        also(**{BIAS: torch.randn(64)}),
        {"modelspec.prediction_type": "epsilon"},
        None,
        "epsilon",
    ),
    "SD-Turbo": (
        "2.x",
        renamed("cond_stage_model.", "conditioner.embedders.0."),
        {},
        None,
        "epsilon",
    ),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_what_a_file_predicts(case: str, wholes: dict[str, Whole], tmp_path: Path) -> None:
    family, change, metadata, asked, expected_type = PREDICTIONS[case]
    tensors = wholes[family].tensors()
    change(tensors)
    path = write(tmp_path / "model.safetensors", tensors, **metadata)
    opened = SingleFile.open(path, asked)  # type: ignore[arg-type]
    assert opened.prediction_type == expected_type
    assert opened.scheduler["prediction_type"] == expected_type
    guessed = case.startswith("2.x by its bias")
    assert any("does not say what its UNet predicts" in note for note in opened.notes) == guessed
    if family == "2.x":
        side = 96 if expected_type == "v_prediction" else 64
        assert opened.components["unet"].config["sample_size"] == side


REAL = json.loads((Path(__file__).parent / "scheduler_configs.json").read_text())
SCHEDULERS: dict[str, tuple[str, Change, str | None, str]] = {
    "1.x": ("1.x", lambda _: None, None, "Stable Diffusion 1.5"),
    "2.x": ("2.x", lambda _: None, "v_prediction", "Stable Diffusion 2.1"),
    "2.x, 512": ("2.x", lambda _: None, "epsilon", "Stable Diffusion 1.5"),
    "SDXL": ("SDXL", lambda _: None, None, "SDXL base"),
}


def settled(folder: Path, config: dict[str, Any]) -> SchedulerConfig:
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    return SchedulerConfig.read(folder / "scheduler_config.json")[0]


def check_scheduler(folder: Path, opened: SingleFile, published: dict[str, Any]) -> None:
    """Every sampler reads it as it reads the published file."""
    ours, theirs = settled(folder, dict(opened.scheduler)), settled(folder, published)
    assert (ours.own, ours.sampler, ours.samplers) == (theirs.own, theirs.sampler, theirs.samplers)
    for sampler in ours.samplers:
        assert ours.config(sampler) == theirs.config(sampler), sampler


@pytest.mark.parametrize("case", SCHEDULERS)
def test_the_scheduler_is_that_of_the_published_folder(
    case: str, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    family, change, asked, name = SCHEDULERS[case]
    tensors = wholes[family].tensors()
    change(tensors)
    path = write(tmp_path / "model.safetensors", tensors)
    opened = SingleFile.open(path, asked)  # type: ignore[arg-type]
    check_scheduler(tmp_path, opened, REAL[name]["config"])
    assert opened.index["scheduler"] == ["diffusers", REAL[name]["config"]["_class_name"]]


def test_a_schedule_that_ends_in_noise_has_trailing_steps(
    wholes: dict[str, Whole], tmp_path: Path
) -> None:
    tensors = wholes["SDXL"].tensors() | {"v_pred": EMPTY, "ztsnr": EMPTY}
    opened = SingleFile.open(write(tmp_path / "model.safetensors", tensors))
    read = settled(tmp_path, dict(opened.scheduler))
    assert (read.sampler, read.own.prediction_type) == ("euler", "v_prediction")
    assert (read.own.rescale_betas_zero_snr, read.own.timestep_spacing) == (True, "trailing")
    assert not any("passed over" in note for note in opened.notes)
    # Nothing of it is left if its user says that it predicts noise.
    told = settled(tmp_path, dict(SingleFile.open(opened.path, "epsilon").scheduler))
    assert (told.own.rescale_betas_zero_snr, told.own.timestep_spacing) == (False, "leading")


def test_a_latent_consistency_model_is_told_by_its_guidance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    each = whole("1.x", time_cond_proj_dim=256)
    opened = SingleFile.open(write(tmp_path / "model.safetensors", each.tensors()))
    check(opened, each.networks)
    assert opened.components["unet"].config["time_cond_proj_dim"] == 256
    ours = settled(tmp_path, dict(opened.scheduler))
    assert ours.own == settled(tmp_path, REAL["LCM of Stable Diffusion"]["config"]).own


def test_sd_turbo_has_trailing_steps_of_euler(wholes: dict[str, Whole], tmp_path: Path) -> None:
    tensors = wholes["2.x"].tensors()
    renamed("cond_stage_model.", "conditioner.embedders.0.")(tensors)
    opened = SingleFile.open(write(tmp_path / "model.safetensors", tensors))
    read = settled(tmp_path, dict(opened.scheduler))
    assert (read.sampler, read.own.timestep_spacing) == ("euler", "trailing")


def test_what_no_shape_tells_is_the_family_s(wholes: dict[str, Whole], tmp_path: Path) -> None:
    files = {
        family: SingleFile.open(write(tmp_path / f"{family}.safetensors", each.tensors()))
        for family, each in wholes.items()
    }
    acts = {"1.x": ["quick_gelu"], "2.x": ["gelu"], "SDXL": ["quick_gelu", "gelu"]}
    pads = {"1.x": ["<|endoftext|>"], "2.x": ["!"], "SDXL": ["<|endoftext|>", "!"]}
    for family, opened in files.items():
        texts = [
            opened.components[n]
            for n in ("text_encoder", "text_encoder_2")
            if n in opened.components
        ]
        assert [text.config["hidden_act"] for text in texts] == acts[family]
        assert [each["pad_token"] for each in opened.tokenizers.values()] == pads[family]
        factor = 0.13025 if family == "SDXL" else 0.18215
        assert opened.components["vae"].config["scaling_factor"] == factor
        upcast = opened.components["vae"].config.get("force_upcast")
        assert upcast == (True if family == "SDXL" else None)
        assert {"unet", "vae", "scheduler", *opened.tokenizers} <= opened.index.keys()
    assert files["SDXL"].index["_class_name"] == "StableDiffusionXLPipeline"
    assert files["SDXL"].index["force_zeros_for_empty_prompt"] is True


def test_inpainting_is_told_by_its_input_channels(tmp_path: Path) -> None:
    each = whole("1.x", in_channels=9)
    opened = SingleFile.open(write(tmp_path / "model.safetensors", each.tensors()))
    check(opened, each.networks)
    assert opened.components["unet"].config["in_channels"] == 9
    assert opened.index["_class_name"] == "StableDiffusionInpaintPipeline"
    check_scheduler(tmp_path, opened, REAL["Stable Diffusion 1.5 inpainting"]["config"])


def test_halves_are_read_as_the_dtype_that_is_asked_for(
    wholes: dict[str, Whole], tmp_path: Path
) -> None:
    each = wholes["SDXL"]
    halves = {name: tensor.half() for name, tensor in each.tensors().items()}
    opened = SingleFile.open(write(tmp_path / "model.safetensors", halves))
    for name, network in each.networks.items():
        wanted = expected(network)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            read = opened.components[name].read(wanted, "cpu", dtype)
            for key, tensor in wanted.items():
                assert torch.equal(read[key], tensor.half().to(dtype)), key
                assert read[key].is_contiguous()


def test_a_file_may_be_a_link(wholes: dict[str, Whole], tmp_path: Path) -> None:
    """Its user named it; what leaves a folder is another matter."""
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path / "elsewhere/model.safetensors", wholes["1.x"].tensors())
    (tmp_path / "link.safetensors").symlink_to(path)
    check(SingleFile.open(tmp_path / "link.safetensors"), wholes["1.x"].networks)


def only(*prefixes: str) -> Change:
    def change(state: State) -> None:
        for name in [name for name in state if not name.startswith(prefixes)]:
            del state[name]

    return change


def made_of(*names: str) -> Change:
    def change(state: State) -> None:
        state.clear()
        state.update({name: torch.zeros(2) for name in names})

    return change


def both(*changes: Change) -> Change:
    return lambda state: [change(state) for change in changes]


def refiner(state: State) -> None:
    only(UNET, VAE, XL_2)(state)
    renamed(XL_2, "conditioner.embedders.0.model.")(state)


REFUSED: dict[str, tuple[str, Change, str]] = {
    "a UNet": ("1.x", only(UNET), "seems to be a UNet without a VAE and text encoders"),
    "a UNet without its prefix": (
        "1.x",
        both(only(UNET), renamed(UNET, "")),
        "seems to be a UNet alone",
    ),
    "a UNet of diffusers": ("1.x", made_of("down_blocks.0.resnets.0.norm1.weight"), "by the names"),
    "a VAE": ("1.x", both(only(VAE), renamed(VAE, "")), "seems to be a VAE alone"),
    "a VAE with its prefix": ("1.x", only(VAE), "a VAE without a UNet and text encoders"),
    "a text encoder": ("1.x", both(only(CLIP), renamed(CLIP, "")), "a text encoder alone"),
    "no VAE": ("SDXL", only(UNET, "conditioner"), "a UNet and text encoders without a VAE"),
    "no text encoders": ("SDXL", only(UNET, VAE), "a UNet and a VAE without text encoders"),
    "one text encoder": ("SDXL", only(UNET, VAE, XL), "seems to be"),
    "the refiner": ("SDXL", refiner, "seems to be the refiner of SDXL"),
    "a LoRA of kohya": (
        "1.x",
        made_of("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"),
        "a LoRA",
    ),
    "a LoRA of diffusers": (
        "1.x",
        made_of("unet.down_blocks.0.attn1.to_q.lora_A.weight"),
        "a LoRA",
    ),
    "a LoRA of transformers": (
        "1.x",
        made_of("transformer.blocks.0.lora_B.default.weight"),
        "a LoRA",
    ),
    "a LoHa": ("1.x", made_of("lycoris_unet_x.hada_w1_a"), "a LoRA"),
    "a ControlNet": ("1.x", made_of("control_model.input_hint_block.0.weight"), "a ControlNet"),
    "an IP-Adapter": ("1.x", made_of("image_proj.proj.weight"), "an IP-Adapter"),
    "AnimateDiff": ("1.x", made_of("down_blocks.0.motion_modules.0.norm.weight"), "AnimateDiff"),
    "an embedding": ("1.x", made_of("emb_params"), "an embedding"),
    "an embedding of SDXL": ("SDXL", made_of("clip_l", "clip_g"), "an embedding"),
    "Flux": ("1.x", made_of("double_blocks.0.img_attn.qkv.weight", "img_in.weight"), "Flux"),
    "Flux as ComfyUI has it": (
        "1.x",
        made_of("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "vae.decoder.conv_in"),
        "Flux",
    ),
    "SD3": (
        "1.x",
        made_of("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.bias", "text_encoders.a"),
        "Stable Diffusion 3",
    ),
    "a transformer": (
        "1.x",
        made_of("blocks.0.adaLN_modulation.1.bias"),
        "a diffusion transformer",
    ),
    "Playground": ("SDXL", also(edm_mean=torch.zeros(4)), "EDM's noise levels"),
    "CosXL": ("SDXL", also(**{"edm_vpred.sigma_max": torch.tensor(120.0)}), "EDM's noise levels"),
    "unCLIP": (
        "2.x",
        also(**{f"{UNET}label_emb.0.0.weight": torch.zeros(8, 8)}),
        "another added condition",
    ),
    "an EMA alone": ("1.x", made_of("model_ema.diffusion_modelout0bias"), "EMA"),
    "nothing": ("1.x", made_of(), "seems to be empty"),
    "something": ("1.x", made_of("classifier.weight"), "of no known kind, with tensors as 'class"),
    "a tensor that no UNet has": (
        "1.x",
        also(**{f"{UNET}spare": torch.zeros(1)}),
        "unknown tensor 'model.diffusion_model.spare'",
    ),
    "a tensor that no VAE has": (
        "1.x",
        also(**{f"{VAE}encoder.down.0.attn.0.q.weight": torch.zeros(1)}),
        "unknown tensor",
    ),
    "a tensor that no text encoder has": (
        "2.x",
        also(**{f"{OPEN_CLIP}visual.proj": torch.zeros(1)}),
        "unknown tensor",
    ),
    "no bias": ("1.x", lambda s: s.pop(f"{UNET}out.2.bias"), "missing tensor 'conv_out.bias'"),
    "no first convolution": (
        "1.x",
        lambda s: s.pop(f"{UNET}input_blocks.0.0.weight"),
        f"missing tensor '{UNET}input_blocks.0.0.weight'",
    ),
    "a shape": (
        "1.x",
        also(**{f"{UNET}out.2.bias": torch.zeros(5)}),
        "tensor 'model.diffusion_model.out.2.bias' has shape [5]; [4] needed",
    ),
    "a shape that cannot be": (
        "1.x",
        also(**{f"{UNET}input_blocks.0.0.weight": torch.zeros(5)}),
        f"tensor '{UNET}input_blocks.0.0.weight' has shape [5], which cannot be",
    ),
    "whole numbers": (
        "2.x",
        also(**{f"{OPEN_CLIP}ln_final.bias": torch.zeros(128, dtype=torch.int64)}),
        "is I64; allowed: F64, F32, F16, BF16",
    ),
    "a fused weight of no thirds": (
        "2.x",
        also(**{f"{OPEN_CLIP}transformer.resblocks.0.attn.in_proj_bias": torch.zeros(383)}),
        "has shape [383]; [384] needed",
    ),
    "a depth model": (
        "2.x",
        also(**{f"{UNET}input_blocks.0.0.weight": torch.zeros(64, 5, 3, 3)}),
        "in_channels 5 (a model for depth); allowed: 4, or 9 for inpainting",
    ),
    "texts of another width": (
        "1.x",
        lambda s: s.update(
            {
                n: torch.zeros(w.shape[0], 48)
                for n, w in s.items()
                if "attn2.to_k" in n or "attn2.to_v" in n
            }
        ),
        "its UNet reads texts of width 48; its text encoders make 32",
    ),
    "a distilled relative": (
        "SDXL",
        lambda s: [
            s.pop(n)
            for n in list(s)
            if n.startswith(f"{UNET}input_blocks.7.1.transformer_blocks.2")
        ],
        "transformers of 2 to 3 blocks at level 2",
    ),
    "no middle": (
        "SDXL",
        lambda s: [s.pop(n) for n in list(s) if n.startswith(f"{UNET}middle_block.1.")],
        "transformers of 0 blocks in the middle",
    ),
    "a level less": (
        "1.x",
        lambda s: [s.pop(n) for n in list(s) if n.startswith(f"{UNET}input_blocks.6.0.op")],
        "blocks do not halve at equal distances",
    ),
    "a name twice": (
        "1.x",
        also(**{f"{CLIP}embeddings.token_embedding.weight": torch.zeros(99, 32)}),
        "comes twice",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_whole_model_is_refused_in_one_line(
    case: str, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    family, change, message = REFUSED[case]
    tensors = wholes[family].tensors()
    change(tensors)
    path = write_header(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError) as caught:
        check_forms(path, wholes[family].networks)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert message in told
    assert told.isprintable()
    assert len(told.replace(str(path), "")) <= 300, told


def empty(*names: str) -> bytes:
    """A header of tensors that hold nothing, with the parts that a whole model has."""
    parts = (f"{UNET}input_blocks.0.0.weight", f"{VAE}decoder.conv_in.weight", f"{CLIP}a")
    entry = {"dtype": "F16", "shape": [0, 2**50], "data_offsets": [0, 0]}
    return header(dict.fromkeys((*parts, *names), entry))


MANY: dict[str, bytes] = {
    "names": empty(*map(str, range(50_000))),
    "long names": empty("lora" * 500_000, "a." * 900_000),
    "levels": empty(*(f"{UNET}input_blocks.{2 * i}.0.op.weight" for i in range(1, 499))),
    "levels of a VAE": empty(*(f"{VAE}encoder.down.{i}.block.0.conv1.weight" for i in range(999))),
    "transformers": empty(
        *(f"{UNET}input_blocks.{i % 100}.1.transformer_blocks.{i // 100}.a" for i in range(15_000))
    ),
    "layers": empty(*(f"{CLIP}text_model.encoder.layers.{i}.a" for i in range(15_000))),
}


@pytest.mark.parametrize("kind", MANY)
def test_a_header_that_takes_long_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(MANY[kind])
    began, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        SingleFile.open(tmp_path / "model.safetensors")
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 256 << 10
    assert str(caught.value).isprintable()
    assert len(str(caught.value).removeprefix(str(tmp_path))) <= 300


def test_every_changed_bit_of_a_header_is_refused_or_makes_no_difference(
    wholes: dict[str, Whole], tmp_path: Path
) -> None:
    """To the names and shapes that a folder has: what opens is what was there."""
    path = write_header(tmp_path / "model.safetensors", wholes["1.x"].tensors())
    size, chance = int.from_bytes(path.read_bytes()[:8], "little"), random.Random(0)
    for _ in range(60):
        at, bit = 8 + chance.randrange(size), 1 << chance.randrange(8)
        flip(path, at, bit)
        with contextlib.suppress(CheckpointError):
            check_forms(path, wholes["1.x"].networks)
        flip(path, at, bit)
    check_forms(path, wholes["1.x"].networks)


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ bit]))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".pkl"])
def test_a_pickle_is_never_opened(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError) as caught:
        SingleFile.open(path)
    assert f"{path}: a pickle file can run code when it is read and is never opened" in str(
        caught.value
    )
    assert "safetensors.torch.save_file" in str(caught.value)
    assert str(caught.value).isprintable()
    # By another name, too.
    path.rename(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="by its first bytes a pickle file can run code"):
        SingleFile.open(tmp_path / "model.safetensors")


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        SingleFile.open(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a directory"):
        SingleFile.open(tmp_path)


def test_open_clip_has_its_projection_the_other_way_round(wholes: dict[str, Whole]) -> None:
    """`pooled @ text_projection` there, a linear layer here: the same numbers."""
    encoder = wholes["SDXL"].networks["text_encoder_2"]
    pooled = torch.randn(2, 128)
    theirs = pooled @ open_clip_state(encoder.state_dict())["text_projection"]
    torch.testing.assert_close(encoder.text_projection(pooled), theirs)


def test_a_text_encoder_of_fewer_words_than_the_tokenizer_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "one.safetensors", whole("1.x").tensors())
    with pytest.raises(CheckpointError, match=r"one.safetensors: the tokenizer has 49408 tokens"):
        open_checkpoint(path)
