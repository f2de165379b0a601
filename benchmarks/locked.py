"""The peer: diffusers' modules and scheduler, one request at a time behind a lock."""

import io
import threading

import diffusers
import torch
from fastapi import FastAPI, Response
from PIL import Image
from pydantic import BaseModel, Field

from models.library import find

GUIDANCE = 1.5


class Request(BaseModel):
    """The fields the benchmark sends."""

    label: str = Field(alias="class")
    steps: int
    seed: int


def create_app() -> FastAPI:
    """Load the shipped digits with diffusers and serve them."""
    folder, lock, app = find("digits"), threading.Lock(), FastAPI()
    vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae")
    unet = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")

    @app.post("/generate")
    def generate(body: Request) -> Response:
        with lock, torch.inference_mode():
            scheduler.set_timesteps(body.steps)
            labels = torch.tensor([int(body.label), 10])
            generator = torch.Generator().manual_seed(body.seed)
            x = torch.randn(1, 4, 8, 8, generator=generator)
            for t in scheduler.timesteps:
                conditional, null = unet(x.expand(2, -1, -1, -1), t, class_labels=labels).sample
                output = null + GUIDANCE * (conditional - null)
                x = scheduler.step(output[None], t, x).prev_sample
            pixels = vae.decode(x).sample[0, 0].clamp(-1, 1)
        file = io.BytesIO()
        Image.fromarray(((pixels + 1) * 127.5).round().byte().numpy()).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    return app
