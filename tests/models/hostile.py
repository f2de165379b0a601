"""Folders that somebody made to hurt, each from a good one by one change."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

INDEX, SCHEDULE = "model_index.json", "scheduler/scheduler_config.json"
VAE, UNET = "vae/config.json", "unet/config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SHARDS = f"{WEIGHTS}.index.json"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 725160\n"
)
Damage = Callable[[Path], Any]  # of a folder


def changed(file: str, **values: Any) -> Damage:
    """Other values in a JSON file."""

    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def raw(file: str, key: str, text: str) -> Damage:
    """A value as no serializer writes it."""

    def damage(folder: Path) -> None:
        path = folder / file
        held = json.loads(path.read_text()) | {key: "HERE"}
        path.write_text(json.dumps(held).replace('"HERE"', text))

    return damage


def contents(file: str, data: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(data)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a pipe": _fifo,
    "a socket": _socket,
    "a directory": Path.mkdir,
    "10 GB of nothing": _sparse,
    "empty": Path.touch,
    "/dev/zero": _link("/dev/zero"),
    "/dev/full": _link("/dev/full"),
    "a terminal": _link("/dev/tty"),
    "the kernel's log": _link("/proc/kmsg"),
    "the kernel's memory": _link("/proc/kcore"),
    "a link to a pipe": lambda path: (_fifo(path.with_suffix(".x")), _link(f"{path.stem}.x")(path)),  # type: ignore[func-returns-value]
    "a link to nothing": _link("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def special(file: str, kind: str) -> Damage:
    """Another kind of file in a file's place."""

    def damage(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        SPECIAL[kind](folder / file)

    return damage


def header(entries: Any, data: bytes = b"") -> bytes:
    """A safetensors file: length, JSON, data."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def sharded(weight_map: Any) -> Damage:
    """An index of shards in place of the one file."""

    def damage(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / SHARDS).write_text(json.dumps({"weight_map": weight_map}))

    return damage
