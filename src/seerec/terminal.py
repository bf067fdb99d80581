"""Text from logs, made safe for a terminal."""


def printable(content: str) -> str:
    """Without control characters, which a log may hold and a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in content)
