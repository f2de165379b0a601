"""The Markdown of the results, with what each ratio should be."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.report import table
from benchmarks.servers import OURS
from benchmarks.stable_diffusion.full import STEPS as FULL_STEPS
from benchmarks.stable_diffusion.full import Full
from benchmarks.stable_diffusion.scaled import CLIENTS, Scaled, Served
from benchmarks.stable_diffusion.servers import DTYPES, PEER
from benchmarks.stable_diffusion.shapes import SHAPES
from benchmarks.stable_diffusion.workload import GUIDANCE_SCALES, SAMPLERS, STEPS

_OF_LOOP = 0.95  # served rows/s, at least
_TIMES_PEER = {"float32": 2.0, "bfloat16": 2.3}  # images/s in the same precision, at least
# Seconds per image, at most: of ours in a precision, by the peer's in another.
_OF_PEER = {
    ("float32", "float32"): 0.5,
    ("bfloat16", "float32"): 0.3,
    ("bfloat16", "bfloat16"): 0.55,
}
_TITLES = {OURS: "Darkroom", PEER: "diffusers, FastAPI, a lock"}


def markdown(about: Mapping[str, str], scaled: Scaled | None, full: Full | None) -> str:
    """Both measurements, as far as they were made."""
    lines = ["# Stable Diffusion beside diffusers, measured", ""]
    lines += ["Written by `python -m benchmarks.stable_diffusion`. All weights are random.", ""]
    lines += table(("", ""), about.items())
    lines += scaled_section(scaled) if scaled else []
    lines += full_section(full) if full else []
    return "\n".join(lines) + "\n"


def scaled_section(found: Scaled) -> list[str]:
    """Many clients."""
    samplers = ", ".join(name for name, _ in SAMPLERS)
    loads = [
        (dtype, _TITLES[name], *cells(runs))
        for dtype, servers in found.served.items()
        for name, runs in servers.items()
    ]
    loops = [
        (dtype, "Darkroom's loop without a server", *middle(found.bare_images[dtype], ran))
        for dtype, ran in found.bare.items()
    ]
    head = ("precision", "server", "images/s", "rows/s", "rows/s that ran", "p50 s", "p95 s",
            "errors")  # fmt: skip
    return [
        "",
        f"## {CLIENTS} clients",
        "",
        f"{SHAPES['scaled'].says}. A closed loop of {CLIENTS} clients; steps {STEPS}, guidance "
        f"scales {GUIDANCE_SCALES}, samplers {samplers}, prompts and negative prompts are mixed. "
        "A row is one evaluation of the UNet. Images/s and rows/s are of the images that were "
        "answered in the window; rows that ran, as the engine counts them. Medians of all rounds.",
        "",
        *table(head, sorted([*loads, *loops], key=lambda row: DTYPES.index(row[0]))),
        "",
        *table(("", "ratio", "goal", "reached"), scaled_ratios(found)),
    ]


def cells(runs: Sequence[Served]) -> tuple[str, ...]:
    """A server, under the headings of the table."""
    ran = [run.run for run in runs if run.run is not None]
    waits = ([getattr(run, name) for run in runs] for name in ("p50", "p95"))
    return (
        f"{statistics.median(run.images for run in runs):.3f}",
        f"{statistics.median(run.rows for run in runs):.2f}",
        f"{statistics.median(ran):.2f}" if ran else "-",
        *("-" if None in wait else f"{statistics.median(wait):.1f}" for wait in waits),
        str(sum(run.failed for run in runs)),
    )


def middle(images: Sequence[float], ran: Sequence[float]) -> tuple[str, ...]:
    """Our loop, under the same headings."""
    return (
        f"{statistics.median(images):.3f}", "-", f"{statistics.median(ran):.2f}", "-", "-", "-"
    )  # fmt: skip


def scaled_ratios(found: Scaled) -> Iterator[tuple[str, ...]]:
    """The median of the ratios within each round."""
    for dtype, servers in found.served.items():
        ours, peer = servers[OURS], servers[PEER]
        of_loop = [(run.run or 0.0) / ran for run, ran in zip(ours, found.bare[dtype], strict=True)]
        name = f"rows/s, served by without a server, {dtype}"
        yield judged(name, statistics.median(of_loop), _OF_LOOP)
        times = [run.images / other.images for run, other in zip(ours, peer, strict=True)]
        name = f"images/s, Darkroom by diffusers, {dtype}"
        yield judged(name, statistics.median(times), _TIMES_PEER[dtype])


def full_section(found: Full) -> list[str]:
    """One client."""
    body = [
        (
            _TITLES[name],
            dtype,
            f"{statistics.median(drawn.seconds):.2f}",
            f"{min(drawn.seconds):.2f} to {max(drawn.seconds):.2f}",
            f"{drawn.peak / 2**30:.2f}",
            f"{drawn.start:.0f}",
        )
        for name, dtypes in found.items()
        for dtype, drawn in dtypes.items()
    ]
    head = ("server", "precision", "s per image, median", "range", "peak GiB of the process",
            "s until ready")  # fmt: skip
    ratios = (
        judged(
            f"s per image, Darkroom in {ours} by diffusers in {theirs}",
            statistics.median(found[OURS][ours].seconds)
            / statistics.median(found[PEER][theirs].seconds),
            -most,
        )
        for (ours, theirs), most in _OF_PEER.items()
    )
    return [
        "",
        "## One client, true shapes",
        "",
        f"{SHAPES['full'].says}, 512 x 512 pixels, {FULL_STEPS} guided steps, one request after "
        "the other, each with a prompt of its own. Peak: the most resident memory (VmHWM) of the "
        "process with the networks, which is Darkroom's worker.",
        "",
        *table(head, body),
        "",
        *table(("", "ratio", "goal", "reached"), ratios),
    ]


def judged(name: str, value: float, goal: float) -> tuple[str, ...]:
    """A ratio and its goal: at least `goal`, or at most `-goal` where that is negative."""
    if goal < 0:
        return name, f"{value:.3f}", f"at most {-goal:g}", "yes" if value <= -goal else "no"
    return name, f"{value:.3f}", f"at least {goal:g}", "yes" if value >= goal else "no"
