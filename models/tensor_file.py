"""One safetensors file: its header, checked, and its tensors, read one at a time.

The data is read, not mapped: memory holds one tensor of the file at a time, and a file that is cut
off while it is read ends in an error and not in a signal.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.bounds import brief
from models.files import CheckpointError, check_fetched, check_regular, parse_object
from models.memory import MAX_PARAMETERS
from models.weight_names import SAFETENSORS, is_pickle, refusal

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
MAX_HEADER_BYTES = 4 << 20  # 10,000 tensors take 1 MiB; safetensors would parse 100 MB
MAX_WEIGHT_BYTES = 8 * MAX_PARAMETERS + MAX_HEADER_BYTES
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # PyTorch's, old too
_LENGTH = 8  # bytes that give the length of the header


class Entry(NamedTuple):
    """What the header says of a tensor: its type, its shape, and where its bytes are."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # in the file
    size: int


class Part(NamedTuple):
    """One of `of` equal parts of a tensor along its first dimension."""

    number: int = 0
    of: int = 1


class Wanted(NamedTuple):
    """A tensor to read, or a part of one."""

    name: str
    part: Part = Part()


@dataclass(frozen=True)
class TensorFile:
    """An opened safetensors file, complete by its header."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, path: Path, most: int = MAX_WEIGHT_BYTES) -> "TensorFile":
        """Read and check the header of a file of at most `most` bytes; no data is read.

        Raises:
            CheckpointError: it is missing, another kind of file, too large or truncated; or tensors
                overlap, leave gaps, end outside of the file, do not have the bytes that their shape
                needs, or have one name.
        """
        if is_pickle(path.name):
            raise CheckpointError(f"{path}: {refusal(path.name, path.stem + SAFETENSORS)}")
        if not path.exists():
            raise CheckpointError(f"{path}: missing")
        if not check_regular(path, most):  # not read: the kernel's files are empty, and may block
            raise CheckpointError(f"{path}: not a whole safetensors file: it is empty")
        try:
            with path.open("rb") as file:
                header = _header(path, file)
            # Checks sizes and offsets. With PyTorch, memory as large as the file has to be free.
            safe_open(path, framework="numpy")
            values = parse_object(header)  # which it takes, were there two of one name
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        except MemoryError as error:  # a limit on the address space, as of `ulimit -v`
            raise CheckpointError(f"{path}: cannot be mapped into memory") from error
        except (SafetensorError, ValueError) as error:
            reason = _reason(error) if isinstance(error, SafetensorError) else error
            raise CheckpointError(f"{path}: not a whole safetensors file: {reason}") from error
        metadata = values.pop("__metadata__", {})
        begin = _LENGTH + len(header)
        return cls(path, {name: _entry(given, begin) for name, given in values.items()}, metadata)

    def check_form(self, name: str) -> Entry:
        """The entry of a tensor of floating-point numbers; raises `CheckpointError`."""
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.path}: missing tensor {name!r}")
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} is {entry.dtype}; allowed: {', '.join(DTYPES)}"
            )
        return entry

    def part(self, name: str, part: Part) -> Entry:
        """The entry of a part of a tensor; raises `CheckpointError` as `check_form`."""
        entry = self.check_form(name)
        size = entry.size // part.of
        return Entry(
            entry.dtype, part_shape(entry.shape, part), entry.start + part.number * size, size
        )

    def read(self, wanted: Iterable[Wanted]) -> Iterator[Tensor]:
        """The tensors, one by one in the order given, as they are stored; each owns its memory.

        Raises:
            CheckpointError: one is missing or of no floating-point type, or the file has become
                shorter.
        """
        try:
            with self.path.open("rb") as file:
                for name, part in wanted:
                    yield self._read(file, name, part)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error

    def _read(self, file: BufferedReader, name: str, part: Part) -> Tensor:
        entry = self.part(name, part)
        data = torch.empty(entry.size, dtype=torch.uint8)
        file.seek(entry.start)
        into: Any = data.numpy()
        if file.readinto(into) != entry.size:
            raise CheckpointError(f"{self.path}: ends within tensor {name!r}")
        return data.view(DTYPES[entry.dtype]).reshape(entry.shape)


def part_shape(shape: tuple[int, ...], part: Part) -> tuple[int, ...]:
    """The shape of a part of a tensor; `shape` itself if there is no such part."""
    if part.of == 1 or not shape or shape[0] % part.of:
        return shape
    return (shape[0] // part.of, *shape[1:])


def _reason(error: SafetensorError) -> str:
    """Why a header is refused; the text may repeat what the file has."""
    return brief(str(error).removeprefix("Error while deserializing header: "))[1:-1]


def _header(path: Path, file: BufferedReader) -> bytes:
    start = file.read(64)
    check_fetched(path, start)
    if start.startswith(_PICKLED):
        reason = refusal(path.name, f"converted-{path.name}")
        raise CheckpointError(f"{path}: not a whole safetensors file: by its first bytes {reason}")
    length = int.from_bytes(start[:_LENGTH], "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: not a whole safetensors file: a header of {length:,} bytes; "
            f"allowed: up to {MAX_HEADER_BYTES:,}"
        )
    file.seek(_LENGTH)
    return file.read(length)


def _entry(given: Any, begin: int) -> Entry:
    first, end = given["data_offsets"]
    return Entry(given["dtype"], tuple(given["shape"]), begin + first, end - first)
