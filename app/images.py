"""uint8 pixels <-> files: PNG, WebP and JPEG, with how they were made written into them and read.

What says that a machine drew it: the parameters as AUTOMATIC1111 writes them (a PNG's text chunk,
EXIF's UserComment in the others), and IPTC's digital source type, in XMP and, but for PNG, in EXIF.
"""

import io
import json
import re
from dataclasses import dataclass

from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from app.engine.job import ModelInfo, Params, Pixels

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Darkroom"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_UNICODE = b"UNICODE\0"  # how a UserComment begins that is UTF-16; EXIF 2.3, 4.6.5
_MOST_PIXELS = 1 << 26
_PAIR = re.compile(r'\s*([\w ]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


@dataclass(frozen=True)
class Format:
    """A kind of file. PNG and WebP lose nothing, unless a WebP is asked for with a quality."""

    name: str
    media_type: str
    extension: str


PNG = Format("PNG", "image/png", "png")
WEBP = Format("WEBP", "image/webp", "webp")
JPEG = Format("JPEG", "image/jpeg", "jpg")
FORMATS = (PNG, WEBP, JPEG)
JPEG_QUALITY = 95


def encode(
    pixels: Pixels, kind: Format, parameters: str | None = None, quality: int | None = None
) -> bytes:
    """A file; the same arguments give the same bytes. Without `parameters` it is not marked.

    `quality` is 0 to 100, and nothing to a PNG.
    """
    size = (pixels.width, pixels.height)
    image = Image.frombytes(_MODES[pixels.channels], size, pixels.data)
    file = io.BytesIO()
    if kind is PNG:
        image.save(file, "PNG", pnginfo=None if parameters is None else _png_notes(parameters))
        return file.getvalue()
    notes = {} if parameters is None else {"exif": _exif(parameters), "xmp": _XMP.encode()}
    if kind is JPEG:
        flat = image.convert("RGB") if pixels.channels == 4 else image
        flat.save(file, "JPEG", quality=JPEG_QUALITY if quality is None else quality, **notes)
    elif quality is None:
        image.save(file, "WEBP", lossless=True, exact=True, **notes)
    else:
        image.save(file, "WEBP", quality=quality, **notes)
    return file.getvalue()


def _png_notes(parameters: str) -> PngImagePlugin.PngInfo:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", parameters)
    notes.add_itxt("XML:com.adobe.xmp", _XMP)
    return notes


def _exif(parameters: str) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "Darkroom"
    exif[ExifTags.Base.ImageDescription] = SOURCE_TYPE
    comment = _UNICODE + parameters.encode("utf-16-be")
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: comment}
    return exif


def describe(params: Params, image: int, info: ModelInfo) -> str:
    """The parameters of one image as AUTOMATIC1111 writes them, which image tools read.

    One line of prompt (the class, here), then `Name: value` pairs. Numbers are exact, so that the
    image can be made again from its own description.
    """
    name = "" if params.class_index is None else info.classes[params.class_index]
    pairs = {
        "Steps": params.steps,
        "Sampler": "DDIM",
        "CFG scale": number(params.guidance_scale),
        "Seed": params.seed_of(image),
        "Size": f"{info.width}x{info.height}",
        "Model hash": info.hash,
        "Model": info.name,
        "Eta": number(params.eta),
    }
    if params.guidance_interval != (0, 1):
        start, end = params.guidance_interval
        pairs["Guidance interval"] = f"{number(start)}-{number(end)}"
    return f"{name}\n" + ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items())


def number(value: float) -> str:
    """A number in as few characters as say it exactly."""
    return str(int(value)) if value == int(value) else repr(value)


def read_description(text: str) -> tuple[str, dict[str, str]]:
    """What `describe` wrote: the first lines, and the pairs of the last."""
    prompt, _, last = text.rstrip("\n").rpartition("\n")
    pairs = {}
    for found in _PAIR.finditer(last):
        value = found[2].strip()
        if value.startswith('"'):
            try:
                value = str(json.loads(value))
            except ValueError:
                value = value.strip('"')
        pairs[found[1].strip()] = value
    return prompt, pairs


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text


@dataclass(frozen=True)
class Opened:
    """A file that was read: its pixels, and the parameters it carries, if any."""

    image: Image.Image
    parameters: str | None
    lossless: bool  # whether the file holds the very pixels it was made of


def open_image(content: bytes) -> Opened:
    """Open a PNG, WebP or JPEG.

    Raises:
        ValueError: it is none of them, is damaged, or has more than 2^26 pixels.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=[kind.name for kind in FORMATS])
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        image.load()
        lossless = image.format == "PNG" or (image.format == "WEBP" and b"VP8L" in content)
        return Opened(image, _parameters(image), lossless)
    except UnidentifiedImageError as error:
        raise ValueError("this is no PNG, WebP or JPEG") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"this picture is damaged: {error}") from error


def _parameters(image: Image.Image) -> str | None:
    text = image.info.get("parameters")
    if isinstance(text, str):
        return text
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes) and comment.startswith(_UNICODE):
        return comment[len(_UNICODE) :].decode("utf-16-be", errors="replace")
    return None
