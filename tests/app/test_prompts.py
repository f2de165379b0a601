"""Which class a prompt names."""

import dataclasses

import pytest

from app.errors import InvalidRequest
from app.prompts import class_of
from tests.fakes import INFO

DIGITS = dataclasses.replace(INFO, classes=tuple("0123456789"), null_class=10)
FRUITS = dataclasses.replace(
    INFO, classes=("Apple", "Apple Red", "Pear", "Cherry, dark", "Crème"), null_class=None
)
NOTHING = dataclasses.replace(INFO, classes=(), null_class=None)


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
    with pytest.raises(InvalidRequest):
        class_of("", FRUITS)


def test_a_model_without_classes_takes_any_prompt() -> None:
    assert class_of("a red apple", NOTHING) is None
    assert class_of("", NOTHING) is None
