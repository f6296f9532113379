"""An import against what was published, as a table to read."""

from rich.table import Table

from jobs.text import plain
from pipelines.datasets.consistency import Consistency


def import_table(found: Consistency) -> Table:
    """A row a split, then what does not fit together."""
    title = f"{found.dataset} (layout {found.layout}): {found.protocol}, {found.queries}"
    table = Table(title=plain(title), title_justify="left", caption_justify="left")
    for name in ("split", "videos", "published", "captions", "published", "to write"):
        table.add_column(name, justify="left" if name == "split" else "right")
    table.add_column("remark", overflow="fold")
    for split in found.splits:
        counts = (split.num_videos, split.published_videos, split.num_captions, split.published_captions)
        cells = ("–" if count is None else f"{count:,}" for count in (*counts, split.num_to_write))
        table.add_row(split.split, *cells, plain(split.note))
    faults = {
        "captions without video": found.captions_without_video,
        "videos without captions": found.videos_without_captions,
        "ids listed twice": found.duplicate_ids,
        "videos in several splits": found.in_several_splits,
        "empty captions": found.empty_captions,
    }
    table.caption = ", ".join(f"{name}: {count:,}" for name, count in faults.items())
    return table
