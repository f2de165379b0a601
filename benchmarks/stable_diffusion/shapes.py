"""The shapes of the models that are measured."""

from dataclasses import dataclass

LEVELS = 4


@dataclass(frozen=True)
class Shape:
    """What the networks are of; everything else is as in 1.5."""

    says: str
    latent: int  # height and width
    unet: tuple[int, ...]  # channels, by level
    vae: tuple[int, ...]
    text_layers: int = 12
    text_width: int = 768

    @property
    def pixels(self) -> int:
        """Height and width of an image."""
        return self.latent * 2 ** (LEVELS - 1)


SHAPES = {
    "tiny": Shape("to see whether it runs", 8, (32, 32, 64, 64), (32,) * LEVELS, 1, 64),
    "scaled": Shape(
        "UNet 64,128,256,256 for 32x32 latents; VAE 32,64,128,128, which has nearly the share of "
        "the work that 1.5's has; text encoder in true shape (CLIP ViT-L, 768)",
        32,
        (64, 128, 256, 256),
        (32, 64, 128, 128),
    ),
    "full": Shape(
        "UNet, VAE and text encoder of 1.5 in true shape",
        64,
        (320, 640, 1280, 1280),
        (128, 256, 512, 512),
    ),
}
