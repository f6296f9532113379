"""Texts that may be shown and stored."""

import re

MAX_CAUSE = 500


def redact(text: object) -> str:
    """``text`` without the user, the password and the query of any URL in it."""
    without_user = re.sub(r"(?<=://)[^\s'\"]*@", "***@", str(text))
    return re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]+", r"\1", without_user)


def cause(error: BaseException) -> str:
    """What happened, on one short line that holds no secrets of a URL."""
    text = " ".join(redact(f"{type(error).__name__}: {error}").split()).removesuffix(":")
    return text if len(text) <= MAX_CAUSE else f"{text[:MAX_CAUSE]} …"
