"""The networks of Stable Diffusion against diffusers', with the same random weights."""

import json
from pathlib import Path
from typing import Any

import diffusers
import openvino as ov
import pytest
import torch
from torch import Tensor, nn

from app.engine.backends.openvino import convert
from models.conditional_unet import UNet2DCondition
from models.config import AutoencoderKLConfig, ConfigError, UNet2DConditionConfig
from models.layers import attend
from models.vae import AutoencoderKL
from tests.models.published import UNETS, VAES, own, tiny_unet, tiny_vae
from tests.models.test_parity import TOLERANCE, relative

SHAPES = ("1.5", "2.1", "1.5 inpainting", "XL", "LCM")
# The lowest level is 2 x 1. At 1 x 1 a group norm has one or two values in all, and where these are
# almost equal, the rounding of either network grows to 1e-4.
SIZE = (16, 8)
F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def both(values: dict[str, Any]) -> tuple[UNet2DCondition, Any]:
    """Our network and diffusers', of the same weights."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(**own(values)).eval()
    ours = UNet2DCondition(UNet2DConditionConfig.from_dict(values, "unet/config.json")).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def made(values: dict[str, Any]) -> UNet2DCondition:
    torch.manual_seed(0)
    return UNet2DCondition(UNet2DConditionConfig.from_dict(values, "unet/config.json")).eval()


def rows(unet: UNet2DCondition, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Latents, timesteps, texts and, where it reads them, added conditions; each row its own."""
    torch.manual_seed(1)
    config, t = unet.config, torch.tensor([0.0, 17.0, 499.5, 999.0])
    x, context = torch.randn(4, config.in_channels, *size), torch.randn(4, 77, 24)
    if not config.pooled_dim:
        return x, t, context
    return x, t, context, unet.added(torch.randn(4, config.pooled_dim), time_ids())


def time_ids() -> Tensor:
    return torch.tensor([[1024, 768, 0, 64, 1024, 1024]]) + torch.arange(4)[:, None] * 8


@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_a_tiny_one_of_each_shape(name: str) -> None:
    ours, theirs = both(tiny_unet(name))
    for size in (SIZE, (8, 24)):
        x, t, context, *added = rows(ours, size)
        given = None
        if added:
            pooled = added[0][:, : ours.config.pooled_dim]
            given = {"text_embeds": pooled, "time_ids": time_ids()}
        expected = theirs(x, t, context, added_cond_kwargs=given).sample
        assert relative(ours(x, t, context, *added), expected) <= TOLERANCE


CHANGES: dict[str, dict[str, Any]] = {
    "depths by level": {"transformer_layers_per_block": [2, 1, 0, 3]},
    "heads by level, conv projections": {"attention_head_dim": [1, 4, 2, 16]},
    "no mid block": {"mid_block_type": None},
    "three layers": {"layers_per_block": 3},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "sines first": {"flip_sin_to_cos": False, "freq_shift": 1},
    "mid scale, asymmetric padding": {"mid_block_scale_factor": 1.4, "downsample_padding": 0},
    "centred input, wide embedding": {"center_input_sample": True, "time_embedding_dim": 48},
    "attention at the last level alone": {
        "down_block_types": [*["DownBlock2D"] * 3, "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", *["UpBlock2D"] * 3],
    },
    "attention on the way up alone": {"down_block_types": ["DownBlock2D"] * 4},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@torch.inference_mode()
def test_every_key_that_is_built(change: dict[str, Any]) -> None:
    ours, theirs = both(tiny_unet("1.5") | {"layers_per_block": 1} | change)
    x, t, context = rows(ours, SIZE)
    assert relative(ours(x, t, context), theirs(x, t, context).sample) <= TOLERANCE


@torch.inference_mode()
def test_a_distilled_network_s_guidance_goes_into_the_time_embedding() -> None:
    ours, theirs = both(tiny_unet("LCM"))
    x, t, context = rows(ours, SIZE)
    guidance = torch.randn(4, 16)
    expected = theirs(x, t, context, timestep_cond=guidance).sample
    embedded = ours.time_embedding(ours.time_features(t), guidance)
    assert relative(ours.predict(x, embedded, context), expected) <= TOLERANCE
    assert relative(ours(x, t, context), expected) > 100 * TOLERANCE


def without_time_embedding(unet: UNet2DCondition) -> nn.Module:
    """As `Denoiser.without_time_embedding` has it."""
    unet.time_features = unet.time_embedding = nn.Identity()  # type: ignore[assignment]
    return unet


TWO_LEVELS: dict[str, Any] = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [2, 4],
    "layers_per_block": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1.5", "XL"])
@torch.inference_mode()
def test_openvino_reads_the_text_as_an_input_and_predicts_the_same(name: str) -> None:
    """As the engine converts it: without its time embedding, for another number of rows."""
    deep = {"transformer_layers_per_block": [1, 2]} if name == "XL" else {}
    unet = made(tiny_unet(name) | TWO_LEVELS | deep)
    x, t, *texts = rows(unet, (8, 16))
    temb, expected = unet.time_embedding(unet.time_features(t)), unet(x, t, *texts)
    unet.time_features = unet.time_embedding = nn.Identity()  # type: ignore[assignment]
    given = (x, temb, *texts)
    assert torch.equal(unet(*given), expected)
    build = convert(unet, tuple(tensor[:2] for tensor in given))
    compiled = ov.Core().compile_model(build(4), "CPU", F32)

    def predict(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(compiled([tensor.numpy() for tensor in inputs])[0].copy())

    before = predict(*given)
    assert relative(before, expected) <= TOLERANCE
    after = predict(*beside_others(given))
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1:], before[1:])


