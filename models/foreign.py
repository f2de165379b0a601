"""Keys that other classes and versions of diffusers leave in a configuration without effect.

Those of transformers as well, in the configurations of text encoders. diffusers passes over every
key that a class does not know, typing errors among them. Here a key of a network is passed over if
it is in these tables, and only with a value that changes no pixel of ours; any other is an error. A
key of a scheduler that nobody knows is passed over as well, unless it is spelt almost as a known
one. diffusers 0.42.1, and the files of versions since 0.0.4; transformers since 4.16. Standard
library only.
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from models.bounds import brief

Allowed = tuple[object, ...] | None  # values that change nothing; None: all values
_SHOWN = 4  # class names in a message

# Those whose configuration can be sampled by: networks that predict epsilon, v or the sample at a
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
    "LCMScheduler",
    "SASolverScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
)
_REASONS = {
    "Flow": "flow matching is not DDIM",
    "EDM": "its networks are scaled differently from DDIM's",
    "VQModel": "its latents are entries of a codebook",
}
_FIXED = (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
_OF_THE_NETWORK: Mapping[str, Allowed] = {  # whatever the class of the scheduler
    "variance_type": _FIXED,  # if it is learned, the network has twice the channels
    "timestep_type": ("discrete",),  # otherwise the network reads the logarithm of a noise level
    "use_flow_sigmas": (False,),
    "predict_epsilon": (True,),  # before prediction_type; False meant "sample"
    "timestep_values": (None,),
}
_OF_SOLVERS = (  # that are read as DDIM, and of old versions
    "corrector_order",
    "noise_sampler_seed",
    "predictor_order",
    "tau_func",
    "tensor_format",
)
_CLOSE = 0.75  # as difflib measures it: most of a key's letters in their order
_MOST_UNKNOWN = 16
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
_CONDITIONAL_UNET: Mapping[str, Allowed] = {  # of UNet2DModel, and of Flax's classes
    "add_attention": (True,),
    "attn_norm_num_groups": (None,),
    "downsample_type": ("conv",),
    "num_train_timesteps": None,
    "quantization_config": (None,),
    "split_head_dim": None,  # how attention is computed, not what
    "upsample_type": ("conv",),
    "use_memory_efficient_attention": None,
}
_VAE: Mapping[str, Allowed] = {
    "double_z": (True,),
    "norm_type": ("group",),
    "quantization_config": (None,),
    "use_slicing": None,  # in how many parts, not what
    "use_tiling": None,
}
_CLIP_TEXT: Mapping[str, Allowed] = {  # transformers' own keys, and those of all its models
    **dict.fromkeys(  # of training, of generation, of what is returned, and of other models
        [
            "attention_dropout",
            "attn_implementation",
            "bad_words_ids",
            "begin_suppress_tokens",
            "bos_token_id",  # the tokenizer says where a text begins, and what it is padded with
            "chunk_size_feed_forward",
            "cross_attention_hidden_size",
            "decoder_start_token_id",
            "diversity_penalty",
            "do_sample",
            "dropout",
            "dtype",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "exponential_decay_length_penalty",
            "finetuning_task",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "gradient_checkpointing",
            "id2label",
            "initializer_factor",
            "initializer_range",
            "is_encoder_decoder",
            "label2id",
            "length_penalty",
            "max_length",
            "min_length",
            "no_repeat_ngram_size",
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "output_attentions",
            "output_hidden_states",
            "output_scores",
            "pad_token_id",
            "prefix",
            "problem_type",
            "remove_invalid_values",
            "repetition_penalty",
            "return_dict",
            "return_dict_in_generate",
            "sep_token_id",
            "suppress_tokens",
            "task_specific_params",
            "temperature",
            "tf_legacy_loss",
            "tie_encoder_decoder",
            "tie_word_embeddings",
            "tokenizer_class",
            "top_k",
            "top_p",
            "torch_dtype",
            "torchscript",
            "transformers_version",
            "typical_p",
            "use_bfloat16",
            "use_cache",
        ]
    ),
    "add_cross_attention": (False,),
    "architectures": (None, ["CLIPTextModel"], ["CLIPTextModelWithProjection"]),
    "auto_map": (None,),  # names code
    "is_decoder": (False,),
    "model_type": ("clip_text_model",),
    "pruned_heads": ({},),
    "quantization_config": (None,),
    "use_attention_mask": (None, False),  # diffusers would hide the padding
}
_TABLES = {
    "UNet2DModel": _UNET,
    "UNet2DConditionModel": _CONDITIONAL_UNET,
    "AutoencoderKL": _VAE,
    "CLIPTextModel": _CLIP_TEXT,
}


def allowed_classes(class_name: str) -> tuple[str, ...]:
    """The classes whose configuration is read as that of `class_name`, itself among them."""
    return SCHEDULERS if class_name in SCHEDULERS else (class_name,)


def check_class(key: str, found: object, *class_names: str) -> None:
    """Raise `ValueError` unless `found` is one of their `allowed_classes`; `key` is named."""
    allowed = [name for class_name in class_names for name in allowed_classes(class_name)]
    if found in allowed:
        return
    reasons = [why for part, why in _REASONS.items() if isinstance(found, str) and part in found]
    listed = ", ".join(repr(name) for name in allowed[:_SHOWN])
    raise ValueError(
        f"{key} is {brief(found)}{''.join(f' ({why})' for why in reasons[:1])}; allowed: {listed}"
        f"{', ...' if len(allowed) > _SHOWN else ''}"
    )


def sift(class_name: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A network's configuration without its foreign keys, and their names in order.

    Raises:
        ValueError: a foreign key with a value that would change what is drawn.
    """
    table, own, passed = _TABLES.get(class_name, {}), {}, []
    for key, value in values.items():
        if key not in table:
            own[key] = value
            continue
        _check(key, value, table[key])
        passed.append(key)
    return own, tuple(sorted(passed))


