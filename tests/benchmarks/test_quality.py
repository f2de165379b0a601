"""The figures of docs/samplers.md are those that were measured."""

from pathlib import Path

from benchmarks.quality import EVALUATIONS, Setting, read, settings, table
from models.sampling import SAMPLERS

DOCUMENT = Path(__file__).parents[2] / "docs" / "samplers.md"


def test_the_documents_table_is_what_was_measured() -> None:
    made = read()
    assert all(setting in made for setting in settings())
    assert table(made) in DOCUMENT.read_text(encoding="utf-8")


def test_a_setting_makes_as_many_steps_as_its_evaluations_are_enough_for() -> None:
    for sampler in SAMPLERS.values():
        for evaluations in EVALUATIONS:
            steps = Setting(sampler.name, "default", evaluations).steps
            assert sampler.evaluations(steps) <= evaluations < sampler.evaluations(steps + 1)
