"""What a file is that is no whole Stable Diffusion model, by the names of its tensors."""

import re
from collections.abc import Iterable

from models.bounds import brief

_LONGEST = 200  # characters of a name that is looked at; the longest real one has about 100
# In order, the least ambiguous first; one name that matches is enough.
_KINDS = tuple(
    (re.compile(pattern, re.ASCII), what)
    for pattern, what in (
        (
            r"lora_(up|down|[ABab]|mid)\b|^lora_|\.lora\.|_lora\.|hada_w\d|lokr_w\d|\boft_",
            "a LoRA, which changes a model and is none",
        ),
        (r"^control_model\.|^controlnet_|^controlnet\.", "a ControlNet"),
        (r"^(ip_adapter|image_proj)\.", "an IP-Adapter"),
        (r"\bmotion_modules\.", "a motion module of AnimateDiff"),
        (r"^adapter\.", "a T2I-Adapter"),
        (r"^(emb_params|clip_[lg])$|^string_to_param\.", "an embedding (textual inversion)"),
        (r"^edm_(mean|std)$|^edm_vpred\.", "trained on EDM's noise levels, as Playground 2.5 is"),
        (r"\bjoint_blocks\.", "Stable Diffusion 3"),
        (r"\b(double_blocks|single_blocks|\w+_stream_modulations?)\.", "Flux, or a relative of it"),
        (r"\bdouble_layers\.", "AuraFlow"),
        (r"\bclip_txt_mapper\.|\.channelwise\.", "Stable Cascade"),
        (r"^noise_augmentor\.|^embedder\.model\.", "unCLIP, which varies a picture"),
        (r"^depth_model\.", "a model that reads a depth map"),
        (r"\btime_stack\.|\btime_mixer\.|\.open_clip\.", "a video model"),
        (
            r"\b(x_embedder|t_embedder|cap_embedder|caption_projection|txt_in|img_in|patchify_proj"
            r"|patch_embedding|pos_embed|adaln_single|scale_shift_table)\b|adaLN_modulation",
            "a diffusion transformer",
        ),
    )
)
_PARTS = {
    "a UNet": ("model.diffusion_model.",),
    "a VAE": ("first_stage_model.", "vae."),
    "text encoders": ("cond_stage_model.", "conditioner.", "text_encoders."),
}
_ALONE = tuple(
    (re.compile(pattern, re.ASCII), what)
    for pattern, what in (
        (r"(input_blocks|middle_block|output_blocks)\.", "a UNet alone"),
        (
            r"(down_blocks|up_blocks|mid_block)\.",
            "a UNet alone, by the names of diffusers, whose place is unet/ in a model folder",
        ),
        (r"(encoder|decoder)\.(down|up|mid|conv)", "a VAE alone"),
        (
            r"(text_model|transformer\.resblocks|encoder\.layers|encoder\.block|embeddings)\.",
            "a text encoder alone",
        ),
        (r"model_ema\.", "a moving average (EMA) alone"),
    )
)


def seems(names: Iterable[str]) -> str | None:
    """What a file seems to be that cannot be a model of ours; None if nothing says so."""
    listed = [name for name in names if len(name) <= _LONGEST]
    return next((what for kind, what in _KINDS if any(map(kind.search, listed))), None)


def parts(names: Iterable[str]) -> str:
    """What a file seems to be that lacks parts of a model."""
    listed = list(names)
    found = [part for part, before in _PARTS.items() if any(n.startswith(before) for n in listed)]
    if found:
        missing = [part for part in _PARTS if part not in found]
        return f"{' and '.join(found)} without {' and '.join(missing)}"
    for kind, what in _ALONE:
        if any(map(kind.match, listed)):
            return what
    return f"of no known kind, with tensors as {brief(min(listed))}" if listed else "empty"
