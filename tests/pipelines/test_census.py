"""A census equals counting by plain loops, however the rows come."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.census import CAPTIONS_UPTO, SECONDS_UPTO, WORDS_UPTO, Census
from pipelines.manifest import PROBED_SCHEMA


def make_rows(num_rows, *, seed=0):
    rng = np.random.default_rng(seed)
    words = ["dog", "Straße", "走る", "a"]
    return [
        {
            "shard": "a.tar",
            "video_bytes": int(rng.integers(1, 99)),
            "video_suffix": str(rng.choice(["mp4", "jpg", ""])),
            "captions": [" ".join(rng.choice(words, rng.integers(1, 100))) for _ in range(rng.integers(0, 30))],
            "status": str(rng.choice(["ok", "ok", "bad_json", "no_video"])),
            "codec": str(rng.choice(["h264", "vp9"])),
            "width": int(rng.choice([64, 128])),
            "height": 48,
            "duration_s": (None, 0.5, 1.0, 1.5, 300.0, 9999.0)[rng.integers(6)],
            "probe": str(rng.choice(["ok", "ok", "bad_container"])),
        }
        for _ in range(num_rows)
    ]


def binned(values, upto):
    """The first bin whose bound is not below the value."""
    counts = [0] * (len(upto) + 1)
    for value in values:
        counts[next((i for i, bound in enumerate(upto) if value <= bound), len(upto))] += 1
    return [{"upto": bound, "count": count} for bound, count in zip((*upto, None), counts, strict=True)]


def tallied(values):
    return {value: list(values).count(value) for value in set(values)}


def slow_census(rows):
    ok = [row for row in rows if row["status"] == "ok"]
    texts = [text for row in ok for text in row["captions"]]
    readable = [row for row in ok if row["probe"] == "ok"]
    seconds = [row["duration_s"] for row in readable if row["duration_s"] is not None]
    return {
        "num_samples": len(rows),
        "num_ok": len(ok),
        "num_captioned": sum(bool(row["captions"]) for row in ok),
        "num_captions": len(texts),
        "num_video_bytes": sum(row["video_bytes"] for row in rows),
        "longest_caption": max(map(len, texts)),
        "num_probed": len(ok),
        "total_seconds": pytest.approx(sum(seconds)),
        "suffixes": tallied([row["video_suffix"] for row in rows]),
        "reasons": tallied([row["status"] for row in rows if row["status"] != "ok"]),
        "codecs": tallied([row["codec"] for row in readable]),
        "sizes": tallied([f"{row['width']}×{row['height']}" for row in readable]),
        "unreadable": tallied([row["probe"] for row in ok if row["probe"] != "ok"]),
        "captions_a_sample": binned([len(row["captions"]) for row in ok], CAPTIONS_UPTO),
        "caption_words": binned([len(text.split()) for text in texts], WORDS_UPTO),
        "seconds": binned(seconds, SECONDS_UPTO),
    }


@pytest.mark.parametrize("step", [1, 7, 80])
def test_it_counts_as_loops_do(step):
    rows, census = make_rows(80), Census()
    for start in range(0, len(rows), step):
        census.add(pa.Table.from_pylist(rows[start : start + step], schema=PROBED_SCHEMA))
    assert census.as_dict() == slow_census(rows)


def test_nothing_is_counted_as_nothing():
    census = Census()
    census.add(PROBED_SCHEMA.empty_table())
    assert census.as_dict() == Census().as_dict()