def beside_others(given: tuple[Tensor, ...]) -> list[Tensor]:
    """The same first row, and others below it."""
    return [torch.cat([tensor[:1], tensor[1:].flip(0) + 1]) for tensor in given]


@pytest.mark.parametrize("name", ["1.5", "XL"])
@torch.inference_mode()
def test_no_row_reads_another_s_text(name: str) -> None:
    """To the bit: beside other rows, a row is the same; with another text, it is not."""
    unet = made(tiny_unet(name) | {"layers_per_block": 1})
    given = rows(unet, SIZE)
    before = unet(*given)
    assert torch.equal(unet(*beside_others(given))[0], before[0])
    context = given[2].clone()
    context[0, 76] += 1
    after = unet(*given[:2], context, *given[3:])
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])


@torch.inference_mode()
def test_an_added_condition_is_asked_for_where_there_is_one() -> None:
    plain, xl = made(tiny_unet("1.5")), made(tiny_unet("XL"))
    x, t, context, added = rows(xl, SIZE)
    with pytest.raises(ValueError, match=r"has an added condition, and was given none"):
        xl(x, t, context)
    with pytest.raises(ValueError, match=r"has no added condition, and .* shape \(4, 60\)"):
        plain(x, t, context, added)


def test_scores_are_float32_whether_or_not_upcast_attention_asks_for_it() -> None:
    """A score of 10^6 is infinite in float16."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 8, 64) * scale for scale in (300, 300, 1))
    expected = attend(q.half().float(), k.half().float(), v.half().float(), 2)
    assert relative(attend(q.half(), k.half(), v.half(), 2).float(), expected) <= 1e-3


@pytest.mark.parametrize("name", VAES)
@torch.inference_mode()
def test_a_tiny_vae_of_each_shape(name: str) -> None:
    torch.manual_seed(0)
    values = tiny_vae(name)
    config = AutoencoderKLConfig.from_dict(values, "vae/config.json")
    theirs = diffusers.AutoencoderKL(**own(values)).eval()
    ours = AutoencoderKL(config).eval()
    ours.load_state_dict(theirs.state_dict())
    scale = theirs.config.scaling_factor
    assert scale == (0.13025 if name == "XL" else 0.18215)
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    posterior = theirs.encode(images).latent_dist
    assert relative(ours.encode(images).mean, posterior.mean * scale) <= TOLERANCE
    latents = torch.randn(2, 4, 4, 6)
    assert relative(ours.decode(latents), theirs.decode(latents / scale).sample) <= TOLERANCE


@pytest.mark.parametrize("name", UNETS)
def test_published_files_are_read_whole(name: str, tmp_path: Path) -> None:
    """What a file leaves out has the defaults of diffusers' class (test_parity.py)."""
    (tmp_path / "config.json").write_text(json.dumps(UNETS[name]))
    config, notes = UNet2DConditionConfig.read(tmp_path / "config.json")
    assert notes == ()
    assert json.loads(json.dumps(config.to_dict())).items() >= own(UNETS[name]).items()
    assert config.pooled_dim == (1280 if "XL" in name else 0)


