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


def ratio(a: Cell, b: Cell) -> float | None:
    """A / b, if both are known."""
    return round(float(a) / float(b), 3) if a and b else None
