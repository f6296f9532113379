"""What a request may ask for, and how many may wait."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """Bounds of one replica. A request over one of the first is refused with 4xx, one over the others with 503."""

    max_query_chars: int = 500
    max_top: int = 100
    max_rerank_top: int = 500
    max_conditions: int = 8
    max_condition_values: int = 50
    max_body_bytes: int = 16 << 10

    max_batch: int = 32
    """Queries that are searched at once."""
    batch_wait_s: float = 0.005
    """How long the first query of a batch waits for others."""
    max_waiting: int = 128
    """Searches that are being answered or wait for it; further ones are refused."""
    search_timeout_s: float = 10.0

    max_media: int = 4
    """Stills and pictures of kept patches that are made at the same time."""
    max_media_waiting: int = 128
    media_timeout_s: float = 40.0
    max_range_bytes: int = 4 << 20
    """The longest answer to a request for a range of a video; players ask again."""
    max_whole_bytes: int = 64 << 20
    """The largest video that is sent without a request for a range of it."""
    piece_bytes: int = 512 << 10
    """What is read of a video at once."""
    cache_bytes: int = 64 << 20
    """Stills and pictures that are kept."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"got {field.name}={getattr(self, field.name)}, wanted more than 0")
