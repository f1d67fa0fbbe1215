import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels import FeatureLabels, label_seeds
from kdcore.labels.sampling import draw_counts, uniforms
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, SparseLabels, TopKLabels
from kdcore.losses.response import soft_target_loss
from kdcore.losses.sparse import distillation_loss_from_hidden


def topk_of(teacher_logits: Tensor, k: int) -> TopKLabels:
    log_probs = teacher_logits.log_softmax(-1)
    values, ids = log_probs.topk(k, -1)
    rest = log_probs.scatter(1, ids, float("-inf"))
    return TopKLabels(ids, values, rest.logsumexp(-1), teacher_logits.shape[1])


def sparse_of(teacher_logits: Tensor, draws: int, seed: int = 0) -> SparseLabels:
    """Labels of codec `sampled`, without the codec; the weights of every third are not normalised."""
    seeds = label_seeds(seed.to_bytes(16, "little"), len(teacher_logits))
    points = np.sort(uniforms(seeds, draws), axis=1)
    drawn, _ = draw_counts(teacher_logits, points)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(drawn["entries"])]))
    weights = torch.from_numpy(drawn["counts"].astype(np.float32)) / draws
    labels = SparseLabels(torch.from_numpy(drawn["ids"]).long(), weights, offsets, teacher_logits.shape[1])
    weights[labels.label_of_entry() % 3 == 0] *= 1.5
    return labels


def reference(logits: Tensor, labels: SoftLabels | None, targets: Tensor, hard: float, weights: Tensor) -> Tensor:
    """The definition, written out per token in dense float64."""
    total = torch.zeros((), dtype=torch.float64)
    for row, (z, target) in enumerate(zip(logits.double(), targets, strict=True)):
        log_p = z.log_softmax(0)
        kl = torch.zeros((), dtype=torch.float64)
        if isinstance(labels, TopKLabels):
            stored = labels.ids[row].tolist()
            for place, index in enumerate(stored):
                log_t = labels.log_probs[row, place].double()
                kl = kl + log_t.exp() * (log_t - log_p[index])
            others = [index for index in range(len(z)) if index not in stored]
            if others and labels.tail_log_prob[row] > -math.inf:
                log_t = labels.tail_log_prob[row].double()
                kl = kl + log_t.exp() * (log_t - log_p[others].logsumexp(0))
        elif isinstance(labels, SparseLabels):
            for entry in range(int(labels.offsets[row]), int(labels.offsets[row + 1])):
                weight = labels.weights[entry].double()
                kl = kl + weight * (weight.log() - log_p[labels.ids[entry]])
        elif isinstance(labels, DenseLabels):
            log_t = labels.log_probs[row].double()
            kl = (log_t.exp() * (log_t - log_p[: len(log_t)])).nan_to_num(0.0).sum()
        part = 1.0 if labels is None else hard
        total = total + weights[row].double() * (part * -log_p[target] + (1 - part) * kl)
    return total


def random_case(seed: int, tokens: int, vocab: int, dim: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, dim, generator=generator, dtype=dtype)
    head = torch.randn(vocab, dim, generator=generator, dtype=dtype)
    bias = torch.randn(vocab, generator=generator, dtype=dtype)
    teacher = 3 * torch.randn(tokens, vocab, generator=generator, dtype=dtype)
    targets = torch.randint(vocab, (tokens,), generator=generator)
    weights = torch.rand(tokens, generator=generator, dtype=dtype)
    return [hidden, head, bias], teacher, targets, weights


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tokens=st.integers(1, 9),
    vocab=st.integers(2, 17),
    k=st.integers(-8, 17),
    hard=st.sampled_from([0.0, 0.3, 1.0]),
    chunk=st.integers(1, 10),
)
def test_value_and_gradients_are_those_of_the_dense_definition(seed, tokens, vocab, k, hard, chunk):
    leaves, teacher, targets, weights = random_case(seed, tokens, vocab, dim=3)
    dense = DenseLabels(teacher.log_softmax(-1))
    labels = None if k == 0 else dense if k == 17 else topk_of(teacher, min(abs(k), vocab))
    labels = sparse_of(teacher, -k, seed) if k < 0 else labels
    leaves = [leaf.requires_grad_() for leaf in leaves]
    wanted = reference(leaves[0] @ leaves[1].T + leaves[2], labels, targets, hard, weights)
    wanted_gradients = torch.autograd.grad(2.5 * wanted, leaves)
    loss, metrics = distillation_loss_from_hidden(
        leaves[0],
        leaves[1],
        labels,
        targets,
        hard_weight=hard,
        head_bias=leaves[2],
        chunk_tokens=chunk,
        weights=weights,
    )
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(2.5 * loss, leaves), wanted_gradients)
    torch.testing.assert_close(metrics["tokens"], weights.sum())


