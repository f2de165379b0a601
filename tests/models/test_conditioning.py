"""Names and indices of classes."""

import unicodedata

import pytest

from models.conditioning import MAX_CLASS_NAME, Classes, class_names

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


def test_names_compare_in_nfc() -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert class_names([decomposed]) == (composed,)
    assert Classes.of(class_names([decomposed]), 1).index(composed) == 0
    assert Classes.of((composed,), 1).index(decomposed) == 0
    with pytest.raises(ValueError, match="names a class twice"):
        class_names([composed, decomposed])


@pytest.mark.parametrize(
    "name",
    ["", " ", "cat ", "\u00a0cat", "c\u200bat", "\ufeffcat", "c\nat", "c\x00t", "\udce9", 7, None],
)
def test_names_that_no_model_can_have(name: object) -> None:
    with pytest.raises(ValueError, match="a class name is one line that is not empty, of printab"):
        class_names(["dog", name])


def test_names_have_a_length() -> None:
    assert class_names(["x" * MAX_CLASS_NAME])
    with pytest.raises(ValueError, match="has a name of 257 characters; allowed: 256"):
        class_names(["x" * (MAX_CLASS_NAME + 1)])
