"""Texts that may be shown and stored."""

import re


def redact(text: object) -> str:
    """``text`` without the user and password of any URL in it."""
    return re.sub(r"(?<=://)[^\s'\"]*@", "***@", str(text))
