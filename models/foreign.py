"""Keys that other classes and versions of diffusers leave in a configuration without effect.

diffusers passes over every key that a class does not know, typing errors among them. Here a key is
passed over if it is in these tables, and only with a value that changes no pixel of ours; any other
is an error. diffusers 0.42.1, and the files of versions since 0.0.4. Standard library only.
"""

from collections.abc import Mapping
from typing import Any

from models.bounds import brief

Allowed = tuple[object, ...] | None  # values that change nothing; None: all values
_SHOWN = 4  # class names in a message

# Those whose configuration DDIM can sample by: networks that predict epsilon, v or the sample at a
# timestep of a schedule of betas. diffusers calls them compatible, and EDMEulerScheduler too, whose
# networks are scaled otherwise and know no betas.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
)
_REASONS = {
    "Flow": "flow matching is not DDIM",
    "EDM": "its networks are scaled differently from DDIM's",
    "UNet2DConditionModel": "it draws from prompts",
    "VQModel": "its latents are entries of a codebook",
}
_FIXED = (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
_SCHEDULER: Mapping[str, Allowed] = {
    "variance_type": _FIXED,  # if it is learned, the network has twice the channels
    "timestep_type": ("discrete",),  # otherwise the network reads the logarithm of a noise level
    "use_flow_sigmas": (False,),
    "predict_epsilon": (True,),  # before prediction_type; False meant "sample"
    "timestep_values": (None,),
    **dict.fromkeys(  # how other samplers choose and make their steps
        [
            "algorithm_type",
            "corrector_order",
            "disable_corrector",
            "euler_at_final",
            "final_sigmas_type",
            "flow_shift",
            "interpolation_type",
            "lambda_min_clipped",
            "lower_order_final",
            "noise_sampler_seed",
            "original_inference_steps",
            "predict_x0",
            "predictor_order",
            "shift_terminal",
            "sigma_max",
            "sigma_min",
            "skip_prk_steps",
            "solver_order",
            "solver_p",
            "solver_type",
            "tau_func",
            "tensor_format",
            "time_shift_type",
            "timestep_scaling",
            "use_beta_sigmas",
            "use_dynamic_shifting",
            "use_exponential_sigmas",
            "use_karras_sigmas",
            "use_lu_lambdas",
        ]
    ),
}
_UNET: Mapping[str, Allowed] = {  # of UNet2DConditionModel
    **dict.fromkeys(  # of cross-attention, which no block of UNet2DModel has
        [
            "attention_type",
            "cross_attention_dim",
            "cross_attention_norm",
            "dual_cross_attention",
            "mid_block_only_cross_attention",
            "only_cross_attention",
            "reverse_transformer_layers_per_block",
            "transformer_layers_per_block",
            "upcast_attention",
            "use_linear_projection",
        ]
    ),
    "addition_embed_type": (None,),
    "addition_embed_type_num_heads": None,
    "addition_time_embed_dim": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,),
    "projection_class_embeddings_input_dim": (None,),
    "quantization_config": (None,),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
}
_VAE: Mapping[str, Allowed] = {
    "double_z": (True,),
    "norm_type": ("group",),
    "quantization_config": (None,),
    "use_slicing": None,  # in how many parts, not what
    "use_tiling": None,
}
_TABLES = {"DDIMScheduler": _SCHEDULER, "UNet2DModel": _UNET, "AutoencoderKL": _VAE}


def allowed_classes(class_name: str) -> tuple[str, ...]:
    """The classes whose configuration is read as that of `class_name`, itself among them."""
    return SCHEDULERS if class_name in SCHEDULERS else (class_name,)


def check_class(key: str, found: object, class_name: str) -> None:
    """Raise `ValueError` unless `found` is one of the `allowed_classes`; `key` is named."""
    allowed = allowed_classes(class_name)
    if found in allowed:
        return
    reasons = [why for part, why in _REASONS.items() if isinstance(found, str) and part in found]
    listed = ", ".join(repr(name) for name in allowed[:_SHOWN])
    raise ValueError(
        f"{key} is {brief(found)}{''.join(f' ({why})' for why in reasons[:1])}; allowed: {listed}"
        f"{', ...' if len(allowed) > _SHOWN else ''}"
    )


def sift(class_name: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A configuration without its foreign keys, and their names in order.

    Values that their class took by default are left out as well, where a file names them: diffusers
    lets another class take its own default.

    Raises:
        ValueError: a foreign key with a value that would change what is drawn.
    """
    default = values.get("_use_default_values")
    unset = {key for key in default if isinstance(key, str)} if isinstance(default, list) else ()
    table, own, passed = _TABLES.get(class_name, {}), {}, []
    for key, value in values.items():
        if key in unset:
            continue
        if key not in table:
            own[key] = value
            continue
        allowed = table[key]
        if allowed is not None and not any(_same(value, other) for other in allowed):
            listed = ", ".join("null" if other is None else repr(other) for other in allowed)
            raise ValueError(f"{key} is {brief(value)}; allowed: {listed}")
        passed.append(key)
    return own, tuple(sorted(passed))


def _same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other