UNBUILT: dict[str, Any] = {
    "addition_embed_type": "text",
    "attention_type": "gated",
    "class_embed_type": "projection",
    "class_embeddings_concat": True,
    "conv_in_kernel": 5,
    "cross_attention_dim": [768, 768, 768, 768],
    "cross_attention_norm": "layer_norm",
    "down_block_types": [*["SimpleCrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "dual_cross_attention": True,
    "encoder_hid_dim": 1024,
    "encoder_hid_dim_type": "text_proj",
    "layers_per_block": [2, 2, 2, 2],
    "mid_block_only_cross_attention": True,
    "mid_block_type": "UNetMidBlock2D",
    "norm_num_groups": None,
    "num_attention_heads": 8,
    "num_class_embeds": 1000,
    "only_cross_attention": True,
    "quantization_config": {"bits": 4},
    "resnet_out_scale_factor": 2.0,
    "resnet_skip_time_act": True,
    "reverse_transformer_layers_per_block": [1, 1, 1, 1],
    "time_embedding_act_fn": "silu",
    "time_embedding_type": "fourier",
    "timestep_post_act": "silu",
    "transformer_layers_per_block": [[1, 2], 1, 1, 1],
    "an_unknown_key": None,
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    **{key: ({key: value}, key) for key, value in UNBUILT.items()},
    "heads of three levels": (
        {"attention_head_dim": [5, 10, 20]},
        "attention_head_dim has 3, block_out_channels has 4",
    ),
    "depths of three levels": (
        {"transformer_layers_per_block": [1, 1, 1]},
        "transformer_layers_per_block has 3, block_out_channels has 4",
    ),
    "heads that do not divide a width": (
        {"attention_head_dim": [7, 8, 8, 8]},
        "widths 320 must be multiples of attention_head_dim 7",
    ),
    "heads that do not divide the middle": (
        {"attention_head_dim": [8, 8, 8, 7]},
        "widths 1280 must be multiples of attention_head_dim 7",
    ),
    "very many transformers": (
        {"transformer_layers_per_block": 32, "layers_per_block": 16},
        "make 3200 transformer blocks; allowed: up to 512",
    ),
    "no sizes": (
        {"addition_embed_type": "text_time"},
        "addition_time_embed_dim is None, projection_class_embeddings_input_dim None; allowed",
    ),
    "no room for a text": (
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 1536,
        },
        "numbers, the second more than 6 times the first",
    ),
    "a latent that does not halve": ({"sample_size": 60}, "multiples of 8"),
    "too many positions": ({"sample_size": 136}, "18496 positions"),
    "a very wide text": ({"cross_attention_dim": 10**9}, "cross_attention_dim"),
    "no heads": ({"attention_head_dim": 0}, "attention_head_dim is 0"),
    "no heads at a level": ({"attention_head_dim": [8, 8, 0, 8]}, "attention_head_dim"),
    "a very deep level": ({"transformer_layers_per_block": [1, 1, 10**6, 1]}, "transformer_"),
    "very many levels": ({"transformer_layers_per_block": [1] * 10**5}, "transformer_layers"),
    "a condition without room for waves": ({"time_cond_proj_dim": 3}, "time_cond_proj_dim"),
    "a very wide condition": ({"time_cond_proj_dim": 10**9}, "time_cond_proj_dim"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_not_built_is_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(UNETS["1.5"] | change))
    with pytest.raises(ConfigError) as caught:
        UNet2DConditionConfig.read(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert message in told
    assert told.isprintable()
    assert len(told) <= 300 + len(str(path))
