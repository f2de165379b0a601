"""Text that others wrote, as a line of a log can bear it."""


def one_line(text: object, most: int = 500) -> str:
    """At most so many characters, printable ones: whoever wrote them begins no line of ours."""
    said = str(text)[: most + 1]
    line = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return line if len(said) <= most else line[:most] + "..."
