"""The peer of the tutorials for prompts: FastAPI, and one thread that draws with diffusers.

    python -m benchmarks.peers.text_to_image --port 8001 --folder FOLDER --dtype bfloat16

The thread is the lock: images are drawn one after the other.
"""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import torch
import uvicorn
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from fastapi import FastAPI, Response
from pydantic import BaseModel

SCHEDULERS: dict[tuple[str, str], tuple[Any, dict[str, bool]]] = {
    ("ddim", "default"): (DDIMScheduler, {}),
    ("euler", "default"): (EulerDiscreteScheduler, {}),
    ("euler_a", "default"): (EulerAncestralDiscreteScheduler, {}),
    ("dpmpp_2m", "karras"): (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    ("unipc", "default"): (UniPCMultistepScheduler, {}),
}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


class Body(BaseModel):
    """The request that every server of the benchmark takes."""

    prompt: str
    negative_prompt: str
    steps: int
    guidance_scale: float
    sampler: str
    spacing: str
    seed: int


class Pictures:
    """diffusers' pipeline. One thread at a time may use it."""

    def __init__(self, folder: Path, dtype: torch.dtype, layout: str) -> None:
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            folder, dtype=dtype, safety_checker=None, low_cpu_mem_usage=False
        )
        self.schedule = self.pipeline.scheduler.config
        self.pipeline.set_progress_bar_config(disable=True)
        for network in (self.pipeline.unet, self.pipeline.vae):
            network.to(memory_format=LAYOUTS[layout])

    @torch.inference_mode()
    def draw(self, body: Body) -> bytes:
        """A PNG."""
        pipeline = self.pipeline
        kind, options = SCHEDULERS[body.sampler, body.spacing]
        pipeline.scheduler = kind.from_config(self.schedule, **options)
        made = pipeline(
            body.prompt,
            negative_prompt=body.negative_prompt,
            num_inference_steps=body.steps,
            guidance_scale=body.guidance_scale,
            generator=torch.Generator().manual_seed(body.seed),
        )
        file = io.BytesIO()
        made.images[0].save(file, "PNG")
        return file.getvalue()


def peer_app(pictures: Pictures, threads: int) -> FastAPI:
    """One thread draws every image, with `threads` PyTorch threads under it."""
    app = FastAPI()
    drawer = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    @app.post("/generate")
    async def generate(body: Body) -> Response:
        png = await asyncio.get_running_loop().run_in_executor(drawer, pictures.draw, body)
        return Response(png, media_type="image/png")

    return app


@click.command()
@click.option("--port", type=int, envvar="PORT", required=True)
@click.option("--folder", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32")
@click.option("--layout", type=click.Choice(list(LAYOUTS)), default="NCHW")
@click.option("--threads", default=2, show_default=True, help="Of PyTorch.")
def main(port: int, folder: Path, dtype: str, layout: str, threads: int) -> None:
    """Serve the folder."""
    app = peer_app(Pictures(folder, getattr(torch, dtype), layout), threads)
    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    main()
