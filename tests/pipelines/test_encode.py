"""One model actor: what it computes in, what it rejects, and the shape of what it gives."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from fpig_core.bundle import load_bundle
from pipelines.columns import choose_columns
from pipelines.decode import decode_frames
from pipelines.encode import EncodeVideos
from pipelines.parts import CorpusSpec
from tests.worlds import PREPROCESS, video_bytes, write_model


@pytest.fixture(scope="module")
def model_url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return str(folder)


def encoder(model_url, *, is_compiled=False, **changes):
    bundle = load_bundle(model_url)
    columns = choose_columns(bundle.model, PREPROCESS, extra=("pseudo_query", "selected_tokens"), for_reranking=False)
    spec = CorpusSpec(model_id=bundle.model_id, preprocess_digest="any", columns=columns, dtype="float32")
    spec = dataclasses.replace(spec, **changes)
    return spec, EncodeVideos(model_url, spec, 2, use_gpu=False, is_compiled=is_compiled)


def batch_of(frames, *, rows_after=0):
    empty, number = np.array([""] * len(frames)), np.arange(len(frames))
    after = np.full(len(frames), rows_after)
    return {"row": number, "reason": empty, "detail": empty, "frames": frames, "rows_after": after}


@pytest.mark.parametrize(("dtype", "reasons"), [("float16", ["not_finite", ""]), ("float32", ["", ""])])
def test_numbers_that_the_corpus_cannot_hold_are_rejected(model_url, monkeypatch, dtype, reasons):
    spec, encode = encoder(model_url, dtype=dtype)
    offered = encode._model.columns
    factor_B1 = torch.tensor([[1e6], [1.0]])
    monkeypatch.setattr(
        encode._model,
        "columns",
        lambda video: offered(video) | {"pseudo_query": factor_B1.expand(2, spec.column("pseudo_query").size)},
    )
    got = encode(batch_of(np.zeros((2, 3, 3, 32, 32), np.uint8)))
    assert got["reason"].tolist() == reasons
    assert got["vector"].dtype == np.dtype(dtype)


def test_what_fills_up_a_part_follows_its_last_batch(model_url):
    spec, encode = encoder(model_url)
    got = encode(batch_of(np.zeros((2, 3, 3, 32, 32), np.uint8), rows_after=3))
    assert got["row"].tolist() == [0, 1, -1, -1, -1]
    assert not got["vector"][2:].any()
    assert {len(value) for value in got.values()} == {5}
    assert set(got) == {"row", "reason", "detail", *(column.name for column in spec.columns)}


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_model_computes_in_the_precision_of_the_corpus(model_url, precision, dtype):
    _, encode = encoder(model_url, precision=precision)
    seen, model = set(), load_bundle(model_url).model
    frames = np.stack([decode_frames(video_bytes(n), suffix="mp4", preprocess=PREPROCESS) for n in range(2)])
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, out: seen.add(out.dtype) if isinstance(module, torch.nn.Linear) else None
    )
    with hook:
        got = encode(batch_of(frames))
    assert dtype in seen
    with torch.inference_mode():
        exact = model.columns(model.encode_video(torch.from_numpy(frames)))["vector"].numpy()
    error = np.abs(got["vector"] - exact).max()
    assert error < 1e-5 if precision == "fp32" else 1e-5 < error < 0.05


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler")
def test_compiled_blocks_give_the_same_vectors(model_url):
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 32, 32), np.uint8)
    plain, compiled = (
        encoder(model_url, is_compiled=is_compiled)[1](batch_of(frames)) for is_compiled in (False, True)
    )
    np.testing.assert_allclose(compiled["vector"], plain["vector"], atol=1e-5)