def sift_scheduler(
    values: Mapping[str, Any], own: Collection[str], others: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Split a scheduler's file: what its class reads, what others read, and what it has no use for.

    Values that their class took by default are left out, where a file names them: diffusers lets
    another class take its own default. A key that no class knows is of no use, as in diffusers; but
    one that is spelt almost as a known one stays among the first, to be refused.

    Args:
        values: the file.
        own: the keys of its class.
        others: the keys of all classes that are built.

    Raises:
        ValueError: a value that would change what is drawn, or very many unknown keys.
    """
    default = values.get("_use_default_values")
    unset = {key for key in default if isinstance(key, str)} if isinstance(default, list) else ()
    given = {k: v for k, v in values.items() if not k.startswith("_") and k not in unset}
    known = {*others, *_OF_THE_NETWORK, *_OF_SOLVERS}
    unknown = [key for key in given if key not in known]
    if len(unknown) > _MOST_UNKNOWN:
        raise ValueError(f"has {len(unknown)} unknown keys; allowed: up to {_MOST_UNKNOWN}")
    for key in _OF_THE_NETWORK.keys() & given.keys():
        _check(key, given[key], _OF_THE_NETWORK[key])
    misspelt = {key for key in unknown if difflib.get_close_matches(key[:40], known, 1, _CLOSE)}
    read = {key: given[key] for key in given if key in own or key in misspelt}
    passed = sorted(brief(key) if key in unknown else key for key in given if key not in read)
    foreign = {key: given[key] for key in given if key in others and key not in own}
    return read, foreign, tuple(passed)


def _check(key: str, value: object, allowed: Allowed) -> None:
    if allowed is None or any(_same(value, other) for other in allowed):
        return
    listed = ", ".join("null" if other is None else repr(other) for other in allowed)
    raise ValueError(f"{key} is {brief(value)}; allowed: {listed}")


def _same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other
