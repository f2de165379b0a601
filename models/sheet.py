"""Drawing the class sheet of a model, from which people choose a class by sight."""

from pathlib import Path

from PIL import Image

from models.bounds import size
from models.pipeline import LatentDiffusion
from models.sheet_file import MAX_BYTES, SHEET, sheet_size

SEED, STEPS = 1, 50  # of every cell; a model of fewer timesteps has fewer steps


def write_sheet(folder: Path, model: LatentDiffusion) -> Path:
    """Draw the class sheet of a model, and write it into the model's folder.

    Each cell is the image that seed 1 gives alone, with the model's own sampler and guidance scale
    and 50 steps.

    Raises:
        ValueError: as `sheet_size`, or the file would have more than 4 MiB.
        OSError: it cannot be written.
    """
    names, sizes = model.classes.names, model.sizes
    whole = sheet_size(len(names), sizes.width, sizes.height)
    steps = min(STEPS, model.schedule.num_train_timesteps)
    cells = model.images(names, [SEED] * len(names), steps=steps)
    sheet = Image.new(cells[0].mode, whole)
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number * sizes.width, 0))
    path, draft = folder / SHEET, folder / f".{SHEET}"
    try:
        sheet.save(draft, "PNG", optimize=True)
        if (length := draft.stat().st_size) > MAX_BYTES:
            raise ValueError(f"the class sheet has {size(length)}; allowed: {size(MAX_BYTES)}")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
