"""Where a run's data lay, for those who judge its model later.

It is kept in the folder of the run, beside `model/`: paths of this machine have no place in a model
that is published.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.bounds import brief
from models.files import read_json, write_json
from models.training.data import SOURCES, DataError, find_data
from models.training.options import DataRecipe

_RECORD = "training-data.json"


def record(out: Path, data: DataRecipe, data_dir: Path) -> None:
    """Write the data of a run into its folder."""
    folder = find_data(data, data_dir).resolve()
    write_json(out / _RECORD, asdict(data) | {"folder": str(folder)})


def find_trained_on(
    model: Path,
    classes: tuple[str, ...],
    size: int,
    channels: int,
    *,
    source: str | None,
    data_dir: Path | None,
    default_dir: Path,
) -> tuple[DataRecipe, Path]:
    """What to judge a model with: the data it was trained on, or what is named instead.

    Args:
        model: the model folder; the run's record lies beside it.
        classes: the model's; without a record, a published data set with just these is taken.
        size, channels: of the model's images.
        source, data_dir: as the command line gives them; None for what was recorded.
        default_dir: where published data sets are.

    Returns:
        What to read, and the folder that holds it.

    Raises:
        DataError: nothing says what the data is, or it is not where it was.
        ConfigError: images of such channels are not read here.
    """
    path = model.parent / _RECORD
    values: dict[str, Any] = read_json(path) if path.is_file() else {}
    folder = Path(str(values.pop("folder", "")))
    if source is None and values:
        source = str(values.get("source"))
        if data_dir is None:
            if not folder.is_dir():
                raise DataError(
                    f"{folder}: the model's data is not there any more; "
                    "--data and --data-dir name where it is"
                )
            data_dir = folder.parent
            source = source if source in SOURCES else str(folder)
    source = source or _published(model, classes)
    values |= {"source": source, "size": size, "channels": channels}
    data = DataRecipe.from_dict(values, str(path) if path.is_file() else "--data")
    return data, data_dir or default_dir


def _published(model: Path, classes: tuple[str, ...]) -> str:
    for name, source in SOURCES.items():
        if source.classes == classes:
            return name
    raise DataError(
        f"{model}: nothing says what it was trained on: no {_RECORD} beside it, and no published "
        f"data set has the classes {brief(classes)}; --data names a data set or a folder"
    )
