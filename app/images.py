"""uint8 pixels <-> PNG, with the parameters of the generation written into the file."""

import io

from PIL import Image, PngImagePlugin

from app.engine.job import ModelInfo, Params, Pixels

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def encode_png(pixels: Pixels, parameters: str) -> bytes:
    """A PNG with a `parameters` text chunk; the same pixels and text give the same bytes."""
    size = (pixels.width, pixels.height)
    image = Image.frombytes(_MODES[pixels.channels], size, pixels.data)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", parameters)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=notes)
    return file.getvalue()


def describe(params: Params, image: int, info: ModelInfo) -> str:
    """The parameters of one image as AUTOMATIC1111 writes them, which image tools read.

    One line of prompt (the class, here), then `Name: value` pairs.
    """
    name = "" if params.class_index is None else info.classes[params.class_index]
    pairs = {
        "Steps": params.steps,
        "Sampler": "DDIM",
        "CFG scale": f"{params.guidance_scale:g}",
        "Seed": params.seed_of(image),
        "Size": f"{info.width}x{info.height}",
        "Model hash": info.digest,
        "Model": info.name,
        "Eta": f"{params.eta:g}",
    }
    if params.guidance_interval != (0, 1):
        start, end = params.guidance_interval
        pairs["Guidance interval"] = f"{start:g}-{end:g}"
    return f"{name}\n" + ", ".join(f"{key}: {value}" for key, value in pairs.items())
