"""What others wrote, in a line of the log."""

import pytest

from app.engine.text import one_line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("plain", "plain"),
        ("  two \n lines\r\n", "two lines"),
        ("\x1b[31mred\x00\x85\u2028\u202eder", "[31mred der"),
        (ValueError("a reason"), "a reason"),
        ("x" * 2_000_000, "x" * 500 + "..."),
        ("\N{SNOWMAN}", "\N{SNOWMAN}"),
    ],
)
def test_it_is_one_line_of_printable_characters(said: object, line: str) -> None:
    assert one_line(said) == line
