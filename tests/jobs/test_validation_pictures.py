"""Tables and pictures of a validation: the worst queries first, and each picture under its own query."""

import json
import shutil
from pathlib import Path

from PIL import Image

from cluster.tracking import Tracker
from cluster.validation import RankedQuery
from fpig_core.drawing import TokenPicture
from jobs import validation_pictures
from jobs.validation_pictures import NUM_EACH, log_pictures, log_table
from tests.worlds import write_model, write_shards


class Kept(Tracker):
    """Keeps copies of what is attached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def log_artifact(self, path: str | Path, *, folder: str = "") -> None:
        shutil.copy(path, self.folder)


def test_the_best_and_the_worst_are_drawn_and_an_unreadable_one_is_left_out(tmp_path, monkeypatch) -> None:
    manifest = write_shards(tmp_path / "shards", 10, flaws={9: "bad_container"})
    uids = manifest.take(range(10)).to_pylist()
    queries = [RankedQuery(row["uid"], f"query {number}", 1 + number, "") for number, row in enumerate(uids)][::-1]
    write_model(tmp_path / "model")
    drawn, draw = [], validation_pictures.draw_contact_sheet

    def note(pictures: list[TokenPicture], *, heading: str) -> Image.Image:
        drawn.append(pictures)
        return draw(pictures, heading=heading)

    monkeypatch.setattr(validation_pictures, "draw_contact_sheet", note)
    tracker = Kept(tmp_path / "kept")
    log_pictures(tracker, tmp_path / "model", manifest, queries, epoch=3)
    wanted = [*range(NUM_EACH), *range(10 - NUM_EACH, 9)]
    assert [(picture.title, picture.caption) for picture in drawn[0]] == [
        (f"rank {1 + number}: video{number}", f"query {number}") for number in wanted
    ]
    assert Image.open(tmp_path / "kept" / "queries-epoch-0003.png").format == "PNG"
    log_table(tracker, queries, epoch=3)
    table = json.loads((tmp_path / "kept" / "queries-epoch-0003.json").read_text())
    assert [row[table["columns"].index("rank")] for row in table["data"]] == list(range(10, 0, -1))
