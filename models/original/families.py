"""What no shape tells of a family: its activation, scales, scheduler and padding.

Sources: the files of `stable-diffusion-v1-5/stable-diffusion-v1-5` and `-inpainting`,
`stabilityai/stable-diffusion-2-1`, `-2-1-base`, `sd-turbo` and `stable-diffusion-xl-base-1.0`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.sampling import Prediction

_SCHEDULE: dict[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_END_OF_TEXT, _ZERO = "<|endoftext|>", "!"  # `!` has id 0, with which OpenCLIP pads


@dataclass(frozen=True)
class Training:
    """How the UNet of a file was trained, beside what it predicts."""

    zero_snr: bool = False  # to begin with noise alone (Lin et al. 2024)
    turbo: bool = False  # distilled into few steps (Sauer et al. 2023)
    consistent: bool = False  # a latent consistency model (Luo et al. 2023)
    inpaints: bool = False  # to paint into a picture

    @property
    def sampler(self) -> str | None:
        """The scheduler's class, where it is not the family's own."""
        if self.consistent:
            return "LCMScheduler"
        return "EulerDiscreteScheduler" if self.turbo else None

    def trails(self, prediction: Prediction) -> bool:
        """Whether steps are placed from the last timestep on, where the network begins."""
        return self.turbo or (self.zero_snr and prediction == "v_prediction")


@dataclass(frozen=True)
class Family:
    """Models of one structure."""

    name: str
    pipeline: str  # diffusers' class
    sampler: str  # the scheduler's class
    spacing: str | None  # of steps; the folders of 1.x and 2.x leave it to each sampler's default
    pixels: int  # a side of the images it was trained on
    pixels_v: int  # of those that predict v
    scaling_factor: float
    text_width: int  # of the texts that the UNet reads
    widths: tuple[int, ...]  # of the UNet's levels
    pads: tuple[str, ...]  # the token that fills up a text, for each text encoder
    many_heads: bool = True  # heads of 64 channels in the UNet; else 8 heads
    upcast_attention: bool = False  # whose scores overflow in float16
    vae: Mapping[str, Any] = field(default_factory=dict)  # what its folders say besides

    def folder(self, encoders: int, *, inpaints: bool) -> dict[str, Any]:
        """`model_index.json` without its scheduler."""
        extra = "InpaintPipeline" if inpaints else "Pipeline"
        index: dict[str, Any] = {
            "_class_name": self.pipeline.replace("Pipeline", extra),
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
        }
        if encoders > 1:
            index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
            index["force_zeros_for_empty_prompt"] = True
        return index | {name: ["transformers", "CLIPTokenizer"] for name in self.tokenizers()}

    def scheduler(self, prediction: Prediction, training: Training) -> dict[str, Any]:
        """The scheduler's file of a folder of this family."""
        noise = prediction == "epsilon"
        ddim = self.sampler == "PNDMScheduler" and (training.inpaints or not noise)
        own = training.sampler or ("DDIMScheduler" if ddim else self.sampler)
        config = {"_class_name": own, **_SCHEDULE, "prediction_type": prediction}
        if training.zero_snr and not noise:
            config |= {"rescale_betas_zero_snr": True}
        if spacing := "trailing" if training.trails(prediction) else self.spacing:
            config |= {"timestep_spacing": spacing}
        return config

    def tokenizers(self) -> dict[str, dict[str, Any]]:
        """What is to be known of each tokenizer besides the vocabulary, which all share."""
        names = ("tokenizer", "tokenizer_2")
        return {
            name: {"model_max_length": 77, "pad_token": pad}
            for name, pad in zip(names, self.pads, strict=False)
        }


SD1 = Family(
    name="SD 1.x",
    pipeline="StableDiffusionPipeline",
    sampler="PNDMScheduler",
    spacing=None,
    pixels=512,
    pixels_v=512,
    scaling_factor=0.18215,
    text_width=768,
    widths=(320, 640, 1280, 1280),
    pads=(_END_OF_TEXT,),
    many_heads=False,
)
SD2 = Family(
    name="SD 2.x",
    pipeline="StableDiffusionPipeline",
    sampler="PNDMScheduler",
    spacing=None,
    pixels=512,
    pixels_v=768,
    scaling_factor=0.18215,
    text_width=1024,
    widths=(320, 640, 1280, 1280),
    pads=(_ZERO,),
    upcast_attention=True,
)
SDXL = Family(
    name="SDXL",
    pipeline="StableDiffusionXLPipeline",
    sampler="EulerDiscreteScheduler",
    spacing="leading",
    pixels=1024,
    pixels_v=1024,
    scaling_factor=0.13025,
    text_width=2048,
    widths=(320, 640, 1280),
    pads=(_END_OF_TEXT, _ZERO),
    vae={"force_upcast": True},
)
