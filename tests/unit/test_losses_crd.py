"""CRD: its formula beside a loop, and what its memory keeps."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize
from torchdistill.losses.mid_level import CRDLoss

from kdcore.errors import ConfigError
from kdcore.losses.relation.contrast_memory import ContrastMemory
from kdcore.losses.relation.contrastive_representation import info_nce, noise_contrast
from tests.support.features import normal
from tests.support.methods import SAMPLES, inputs, method
from tests.support.relations import right_slope


def memory(samples: int = SAMPLES, width: int = 4, seed: int = 0) -> ContrastMemory:
    torch.manual_seed(seed)
    return ContrastMemory(samples, width, momentum=0.5)


def test_the_formula_is_a_loop():
    scores, normaliser, samples, temperature = normal(0, 3, 5).clamp(-1, 1), torch.tensor(40.0), 50, 0.3
    total = 0.0
    for row in scores.tolist():
        for number, score in enumerate(row):
            density = math.exp(score / temperature) / 40
            h = density / (density + 4 / 50)
            total -= math.log(h if number == 0 else 1 - h) / 3
    assert float(noise_contrast(scores, normaliser, samples, temperature)) == pytest.approx(total, rel=1e-4)
    assert right_slope(noise_contrast, scores, normaliser, samples, temperature)


def test_the_batch_as_contrast_is_a_loop():
    student, teacher = normalize(normal(0, 3, 4)), normalize(normal(1, 3, 4))
    total = 0.0
    for i in range(3):
        for a, b in ((student, teacher), (teacher, student)):
            scores = [math.exp(float(a[i] @ b[j]) / 0.2) for j in range(3)]
            total -= math.log(scores[i] / sum(scores)) / 3
    assert float(info_nce(student, teacher, 0.2)) == pytest.approx(total, rel=1e-12)
    assert right_slope(info_nce, student, teacher, 0.2)


def test_equal_to_torchdistill():
    ours = memory(10)
    theirs = CRDLoss.__new__(CRDLoss)  # its own constructor fails
    torch.nn.Module.__init__(theirs)
    theirs.eps, theirs.num_samples, theirs.num_negative_samples = 1e-7, 10, 6
    theirs.register_buffer("params", torch.tensor([6, 0.07, -1, -1, 0.5]))
    theirs.register_buffer("memory_v1", ours.student.clone())
    theirs.register_buffer("memory_v2", ours.teacher.clone())
    for step in range(2):
        student, teacher = (normalize(normal(2 * step + side, 3, 4).float()) for side in (0, 1))
        indices = torch.tensor([4, 0, 9]) - step * torch.tensor([0, 0, 1])
        numbers = torch.cat([indices[:, None], ours.draw(3, 6)], 1)
        densities = theirs.contrast_memory(student, teacher, indices, numbers)
        scores = ours.scores(student, teacher, numbers)
        normalisers = ours.normalise(torch.stack([(side / 0.07).exp().mean() for side in scores]))
        ours.remember(student, teacher, indices)
        torch.testing.assert_close(normalisers, theirs.params[2:4])
        for side in (0, 1):
            expected = theirs.compute_contrast_loss(densities[side])
            torch.testing.assert_close(noise_contrast(scores[side], normalisers[side], 10, 0.07), expected[0])
        torch.testing.assert_close(ours.student, theirs.memory_v1)
        torch.testing.assert_close(ours.teacher, theirs.memory_v2)


def test_a_row_moves_towards_its_sample_alone():
    kept = memory()
    before = kept.student.clone()
    embedding = torch.tensor([[1.0, 0, 0, 0]])
    for _ in range(30):
        kept.remember(embedding, embedding, torch.tensor([3]))
    torch.testing.assert_close(kept.student[3:4], embedding)
    others = torch.arange(SAMPLES) != 3
    assert torch.equal(kept.student[others], before[others])


def test_the_first_batch_fixes_the_normalisers():
    kept = memory()
    first = kept.normalise(torch.tensor([2.0, 3.0]))
    assert first.tolist() == [2.0 * SAMPLES, 3.0 * SAMPLES]
    assert torch.equal(kept.normalise(torch.tensor([7.0, 7.0])), first)


def test_negatives_follow_from_the_seed_and_go_on_in_a_checkpoint():
    one, same, other = memory(50), memory(50), memory(50, seed=1)
    first = one.draw(4, 30)
    assert torch.equal(first, same.draw(4, 30))
    assert not torch.equal(first, other.draw(4, 30))
    assert first.shape == (4, 30)
    resumed = memory(50, seed=5)
    resumed.load_state_dict(one.state_dict())
    second = one.draw(4, 30)
    assert torch.equal(second, resumed.draw(4, 30))
    assert not torch.equal(first, second)


def test_negatives_are_drawn_evenly():
    counts = torch.bincount(memory(8).draw(100, 80).flatten(), minlength=8)
    assert counts.min() > 850
    assert counts.max() < 1150


def test_a_run_that_resumes_goes_the_same_way():
    given = [inputs(seed=seed) for seed in range(4)]
    whole = method("crd")
    losses = [whole(one).item() for one in given]
    begun = method("crd")
    for one in given[:2]:
        begun(one)
    torch.manual_seed(99)
    resumed = method("crd", momentum=0.5)
    resumed.load_state_dict(begun.state_dict())
    assert [resumed(one).item() for one in given[2:]] == losses[2:]


def test_evaluation_leaves_the_memory():
    loss_of = method("crd").eval()
    before = {name: one.clone() for name, one in loss_of.state_dict().items() if "drawn" not in name}
    loss_of(inputs())
    assert all(torch.equal(loss_of.state_dict()[name], one) for name, one in before.items())


def test_the_gradient_reaches_student_and_embeddings():
    loss_of, given = method("crd"), inputs()
    loss_of(given).backward()
    assert float(given.student["vectors"].grad.abs().sum()) > 0
    assert all(float(one.grad.abs().sum()) > 0 for one in loss_of.parameters())


def test_training_brings_the_networks_together():
    loss_of, given = method("crd", negatives=40), inputs()
    vectors = given.student["vectors"].detach().requires_grad_()
    given = replace(given, student={**given.student, "vectors": vectors})
    learnt, losses = [vectors, *loss_of.parameters()], []
    for _ in range(60):
        loss = loss_of(given)
        for one, slope in zip(learnt, torch.autograd.grad(loss, learnt), strict=True):
            one.data -= 0.02 * slope
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    ours, theirs = loss_of.embeddings(0, vectors, given.teacher["vectors"])
    assert cosine_similarity(ours, theirs).min() > 0.5


def test_a_memory_in_bfloat16_stays_exact():
    loss_of = method("crd").bfloat16()
    loss_of(inputs())
    kept = loss_of.memories[0]
    assert {one.dtype for one in (kept.student, kept.teacher, kept.normalisers)} == {torch.float32}


def test_without_numbers_of_samples_there_is_no_memory():
    given = replace(inputs(), indices=None)
    with pytest.raises(ConfigError, match="set `contrast: batch`"):
        method("crd")(given)
    loss_of = method("crd", contrast="batch")
    assert list(loss_of.buffers()) == []
    assert loss_of(given) > 0
