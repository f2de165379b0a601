"""Model folders of Stable Diffusion 1.5's shape with random weights, as diffusers saves them.

    python -m benchmarks.stable_diffusion.folders scaled runs/stable_diffusion

Every folder is made once; the full one has 4.3 GB.
"""

import json
import shutil
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.stable_diffusion.shapes import LEVELS, SHAPES, Shape
from models.text.shipped import shipped_vocabulary


def made(name: str, work: Path) -> Path:
    """The folder of this shape under `work`; it is made if it is not there."""
    folder, partial = work / name, work / f"{name}.partial"
    if not folder.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        pipeline(SHAPES[name], partial / "tokenizer").save_pretrained(partial)
        partial.replace(folder)
    return folder


@torch.no_grad()
def pipeline(shape: Shape, tokenizer: Path) -> StableDiffusionPipeline:
    """The whole pipeline in float32; weights are as PyTorch begins them, always the same."""
    torch.manual_seed(0)
    crossed = LEVELS - 1
    unet = UNet2DConditionModel(
        sample_size=shape.latent,
        block_out_channels=shape.unet,
        down_block_types=("CrossAttnDownBlock2D",) * crossed + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * crossed,
        cross_attention_dim=shape.text_width,
        attention_head_dim=8,  # the number of heads
    )
    vae = AutoencoderKL(
        sample_size=shape.pixels,
        block_out_channels=shape.vae,
        down_block_types=("DownEncoderBlock2D",) * LEVELS,
        up_block_types=("UpDecoderBlock2D",) * LEVELS,
        layers_per_block=2,
    )
    text = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=shape.text_width,
        intermediate_size=4 * shape.text_width,
        projection_dim=shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_width // 64,
    )
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=written_tokenizer(tokenizer),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def written_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's own, from the vocabulary that ships with us."""
    vocabulary, merges = shipped_vocabulary()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


@click.command()
@click.argument("name", type=click.Choice(list(SHAPES)))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
def main(name: str, work: Path) -> None:
    """Make the folder NAME under WORK and print its path."""
    click.echo(json.dumps(str(made(name, work))))


if __name__ == "__main__":
    main()
