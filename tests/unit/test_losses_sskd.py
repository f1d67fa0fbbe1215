"""SSKD: its terms beside torchdistill's, its views, and who learns what from it."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize
from torchdistill.losses.mid_level import AuxSSKDLoss, SSKDLoss

from kdcore.errors import ConfigError
from kdcore.losses.relation import self_supervision
from kdcore.losses.relation.self_supervision import best_known, turned, view_divergence
from tests.support.features import normal
from tests.support.methods import inputs, method
from tests.support.relations import right_slope

BATCH, CLASSES = 4, 5
IMAGE = torch.arange(BATCH).repeat_interleave(3)
TARGETS = torch.tensor([1, 4, 0, 2])
VIEWS = torch.arange(4 * BATCH) % 4 != 0


def similarities(embeddings):
    """Of views to images, of embeddings [4 B, D] with the views behind their image."""
    directions = normalize(embeddings)
    return directions[VIEWS] @ directions[~VIEWS].T


@pytest.mark.parametrize(("contrast_share", "view_share"), [(0.75, 1.0), (0.3, 0.5), (0.0, 0.0)])
def test_both_terms_are_torchdistills(contrast_share, view_share):
    heads, logits = (
        [normal(seed, 4 * BATCH, 6) for seed in (0, 1)],
        [normal(seed, 4 * BATCH, CLASSES) for seed in (2, 3)],
    )
    given = [{"linear": {"output": one}, "head": {"output": other}} for one, other in zip(logits, heads, strict=True)]
    settings = {"kl_temp": 4.0, "ss_temp": 0.5, "tf_temp": 4.0, "ss_ratio": contrast_share, "tf_ratio": view_share}
    contrast = view_divergence(*map(similarities, heads), IMAGE, 0.5, contrast_share)
    views = view_divergence(logits[0][VIEWS], logits[1][VIEWS], TARGETS.repeat_interleave(3), 4.0, view_share)
    for weights, ours in (([0, 0, 1, 0], contrast), ([0, 0, 0, 1], views)):
        theirs = SSKDLoss("linear", "linear", "head", "head", **settings, loss_weights=weights)(*given, TARGETS)
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(similarities(heads[0])[4], cosine_similarity(heads[0][6:7], heads[0][::4]))
    expected = AuxSSKDLoss("head")(given[0], given[0], TARGETS)
    torch.testing.assert_close(cross_entropy(similarities(heads[0]), IMAGE), expected)


def test_the_divergence_has_its_slope():
    student, teacher, own = normal(0, 6, 3), normal(1, 6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    assert right_slope(view_divergence, student, teacher, own, 0.5, 0.5)
    assert float(view_divergence(teacher, teacher, own, 0.5, 0.5)) == pytest.approx(0, abs=1e-15)


def test_what_the_teacher_knows_best_is_kept():
    scores = torch.tensor([[3.0, 2.0, 1.0]]).repeat(6, 1)
    own = torch.tensor([0, 2, 1, 0, 1, 2])
    kept = {share: best_known(scores, own, share).int().tolist() for share in (0.0, 0.5, 1.0)}
    assert kept == {0.0: [1, 0, 0, 1, 0, 0], 0.5: [1, 0, 1, 1, 1, 0], 1.0: [1] * 6}
    nothing = view_divergence(scores, scores * 2, torch.full((6,), 2), 1.0, 0.0)
    assert nothing == 0


def test_views_are_turned_three_times():
    images = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert turned(images)[:3].flatten(1).tolist() == [[1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1]]
    assert turned(images)[3:].flatten(1).min() == 4
    with pytest.raises(ConfigError, match="must be square"):
        turned(torch.zeros(1, 3, 4, 5))


def test_each_network_has_its_own_teacher():
    loss_of, given = method("sskd"), inputs()
    loss_of(given).backward()
    assert given.student_model is not None
    assert given.teacher_model is not None
    assert all(one.grad is None for one in given.teacher_model.parameters())
    assert all(float(one.grad.abs().sum()) > 0 for one in given.student_model.parameters())
    heads = {name: float(one.grad.abs().sum()) for name, one in loss_of.named_parameters()}
    assert all(slope > 0 for name, slope in heads.items() if name.endswith("weight"))
    without = method("sskd", contrast_weight=0, view_weight=0)
    without(inputs()).backward()
    assert all(one.grad is None or not one.grad.any() for one in without.student.parameters())
    for one, other in zip(without.teacher.parameters(), loss_of.teacher.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_batch_s_own_pass_is_not_made_again():
    given = inputs()
    seen = []
    assert given.student_model is not None
    given.student_model.register_forward_pre_hook(lambda model, pixels: seen.append(pixels[0].shape[0]))
    method("sskd")(replace(given))
    assert seen == [12]


def test_under_autocast_the_student_s_pass_alone_is_rounded(monkeypatch):
    given, exact = inputs(), float(method("sskd")(inputs()).detach())
    dtypes = []
    compared = self_supervision.view_divergence
    monkeypatch.setattr(
        self_supervision, "view_divergence", lambda *sides: (dtypes.append(sides[0].dtype), compared(*sides))[1]
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = float(method("sskd")(given).detach())
    assert dtypes == [torch.float32, torch.bfloat16]
    assert loss == pytest.approx(exact, rel=0.02)
