"""What latent channels and the KL weight do: the table of docs/training.md.

    python -m benchmarks.latents --data-dir ~/.cache/darkroom --work runs/latents

Trains a short VAE and a short UNet for every setting and measures both; about three
minutes per setting on two cores. A setting that is already measured is not trained again.
"""

import json
from dataclasses import asdict
from pathlib import Path

import click

from models.pipeline import LatentDiffusion
from models.training.data import default_folder
from models.training.diffusion import train_diffusion
from models.training.evaluate import evaluate
from models.training.recipe import Recipe
from models.training.vae import train_vae

SETTINGS = ((4, 1e-2), (4, 1.0), (8, 1e-2), (2, 1e-2))
VAE_IMAGES, UNET_IMAGES, WARMUP_STEPS = 10_000, 20_000, 50
SAMPLES, STEPS = 1_000, 20
RESULTS = Path(__file__).parent / "results" / "latents.md"


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=default_folder())
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(data_dir: Path, work: Path) -> None:
    """Measure every setting and write the table."""
    lines = [
        "| latent channels | KL weight | PSNR dB | KL nats | FD of reconstructions | FD of samples "
        "| classifier accuracy | recall |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for channels, weight in SETTINGS:
        result = measure(channels, weight, data_dir, work / f"{channels}-{weight:g}")
        restored, made = result["restored"], result["made"]
        lines.append(
            f"| {channels} | {weight:g} | {result['psnr']:.1f} | {result['kl']:.0f} "
            f"| {restored['frechet_distance']:.2f} | {made['frechet_distance']:.2f} "
            f"| {made['accuracy']:.1%} | {made['recall']:.2f} |"
        )
        click.echo(lines[-1])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(channels: int, weight: float, data_dir: Path, out: Path) -> dict[str, dict[str, float]]:
    """Train and measure one setting, or read what was measured before."""
    done = out / "result.json"
    if done.is_file():
        return json.loads(done.read_text())
    overrides = [f"vae.latent_channels={channels}", f"train.vae.kl_weight={weight}"]
    for stage, images in (("vae", VAE_IMAGES), ("diffusion", UNET_IMAGES)):
        overrides += [
            f"train.{stage}.images={images}",
            f"train.{stage}.warmup_steps={WARMUP_STEPS}",
        ]
    recipe = Recipe.read("digits", overrides)
    begun = [(out / stage / "state.pt").exists() for stage in ("vae", "unet")]
    vae = train_vae(recipe, data_dir, out / "vae", resume=begun[0])
    model = train_diffusion(recipe, vae, data_dir, out / "unet", resume=begun[1])
    (report,) = evaluate(
        LatentDiffusion.open(model, block_rows=64),
        recipe.data,
        data_dir,
        samples=SAMPLES,
        settings=[(STEPS, 1.0)],
        cache=default_folder(),
    )
    log = [json.loads(line) for line in (out / "vae/log.jsonl").read_text().splitlines()]
    held_out = [line for line in log if line["kind"] == "test"][-1]
    _, restored, made = report.rows
    result = {
        "psnr": held_out["psnr"],
        "kl": held_out["kl"],
        "restored": asdict(restored),
        "made": asdict(made),
    }
    done.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
