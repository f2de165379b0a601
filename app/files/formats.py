"""uint8 pixels <-> files: PNG, WebP and JPEG, with how they were made written into them and read.

A file says that a machine drew it in two ways: by the parameters as AUTOMATIC1111 writes them (a
PNG's text chunk, EXIF's UserComment in the others), and by IPTC's digital source type, in XMP and,
except for PNG, in EXIF.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from app.engine.results import Pixels
from app.files.exif import UNICODE
from app.files.pictures import MAX_TEXT, inspect

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Darkroom"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# Pillow's own limits are 1 MiB per unpacked chunk, and 64 MiB per file.
PngImagePlugin.MAX_TEXT_CHUNK = 4 * MAX_TEXT  # bytes: four per character
PngImagePlugin.MAX_TEXT_MEMORY = 1 << 20


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
_NAMED = {
    name: kind
    for kind in FORMATS
    for name in (kind.name.lower(), kind.extension, kind.media_type, f"image/{kind.extension}")
}


def format_of(name: str) -> Format | None:
    """The format of a name, an extension or a media type; `jpg` and `image/jpg` are JPEG's, too."""
    return _NAMED.get(name.strip().lower())


def media_type_of(name: str) -> str:
    """A media type by its registered name: many write `image/jpg`."""
    kind = format_of(name) if "/" in name else None
    return name if kind is None else kind.media_type


def encode(
    pixels: Pixels, kind: Format, parameters: str | None = None, quality: int | None = None
) -> bytes:
    """A file; the same arguments give the same bytes. Without `parameters` it is not marked.

    `quality` is 0 to 100, and has no effect on a PNG.
    """
    size = (pixels.width, pixels.height)
    image = Image.frombytes(_MODES[pixels.channels], size, pixels.data)
    file = io.BytesIO()
    if kind is PNG:
        notes = None if parameters is None else _png_notes(parameters)
        image.save(file, "PNG", compress_type=zlib.Z_RLE, pnginfo=notes)
        return file.getvalue()
    marks = {} if parameters is None else {"exif": _exif(parameters), "xmp": _XMP.encode()}
    if kind is JPEG:
        flat = image.convert("RGB") if pixels.channels == 4 else image
        flat.save(file, "JPEG", quality=JPEG_QUALITY if quality is None else quality, **marks)
    elif quality is None:
        image.save(file, "WEBP", lossless=True, exact=True, **marks)
    else:
        image.save(file, "WEBP", quality=quality, **marks)
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
    comment = UNICODE + parameters.encode("utf-16-be")
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: comment}
    return exif


@dataclass(frozen=True)
class Opened:
    """A file that was read: its pixels, and the parameters it carries, if any."""

    image: Image.Image
    parameters: str | None
    lossless: bool  # whether the file holds the very pixels it was made of


# Not by Image.open, which tries others too: a JPEG with a list of further ones is another format.
_DECODERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
}


def open_image(content: bytes) -> Opened:
    """Open a PNG, WebP or JPEG.

    Raises:
        ValueError: it is none of them, is damaged, or `pictures.inspect` refuses it.
    """
    header = inspect(content)
    try:
        with warnings.catch_warnings(action="ignore"):  # of EXIF that is damaged
            image = _DECODERS[header.format](io.BytesIO(content))
            if image.size != (header.width, header.height):
                raise ValueError("this picture is damaged: it has two sizes")
            image.load()
    except (OSError, SyntaxError, EOFError, struct.error) as error:
        raise ValueError(f"this picture is damaged: {error}") from error
    return Opened(image, header.parameters, header.lossless)
