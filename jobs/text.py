"""Text from outside on a terminal."""

from rich.text import Text


def plain(text: str) -> Text:
    """Text from outside: no markup, and no control characters that a terminal would obey."""
    return Text("".join(char if char.isprintable() or char == "\n" else " " for char in text))
