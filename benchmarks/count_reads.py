"""Count the videos that the tasks of an embedding read, also if they are killed afterwards.

A job of Ray calls ``install`` in each of its worker processes (``worker_process_setup_hook``).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines import embed_stages

FOLDER_VARIABLE = "FPIG_COUNT_READS"
"""Environment variable: the folder of the counts, a file for each process, a line for each batch."""


def install() -> None:
    """Let the batches of this process be counted when they were read."""
    read = embed_stages.read_videos

    def read_videos(manifest: Any, samples: Any, **options: Any) -> Iterator[Any]:
        yield from read(manifest, samples, **options)
        with (Path(os.environ[FOLDER_VARIABLE]) / str(os.getpid())).open("a") as counts:
            counts.write(f"{len(samples)}\n")

    embed_stages.read_videos = read_videos


def counted(folder: Path) -> int:
    """Videos that were read so far."""
    return sum(int(line) for file in folder.iterdir() for line in file.read_text().splitlines())
