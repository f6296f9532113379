"""Search shows the best videos first, and text from outside as mere text."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from fpig_core.bundle import load_bundle
from fpig_core.retrieval import encode_queries
from jobs.draw_tokens import Args as DrawArgs
from jobs.draw_tokens import main as draw
from jobs.search import Args, main
from jobs.text import plain
from tests.worlds import caption_of, write_corpus, write_model, write_shards


@pytest.fixture
def world(tmp_path):
    model_id = write_model(tmp_path / "model")
    manifest = write_shards(tmp_path / "shards", 6)
    vectors = encode_queries(load_bundle(tmp_path / "model"), [caption_of(number) for number in range(6)])
    write_corpus(str(tmp_path / "corpus"), manifest, vectors, model_id=model_id, model=str(tmp_path / "model"))
    return tmp_path


def test_the_video_with_this_caption_comes_first(world, capsys):
    results = main(Args(corpus=str(world / "corpus"), query=caption_of(4), top=3)).summary["results"]
    assert [result["rank"] for result in results] == [1, 2, 3]
    assert results[0]["video_id"] == "video4"
    assert results[0]["score"] == pytest.approx(1, abs=1e-5)
    assert results[0]["captions"] == [caption_of(4), "video number 4"]
    assert (results[0]["shard"], results[0]["key"]) == ("shard-000000.tar", "000004")
    assert np.all(np.diff([result["score"] for result in results]) <= 0)
    assert "video4" in capsys.readouterr().out


def test_wrong_requests_are_refused(world):
    corpus = str(world / "corpus")
    write_model(world / "other", seed=1)
    with pytest.raises(ValueError, match="which embedded this corpus"):
        main(Args(corpus=corpus, query="a", model=str(world / "other")))
    with pytest.raises(ValueError, match="empty query"):
        main(Args(corpus=corpus, query=" "))
    with pytest.raises(ValueError, match="top=0"):
        main(Args(corpus=corpus, query="a", top=0))
    with pytest.raises(ValueError, match="embed_corpus"):
        main(Args(corpus=str(world / "nowhere"), query="a"))


def test_text_from_outside_commands_no_terminal():
    assert plain("[red]a\x1b[31mb\nc").plain == "[red]a [31mb\nc"


def test_kept_tokens_are_drawn(world):
    out = world / "tokens.png"
    args = DrawArgs(
        model=str(world / "model"), manifest=str(world / "shards"), out=str(out), video_id=("video5", "video0")
    )
    assert draw(args).summary["num_videos"] == 2
    assert out.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="'video99'"):
        draw(dataclasses.replace(args, video_id=("video99",)))
    with pytest.raises(ValueError, match=r"ends in \.png"):
        draw(dataclasses.replace(args, out="tokens"))


def test_the_example_of_the_docs_runs(world, capsys):
    text = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    example = re.search(r"```python\n(from fpig_core\.bundle.*?)```", text, re.DOTALL)
    assert example
    code = example[1].replace("runs/mine/corpus", str(world / "corpus"))
    exec(code.replace("runs/mine/train/model", str(world / "model")), {})  # noqa: S102
    assert "video" in capsys.readouterr().out


def test_conditions_and_likeness_are_options(world):
    corpus = str(world / "corpus")
    found = main(Args(corpus=corpus, like="video4", where=("key < 000003", "video_bytes > 0"), top=5)).summary
    assert {result["video_id"] for result in found["results"]} == {"video0", "video1", "video2"}
    assert found["where"] == ["key < 000003", "video_bytes > 0"]
    for wrong, message in (
        (Args(corpus=corpus, like="video4", query="a"), "only one of both"),
        (Args(corpus=corpus, like="video4", rerank_top=5), "a second stage judges texts"),
        (Args(query="a"), "--corpus to compare every video, or --index"),
    ):
        with pytest.raises(ValueError, match=message):
            main(wrong)
