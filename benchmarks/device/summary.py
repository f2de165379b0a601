"""What the tables come to: exact buckets, ratios to the floor and to diffusers, served images."""

from collections.abc import Iterator, Mapping

from benchmarks.device.findings import Cell, Row, Tables
from benchmarks.device.names import (
    BUCKETS,
    COMPILED,
    EAGER,
    ENGINE,
    FAULTS,
    FLOOR,
    FREE_FLOOR,
    LAUNCH,
    LOAD,
    LOOP,
    OFF,
    PIXELS,
    RATES,
)
from benchmarks.device.running import Ended

_YARDSTICKS = {
    FLOOR: "of the floor",
    FREE_FLOOR: "of the free floor",
    EAGER: "times diffusers eager",
    COMPILED: "times diffusers compiled",
}


def summary(results: Mapping[str, Ended]) -> dict[str, list[Row]]:
    """Title -> table, of what was measured."""
    tables = {name: part.tables for name, part in results.items()}
    found = {
        "Exact": list(exact(tables.get("correct", {}))),
        "Served": list(served(tables.get("served", {}), tables.get("speed", {}))),
        "Rows per second of the engine": list(rates(tables, "speed", "peer")),
        "The same for the large UNet": list(rates(tables, "large", "large_peer")),
        "The same with prompts": list(prompted(tables)),
        "Mixed requests with prompts": list(mixed(tables)),
        "Faults that did not go as they should": [
            row for row in tables.get("faults", {}).get(FAULTS, []) if not row.get("as it should")
        ],
    }
    return {title: rows for title, rows in found.items() if rows}


def exact(correct: Tables) -> Iterator[Row]:
    """The buckets that are used, by precision, and whether pixels are right with them."""
    for row in correct.get(PIXELS, []):
        buckets = [b for b in correct.get(BUCKETS, []) if b["precision"] == row["precision"]]
        yield {
            "precision": row["precision"],
            "exact": row["exact"],
            "buckets": " ".join(str(b["rows"]) for b in buckets if b["used"]),
            "left out": " ".join(str(b["rows"]) for b in buckets if not b["used"]),
            "in a crowd as alone": row["in a crowd as alone"],
            OFF: row[OFF],
        }


def served(served: Tables, speed: Tables) -> Iterator[Row]:
    """What the server delivers, of what its engine makes without a server."""
    loops = {
        row["in flight"]: row["rows/s"]
        for row in speed.get(LOOP, [])
        if row["precision"] == "float32" and not row["compiled"]
    }
    for row in served.get(LOAD, []):
        bare = loops.get(row["clients"]) if row["server"] == "as it is" else None
        yield {
            "server": row["server"],
            "clients": row["clients"],
            "images/s": row["images/s"],
            "rows/s": row["rows/s"],
            "of the loop without a server": ratio(row["rows/s"], bare),
            "p95 ms": row["p95 ms"],
            "GPU busy": row["GPU busy, by its driver"],
        }


def rates(tables: Mapping[str, Tables], *parts: str) -> Iterator[Row]:
    """The engine beside its floor and beside diffusers, at equal precision and numbers of rows."""
    measured = {
        (row["way"], row["precision"], row["rows"]): row["rows/s"]
        for part in parts
        for row in tables.get(part, {}).get(RATES, [])
    }
    launches = {
        (row["precision"], row["rows"]): row["us until the call returns"]
        for part in parts
        for row in tables.get(part, {}).get(LAUNCH, [])
        if not row["compiled"]
    }
    for (way, precision, rows), speed in measured.items():
        if way == ENGINE:
            ratios = {
                title: ratio(speed, measured.get((other, precision, rows)))
                for other, title in _YARDSTICKS.items()
            }
            yield (
                {"precision": precision, "rows": rows, "rows/s": speed}
                | ratios
                | {"us of the host per tick": launches.get((precision, rows))}
            )


def prompted(tables: Mapping[str, Tables]) -> Iterator[Row]:
    """The engine beside diffusers by model, and beside the measured rate of matrix products."""
    products = {
        row["precision"]: row["TFLOP/s"]
        for row in tables.get("machine", {}).get("Arithmetic", [])
        if row["what"] == "matrix product"
    }
    theirs = _peer_rates(tables)
    for row in tables.get("prompts", {}).get(RATES, []):
        model, size = row["model"], row["rows"]
        yield {name: row[name] for name in ("model", "precision", "rows", "rows/s")} | {
            "of the matrix rate": ratio(row["TFLOP/s"], products.get(row["precision"])),
            **{
                _YARDSTICKS[way]: ratio(row["rows/s"], theirs.get((way, model, size)))
                for way in (EAGER, COMPILED)
            },
        }


def mixed(tables: Mapping[str, Tables]) -> Iterator[Row]:
    """The loop with decoding, beside diffusers' UNet with the two rows of one guided image."""
    theirs = _peer_rates(tables)
    for row in tables.get("prompts", {}).get(LOOP, []):
        yield {name: row[name] for name in ("model", "in flight", "images/s", "rows/s")} | {
            f"{_YARDSTICKS[way]}, 2 rows": ratio(row["rows/s"], theirs.get((way, row["model"], 2)))
            for way in (EAGER, COMPILED)
        }


def _peer_rates(tables: Mapping[str, Tables]) -> dict[tuple[Cell, Cell, Cell], Cell]:
    """Way, model and rows per batch -> rows per second of diffusers' UNets."""
    return {
        (row["way"], row["model"], row["rows"]): row["rows/s"]
        for row in tables.get("prompts_peer", {}).get(RATES, [])
    }


def ratio(a: Cell, b: Cell) -> float | None:
    """A / b, if both are known."""
    return round(float(a) / float(b), 3) if a and b else None
