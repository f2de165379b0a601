"""Which class a prompt names."""

import dataclasses
import random
import unicodedata

import pytest

from app.errors import InvalidRequest
from app.schemas.prompts import class_of
from models.conditioning import Classes
from tests.fakes import INFO

DIGITS = dataclasses.replace(INFO, classes=Classes(tuple("0123456789"), 10))
FRUITS = dataclasses.replace(
    INFO, classes=Classes(("Apple", "Apple Red", "Pear", "Cherry, dark", "Crème"))
)
NOTHING = dataclasses.replace(INFO, classes=Classes())


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("7", "7"),
        (" 7 ", "7"),
        ("a drawing of the digit 7, please", "7"),
        ("7 7 7", "7"),
        ("", None),
        ("  ", None),
    ],
)
def test_digits(prompt: str, name: str | None) -> None:
    assert class_of(prompt, DIGITS) == name


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("apple", "Apple"),
        ("a red apple", "Apple Red"),
        ("APPLE RED", "Apple Red"),
        ("pear", "Pear"),
        ("one dark cherry", "Cherry, dark"),
        ("crème", "Crème"),
    ],
)
def test_names_of_several_words(prompt: str, name: str) -> None:
    assert class_of(prompt, FRUITS) == name


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a cat", "names none of the classes; allowed: a text that names one of: 0, 1, 2"),
        ("77", "names none"),
        ("3 or 4", "names more than one class: ['3', '4']"),
    ],
)
def test_a_prompt_that_names_no_class_is_told_which_there_are(prompt: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        class_of(prompt, DIGITS, "inputs")
    assert told in caught.value.wrong["inputs"]


def test_a_model_that_needs_a_class_refuses_an_empty_prompt() -> None:
    with pytest.raises(InvalidRequest, match="names one of: Apple, Apple Red, Pear"):
        class_of("", FRUITS)


@pytest.mark.parametrize("prompt", ["", "nothing", "0 1 2 name"])
@pytest.mark.parametrize(("words", "count"), [(50, 30), (1, 60_000), (50, 4)])
def test_an_error_is_short_whatever_classes_there_are(prompt: str, words: int, count: int) -> None:
    names = tuple(" ".join([str(k), *["name"] * words]) for k in range(count))
    info = dataclasses.replace(INFO, classes=Classes(names, None))
    with pytest.raises(InvalidRequest, match="a text that names one of: 0 name") as caught:
        class_of(prompt, info)
    assert len(str(caught.value)) < 600


def test_a_model_without_classes_takes_any_prompt() -> None:
    assert class_of("a red apple", NOTHING) is None
    assert class_of("", NOTHING) is None


def test_a_class_is_named_as_one_by_one_comparison_has_it() -> None:
    """Against every pair of the classes that a prompt has all words of."""
    numbers = random.Random(3)
    for _ in range(500):
        classes = {" ".join(numbers.choices("abcd", k=numbers.randrange(1, 4))) for _ in range(6)}
        info = dataclasses.replace(INFO, classes=Classes(tuple(sorted(classes)), None))
        prompt = " ".join(numbers.sample("abcdx", numbers.randrange(1, 6)))
        words = {name: set(name.split()) for name in info.classes.names}
        found = [name for name in info.classes.names if words[name] <= set(prompt.split())]
        best = [name for name in found if not any(words[name] < words[other] for other in found)]
        if prompt in info.classes.names:
            best = [prompt]
        if len(best) == 1:
            assert class_of(prompt, info) == best[0]
        else:
            with pytest.raises(InvalidRequest):
                class_of(prompt, info)


def test_a_prompt_that_names_every_class_is_compared_with_few() -> None:
    """Every pair of ten thousand would be a hundred million comparisons."""
    names = tuple(f"{k} {k + 1}" for k in range(0, 1000, 2)) * 20
    info = dataclasses.replace(INFO, classes=Classes(names, None))
    with pytest.raises(InvalidRequest, match="names more than one class"):
        class_of(" ".join(map(str, range(1000))), info)


def test_a_prompt_has_so_many_characters_and_no_more() -> None:
    assert class_of("7" + " x" * 2047, DIGITS) == "7"
    for info in (DIGITS, NOTHING):
        with pytest.raises(InvalidRequest, match="must have at most 4096 characters"):
            class_of("7" + " " * 4096, info)


@pytest.mark.parametrize("prompt", ["café", "a café at night"])
def test_prompts_compare_in_nfc(prompt: str) -> None:
    info = dataclasses.replace(INFO, classes=Classes(("café", "tea"), 2))
    for form in ("NFC", "NFD"):
        assert class_of(unicodedata.normalize(form, prompt), info) == "café"
