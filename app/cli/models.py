"""`darkroom models`: what ships, and what a checkpoint is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli.console import one_line
from app.cli.opening import prediction_option
from models.bounds import size
from models.library import find, shipped
from models.sampling import Prediction

if TYPE_CHECKING:
    from models.description import Description

_EPILOG_MODELS = """\b
Examples:
  darkroom models
  darkroom models runs/shoes/model
  darkroom models owner/name@v1 --json
  darkroom models runs/shoes/model --sheet
A model on the hub is fetched first.
"""


@click.command(epilog=_EPILOG_MODELS)
@click.argument("model", required=False)
@prediction_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--sheet", is_flag=True, help="Draw one image of each class into the folder's classes.png."
)
def models(model: str | None, prediction: Prediction | None, as_json: bool, sheet: bool) -> None:
    """Say what MODEL is (a shipped name, a path or a name on the hub) without loading it.

    Without MODEL, list the models that ship with Darkroom.
    """
    if sheet:
        click.echo(_draw_sheet(model))
        return
    if model is None:
        ours = shipped()
        if as_json:
            click.echo(json.dumps({name: str(folder) for name, folder in ours.items()}, indent=2))
        else:
            for name, folder in ours.items():
                click.echo(f"{name}  {folder}")
        return
    with one_line():
        from models.description import describe

        told = describe(find(model), prediction)
    click.echo(json.dumps(told.to_dict(), indent=2) if as_json else _table(told))


def _draw_sheet(model: str | None) -> Path:
    """The class sheet of a model's folder, drawn anew."""
    if model is None:
        raise click.UsageError("--sheet needs MODEL")
    with one_line():
        from models.pipeline import LatentDiffusion
        from models.sheet import write_sheet

        folder = find(model)
        if not folder.is_dir():
            raise ValueError(f"{folder}: a single file has no class sheet")
        return write_sheet(folder, LatentDiffusion.open(folder))


def _table(told: "Description") -> str:
    """A description for a terminal."""
    own = f"{told.width}x{told.height}" if told.width else "unknown"
    facts = {
        "path": told.path,
        "family": told.family,
        **({"cannot be drawn": told.refusal} if told.refusal else {}),
        "draws": told.draws,
        "sizes": str(told.sizes or own),
        "prediction": told.prediction_type,
        "sampler": f"{told.sampler}, spacing {told.spacing}",
        "samplers": ", ".join(told.samplers),
        "guidance": f"{told.guidance_scale:g}",
        "parameters": f"{told.parameters:,}",
        "weights": size(told.bytes),
    }
    for name, memory in told.memory.items():
        drawing = "" if memory.drawing is None else f" and {size(memory.drawing)} to draw an image"
        facts[f"memory, {name}"] = (
            f"{size(memory.total)}: {size(memory.weights)} of weights{drawing}"
        )
    facts |= {f"note {number}": note for number, note in enumerate(told.notes, 1)}
    rows: list[tuple[str, ...]] = [("component", "class", "parameters", "bytes", "stored as")]
    rows += [
        (
            name,
            component.class_name,
            f"{component.parameters:,}",
            size(component.bytes),
            ", ".join(component.stored_as),
        )
        for name, component in told.components.items()
    ]
    return "\n".join([*_columns(list(facts.items())), "", *_columns(rows)])


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
