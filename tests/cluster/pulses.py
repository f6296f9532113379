"""Pulses without a board."""


class Silent:
    """A pulse that nobody listens to."""

    def enter(self, stage: str, *, batch: int) -> None: ...
