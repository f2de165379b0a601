"""The smallest configurations that still have every kind of layer."""

from models.config import AutoencoderKLConfig, DDIMConfig, UNet2DConfig

VAE = AutoencoderKLConfig(
    in_channels=1,
    out_channels=1,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(8, 16),
    latent_channels=2,
    norm_num_groups=4,
    sample_size=16,
    scaling_factor=1.0,
)
UNET = UNet2DConfig(
    sample_size=8,
    in_channels=2,
    out_channels=2,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(16, 32),
    layers_per_block=1,
    norm_num_groups=4,
    num_class_embeds=4,
)
SCHEDULE = DDIMConfig(
    beta_schedule="scaled_linear",
    beta_start=0.0015,
    beta_end=0.0195,
    prediction_type="v_prediction",
    timestep_spacing="trailing",
    rescale_betas_zero_snr=True,
    clip_sample=False,
)
