"""How much may be lost before a job says so by its exit code."""


def parse_fraction(text: str) -> float:
    """``"0.1%"`` or ``"0.001"`` as 0.001.

    Raises:
        ValueError: not a part of a whole.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"got the share {text!r}, wanted a percentage such as 0.1% or a fraction such as 0.001")
    return value
