"""`darkroom key`: a new API key, and how the server is told of it."""

import click

from app.cli.console import one_line

_EPILOG_KEY = """\b
Examples:
  darkroom key alice
  darkroom key alice >> keys.txt      (the key itself goes to the terminal)
"""


@click.command(epilog=_EPILOG_KEY)
@click.argument("name")
def key(name: str) -> None:
    """Make an API key for NAME.

    The key is printed once, on standard error; the line for DARKROOM_API_KEYS_FILE, which has only
    its hash, on standard output.
    """
    with one_line():
        from app.access.keys import make_key

        secret, made = make_key(name)
    click.echo(f"key, shown this once: {secret}", err=True)
    click.echo(made.line())
