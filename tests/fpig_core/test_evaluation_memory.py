"""Judging 50,000 queries on 50,000 videos takes less than 4 GiB, where their scores alone would be 20 GB."""

import json
import subprocess
import sys

import pytest

NUM, DIM, LIMIT_BYTES = 50_000, 512, 4 << 30
CHILD = f"""
import json, resource, time
import torch
from fpig_core.evaluation import Extras, Queries, Subject, evaluate_vectors

generator = torch.Generator().manual_seed(0)
video = torch.nn.functional.normalize(torch.randn({NUM}, {DIM}, generator=generator), dim=1)
query = torch.nn.functional.normalize(video + 0.25 * torch.randn({NUM}, {DIM}, generator=generator), dim=1)
ids = tuple(f"v{{i}}" for i in range({NUM}))
texts = tuple("word " * (1 + i % 30) for i in range({NUM}))
queries = Queries(ids=ids, texts=texts, video_ids=ids)
started = time.perf_counter()
subject = Subject(model_id="random", data_id="made up")
extras = Extras(num_resamples=200, categories={{v: str(i % 7) for i, v in enumerate(ids)}})
judged = evaluate_vectors(queries, query, ids, video, subject=subject, extras=extras)
print(json.dumps({{
    "seconds": time.perf_counter() - started,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "t2v": judged.result["t2v"],
}}))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_thousand_by_fifty_thousand_fit_into_four_gibibytes():
    done = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True, timeout=880)
    told = json.loads(done.stdout)
    print(told)
    assert told["peak_bytes"] < LIMIT_BYTES
    assert 0 < told["t2v"]["R@1"] < 100