@pytest.mark.parametrize("kind", ["topk", "dense", "sparse", "none"])
def test_gradcheck(kind):
    leaves, teacher, targets, _ = random_case(1, tokens=5, vocab=7, dim=3)
    kinds = {"topk": topk_of(teacher, 3), "dense": DenseLabels(teacher.log_softmax(-1)), "none": None}
    labels = {**kinds, "sparse": sparse_of(teacher, 4)}[kind]

    def loss(hidden: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        return distillation_loss_from_hidden(
            hidden, head, labels, targets, hard_weight=0.25, head_bias=bias, chunk_tokens=2
        )[0]

    assert torch.autograd.gradcheck(loss, [leaf.requires_grad_() for leaf in leaves])


def test_a_student_that_gives_the_tail_almost_nothing_still_has_the_exact_gradient():
    logits = torch.tensor([[200.0, 199.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    labels = topk_of(torch.tensor([[1.0, 0.5, 0.0, -0.5]], dtype=torch.float64), 2)
    targets = torch.tensor([0])
    wanted = reference(logits, labels, targets, 0.0, torch.ones(1))
    (wanted_gradient,) = torch.autograd.grad(wanted, logits)
    single = logits.detach().float().requires_grad_()  # in float32, exp(-199) is zero
    loss, _ = soft_target_loss(single, labels, targets, hard_weight=0.0)
    (gradient,) = torch.autograd.grad(loss, single)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=1e-5, atol=1e-6)


def test_all_classes_stored_is_the_generalised_jsd_of_trl():
    generalized_jsd_loss = pytest.importorskip("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss
    _, teacher, targets, _ = random_case(2, tokens=6, vocab=11, dim=2, dtype=torch.float32)
    student = torch.randn(6, 11)
    theirs = generalized_jsd_loss(student[None], teacher[None], beta=0, reduction="sum")
    for labels in (topk_of(teacher, 11), DenseLabels(teacher.log_softmax(-1))):
        ours, _ = soft_target_loss(student, labels, targets, hard_weight=0.0)
        torch.testing.assert_close(ours, theirs)


def test_a_padded_student_vocabulary_counts_its_padding_as_classes_without_mass():
    leaves, teacher, targets, _ = random_case(3, tokens=4, vocab=10, dim=3)
    labels = DenseLabels(teacher[:, :8].log_softmax(-1))
    loss, _ = distillation_loss_from_hidden(leaves[0], leaves[1], labels, targets % 8, hard_weight=0.0)
    wanted = reference(leaves[0] @ leaves[1].T, labels, targets % 8, 0.0, torch.ones(4))
    torch.testing.assert_close(loss, wanted)


def test_agreement_counts_equal_best_classes():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    teacher = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    _, metrics = soft_target_loss(logits, topk_of(teacher, 2), torch.tensor([0, 0]), hard_weight=0.0)
    assert metrics["agreement"].item() == 1


def test_autocast_multiplies_in_bfloat16_and_returns_gradients_of_the_parameters_type():
    leaves, teacher, targets, _ = random_case(4, tokens=64, vocab=40, dim=16, dtype=torch.float32)
    hidden, head = (leaf.requires_grad_() for leaf in leaves[:2])
    labels = topk_of(teacher, 5)
    exact, _ = distillation_loss_from_hidden(hidden, head, labels, targets, hard_weight=0.5)
    exact_gradient = torch.autograd.grad(exact, head)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = distillation_loss_from_hidden(hidden, head, labels, targets, hard_weight=0.5)
    gradient = torch.autograd.grad(loss, head)[0]
    assert loss.dtype == gradient.dtype == torch.float32
    assert not torch.equal(loss, exact)
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    assert (gradient - exact_gradient).norm() < 0.02 * exact_gradient.norm()


def test_no_tokens_give_zero_and_zero_gradients():
    hidden = torch.zeros(0, 3, requires_grad=True)
    head = torch.ones(5, 3, requires_grad=True)
    loss, metrics = distillation_loss_from_hidden(
        hidden, head, None, torch.zeros(0, dtype=torch.int64), hard_weight=1.0
    )
    loss.backward()
    assert loss.item() == metrics["tokens"].item() == 0
    assert head.grad is not None
    assert torch.equal(head.grad, torch.zeros(5, 3))


def test_misfits_are_refused():
    hidden, head = torch.zeros(3, 2), torch.zeros(4, 2)
    labels = topk_of(torch.randn(3, 6), 2)
    with pytest.raises(LabelError, match=r"6 classes.*4 outputs"):
        distillation_loss_from_hidden(hidden, head, labels, torch.zeros(3, dtype=torch.int64), hard_weight=0.0)
    with pytest.raises(LabelError, match="3 tokens, 2 labels"):
        distillation_loss_from_hidden(
            hidden, torch.zeros(6, 2), labels.index(slice(0, 2)), torch.zeros(3, dtype=torch.int64), hard_weight=0.0
        )
    with pytest.raises(LabelError, match="one target per token"):
        distillation_loss_from_hidden(hidden, head, None, torch.zeros(2, dtype=torch.int64), hard_weight=1.0)


def test_logits_of_a_chunk_are_the_largest_tensor():
    """With 1,024 tokens and 2,000 classes, no tensor of that many elements appears."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for value in torch.utils._pytree.tree_leaves(result):
                largest = max(largest, value.numel() if isinstance(value, Tensor) else 0)
            return result

    hidden, head = torch.randn(1024, 8, requires_grad=True), torch.randn(2000, 8, requires_grad=True)
    labels = topk_of(torch.randn(1024, 2000), 4)
    targets = torch.zeros(1024, dtype=torch.int64)
    with Watch():
        loss, _ = distillation_loss_from_hidden(hidden, head, labels, targets, hard_weight=0.5, chunk_tokens=64)
        loss.backward()
    assert largest == 64 * 2000


def test_the_mean_gradient_of_sparse_labels_is_the_whole_teachers():
    """Over 20,000 labels of 6 draws, within five standard errors of each logit's gradient."""
    _, teacher, _, _ = random_case(4, tokens=1, vocab=9, dim=2, dtype=torch.float32)
    count, draws = 20_000, 6
    many = teacher.expand(count, -1).contiguous()
    labels = sparse_of(many, draws, seed=7)
    labels.weights[labels.label_of_entry() % 3 == 0] /= 1.5
    student = torch.zeros(count, 9, requires_grad=True)
    targets = torch.zeros(count, dtype=torch.int64)
    (sparse,) = torch.autograd.grad(soft_target_loss(student, labels, targets, hard_weight=0.0)[0], student)
    dense = DenseLabels(teacher.log_softmax(-1))
    (whole,) = torch.autograd.grad(soft_target_loss(student[:1], dense, targets[:1], hard_weight=0.0)[0], student)
    p = teacher[0].softmax(0)
    error = (p * (1 - p) / draws / count).sqrt()
    assert ((sparse.mean(0) - whole[0]).abs() < 5 * error + 1e-6).all()


def test_agreement_of_sparse_labels_is_with_their_heaviest_class():
    labels = SparseLabels(torch.tensor([2, 0, 1]), torch.tensor([0.25, 0.75, 1.0]), torch.tensor([0, 2, 3]), 3)
    logits = torch.tensor([[3.0, 0.0, 1.0], [3.0, 0.0, 1.0]])
    _, metrics = soft_target_loss(logits, labels, torch.tensor([0, 0]), hard_weight=0.0)
    assert metrics["agreement"] == 1


def test_features_are_no_distributions():
    features = FeatureLabels(torch.zeros(2, 3), (("layer", 3),))
    with pytest.raises(LabelError, match="features"):
        soft_target_loss(torch.zeros(2, 3), features, torch.tensor([0, 0]), hard_weight=0.0)
