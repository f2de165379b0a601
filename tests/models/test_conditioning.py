"""Names and indices of classes; prompts; sizes."""

import unicodedata

import pytest

from models.conditioning import (
    MAX_CLASS_NAME,
    MAX_PROMPT,
    Classes,
    Condition,
    Prompt,
    Prompts,
    class_names,
)
from models.sizes import Sizes

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


def test_prompts_say_which_conditions_they_know() -> None:
    prompts = Prompts(tokens=77, clip_skip=2)
    assert prompts.knows(Condition(prompt=Prompt("", "x" * MAX_PROMPT, 2)))
    for text in ("\0", "a\ud800", "\udfff", "x" * (MAX_PROMPT + 1)):
        assert not prompts.knows(Condition(prompt=Prompt(text)))
        assert not prompts.knows(Condition(prompt=Prompt("", text)))
    for condition in (
        Condition(),
        Condition(1),
        Condition(prompt=Prompt("a", clip_skip=3)),
        Condition(prompt=Prompt("a", clip_skip=-1)),
    ):
        assert not prompts.knows(condition)
    assert not Classes().knows(Condition(prompt=Prompt("a")))


def test_a_prompt_is_always_guided_and_leads_from_nothing_where_it_is_not() -> None:
    prompts = Prompts()
    condition = Condition(prompt=Prompt("a", "b", 0))
    assert prompts.guidable(condition)
    assert prompts.guidable(Condition(prompt=Prompt("")))
    assert prompts.unguided(condition) == Condition(prompt=Prompt("a"))
    assert prompts.caption(condition) == "a"


def test_what_was_cut_is_told_and_nothing_else() -> None:
    assert Prompts().cautions((0, 0)) == ()
    (told,) = Prompts().cautions((0, 12))
    assert told == "negative_prompt: cut after 75 tokens; 12 more did not fit"


def test_sizes_are_bounded_by_their_pixels_in_all() -> None:
    sizes = Sizes(16, 64, step=8, least=8, most=64, pixels=512)
    for side in ((16, 64), (16, 32), (8, 64), (64, 8)):  # its own size whatever the bound
        sizes.check(*side)
    for side in ((64, 16), (32, 24), (64, 64)):
        with pytest.raises(ValueError, match="steps of 8, 512 pixels in all at most"):
            sizes.check(*side)
    assert str(Sizes(8, 8, step=8, least=8, most=64)).endswith("in steps of 8")
