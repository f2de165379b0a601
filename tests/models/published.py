"""Configurations as published: what unet/config.json and vae/config.json hold, key for key."""

from typing import Any

Values = dict[str, Any]

_FOUR: Values = {
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
_SINCE_0_18: Values = {  # keys that diffusers has written since, at their defaults
    "addition_embed_type": None,
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": None,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
    "upcast_attention": None,
    "use_linear_projection": False,
}
_SINCE_0_24: Values = {
    "attention_type": "default",
    "dropout": 0.0,
    "reverse_transformer_layers_per_block": None,
}
_1: Values = {**_FOUR, "attention_head_dim": 8, "cross_attention_dim": 768}
_2: Values = {
    **_FOUR,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": True,
}
_XL: Values = {
    **_FOUR,
    **_SINCE_0_18,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "use_linear_projection": True,
}


def _named(version: str, values: Values, **others: Any) -> Values:
    written = {"_class_name": "UNet2DConditionModel", "_diffusers_version": version}
    return {**written, **values, **others}


UNETS: dict[str, Values] = {
    "1.4": _named("0.2.2", _1, sample_size=64),
    "1.5": _named("0.6.0", _1, sample_size=64),
    "1.5 inpainting": _named("0.6.0.dev0", _1, in_channels=9, sample_size=32, _name_or_path="./x"),
    "2.1 base": _named("0.10.0.dev0", _2, sample_size=64, _name_or_path="./x"),
    "2.1": _named("0.10.0.dev0", _2, sample_size=96, upcast_attention=True),
    "XL": _named("0.19.0.dev0", _XL),
    "XL Turbo": _named("0.24.0.dev0", _XL, **_SINCE_0_24, sample_size=64),
    "LCM": _named(
        "0.22.0.dev0",
        {**_1, **_SINCE_0_18, **_SINCE_0_24},
        sample_size=96,
        time_cond_proj_dim=256,
        upcast_attention=False,
    ),
}
_VAE: Values = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
VAES: dict[str, Values] = {
    "1.4": {"_diffusers_version": "0.2.2", **_VAE},
    "1.5": {"_diffusers_version": "0.6.0", **_VAE, "norm_num_groups": 32},
    "2.1": {
        "_diffusers_version": "0.10.0.dev0",
        **_VAE,
        "norm_num_groups": 32,
        "sample_size": 768,
    },
    "XL": {
        "_diffusers_version": "0.20.0.dev0",
        "_name_or_path": "../sdxl-vae/",
        **_VAE,
        "force_upcast": True,
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
    },
}


def tiny_unet(name: str) -> Values:
    """A network of the same shape with narrow layers, its keys at the same places."""
    values = dict(UNETS[name])
    levels = len(values["block_out_channels"])
    heads = 8 if isinstance(values["attention_head_dim"], int) else [1, 2, 4, 4][:levels]
    small: Values = {
        "block_out_channels": [32, 64, 64, 64][:levels],
        "attention_head_dim": heads,
        "cross_attention_dim": 24,
        "sample_size": 16,
    }
    if values.get("addition_embed_type"):
        small |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 60}
    if values.get("time_cond_proj_dim"):
        small["time_cond_proj_dim"] = 16
    return {**values, **small}


def tiny_vae(name: str) -> Values:
    """As `tiny_unet`."""
    small = {"block_out_channels": [32, 32, 64, 64], "sample_size": 64}
    return {**VAES[name], **small}


def own(values: Values) -> Values:
    """The keywords of diffusers' class, which knows none that begin with an underscore."""
    return {key: value for key, value in values.items() if not key.startswith("_")}
