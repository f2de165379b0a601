"""Names and indices of classes."""

import pytest

from models.conditioning import Classes

CLASSES = Classes.of(("cat", "dog", "3"), 4)


@pytest.mark.parametrize(
    ("label", "index"), [("cat", 0), ("dog", 1), (0, 0), (1, 1), ("1", 1), (None, None)]
)
def test_names_and_indices(label: str | int | None, index: int | None) -> None:
    assert CLASSES.index(label) == index


def test_a_name_wins_over_an_index() -> None:
    assert Classes.of(("9", "8", "0"), 4).index("0") == 2
    assert Classes.of(("9", "8", "0"), 4).index(0) == 0


@pytest.mark.parametrize("label", ["bird", "", "-1", "4", "²", "1" * 5000, 3, -1])
def test_unknown_classes_are_refused_with_what_is_allowed(label: str | int) -> None:
    with pytest.raises(ValueError, match="allowed: cat, dog, 3, an index from 0 to 2, or null"):
        CLASSES.index(label)


def test_a_model_without_a_null_class_insists_on_one() -> None:
    classes = Classes.of(("cat", "dog"), 2)
    assert classes.null is None
    with pytest.raises(ValueError, match="needs a class"):
        classes.index(None)


def test_an_unconditional_model_takes_none_alone() -> None:
    classes = Classes.of((), None)
    assert classes.index(None) is None
    with pytest.raises(ValueError, match="no classes"):
        classes.index(0)


@pytest.mark.parametrize(("names", "rows"), [((), 4), (("a",), None), (("a",), 3)])
def test_names_must_match_the_embedding(names: tuple[str, ...], rows: int | None) -> None:
    with pytest.raises(ValueError, match="class names for num_class_embeds"):
        Classes.of(names, rows)
