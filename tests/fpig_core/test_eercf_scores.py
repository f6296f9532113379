import dataclasses
import math

import pytest
import torch

from fpig_core.eercf_scores import ScoreWeights, Temperatures, VideoFeatures, text_video_score
from fpig_core.normalise import unit

Q, B, F, P, D = 3, 4, 3, 2, 5
TEMPERATURES = Temperatures(weak=0.2, frame_gate=0.5, patch_gate=0.3)
ALL = ScoreWeights(video=0.5, weak_frame=0.8, weak_patch=0.2, tib_frame=0.3, tib_patch=0.1)


def inputs():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    video = VideoFeatures(unit(random(B, D)), unit(random(B, F, D)), unit(random(B, F, D)), unit(random(B, F, P, D)))
    return unit(random(Q, D)), random(Q, D), video, random(F, F)


def score(text_QD, asking_QD, video, mix_FF, *, weights=ALL, gate_BD=None):
    return text_video_score(
        text_QD,
        asking_QD,
        video,
        weights=weights,
        temperatures=TEMPERATURES,
        frame_mix_FF=mix_FF,
        gate_BD=gate_BD,
    )


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def gated(text, gate, keys, values, temperature):
    """Score of a text for what the gate takes of the values."""
    exponentials = [math.exp(dot(gate, key) / temperature) for key in keys]
    pooled = [
        sum(e / sum(exponentials) * value[d] for e, value in zip(exponentials, values, strict=True)) for d in range(D)
    ]
    return dot(text, pooled) / math.sqrt(dot(pooled, pooled))


def slow_terms(text, asking, video, mix, gate):
    """One text and one video, by plain numbers."""
    vector, frames, temporal, patches = (x.tolist() for x in video)
    patches = [patch for frame in patches for patch in frame]
    frame_similarity, patch_similarity = ([dot(text, key) for key in keys] for keys in (frames, patches))
    frame_weight, patch_weight = (
        [math.exp(x / TEMPERATURES.weak) / sum(math.exp(y / TEMPERATURES.weak) for y in values) for x in values]
        for values in (frame_similarity, patch_similarity)
    )
    mixed_weight = [sum(frame_weight[i] * mix[i][j] for i in range(F)) for j in range(F)]
    return {
        "video": dot(asking, vector),
        "weak_frame": dot(frame_similarity, mixed_weight),
        "weak_patch": dot(patch_similarity, patch_weight),
        "tib_frame": gated(text, gate, frames, temporal, TEMPERATURES.frame_gate),
        "tib_patch": gated(text, gate, patches, patches, TEMPERATURES.patch_gate),
    }


@pytest.mark.parametrize("gate_by", ["query", "paired_caption"])
@pytest.mark.parametrize("weights", [ALL, *(ScoreWeights(**{field.name: 0.7}) for field in dataclasses.fields(ALL))])
def test_equals_the_sum_of_its_terms_pair_by_pair(weights, gate_by):
    text, asking, video, mix = inputs()
    own = unit(torch.randn(B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    got = score(text, asking, video, mix, weights=weights, gate_BD=own if gate_by == "paired_caption" else None)
    for b in range(B):
        for q in range(Q):
            gate = (own[b] if gate_by == "paired_caption" else text[q]).tolist()
            one = VideoFeatures(*(x[b] for x in video))
            terms = slow_terms(text[q].tolist(), asking[q].tolist(), one, mix.tolist(), gate)
            wanted = sum(weight * terms[name] for name, weight in dataclasses.asdict(weights).items())
            assert got[b, q].item() == pytest.approx(wanted, rel=1e-9)


def test_pairs_picked_first_get_the_scores_of_all_pairs():
    text, asking, video, mix = inputs()
    every_BQ = score(text, asking, video, mix)
    q, b = torch.tensor([2, 0, 0, 1, 2]), torch.tensor([3, 3, 0, 1, 0])
    picked = VideoFeatures(*(x[b] for x in video))
    torch.testing.assert_close(score(text[q][:, None], asking[q][:, None], picked, mix)[:, 0], every_BQ[b, q])


def test_gating_by_the_own_caption_is_the_diagonal_of_gating_by_each():
    _, asking, video, mix = inputs()
    text = unit(torch.randn(B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    asking = torch.cat([asking, asking[:1]])
    paired = score(text, asking, video, mix, gate_BD=text)
    by_query = score(text, asking, video, mix)
    torch.testing.assert_close(paired.diagonal(), by_query.diagonal())
    assert not torch.allclose(paired, by_query)


def test_without_patches_their_terms_are_left_out():
    text, asking, video, mix = inputs()
    without = video._replace(patch_BFPD=video.patch_BFPD[:, :, :0])
    wanted = score(text, asking, video, mix, weights=dataclasses.replace(ALL, weak_patch=0.0, tib_patch=0.0))
    torch.testing.assert_close(score(text, asking, without, mix), wanted)


def test_other_numbers_of_frames_are_refused_where_the_weights_of_frames_count():
    text, asking, video, mix = inputs()
    shorter = VideoFeatures(video.video_BD, *(x[:, :2] for x in video[1:]))
    with pytest.raises(ValueError, match=r"num_frames=3"):
        score(text, asking, shorter, mix)
    score(text, asking, shorter, mix, weights=dataclasses.replace(ALL, weak_frame=0.0))


def test_weights_and_temperatures_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"weak_patch=-0\.1"):
        ScoreWeights(video=1.0, weak_patch=-0.1)
    with pytest.raises(ValueError, match="one above"):
        ScoreWeights()
    with pytest.raises(ValueError, match=r"frame_gate=0\.0"):
        Temperatures(frame_gate=0.0)
