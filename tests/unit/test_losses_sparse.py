"""The loss from hidden states against its definition, for every divergence and kind of label."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcore.config.loss import loss_misfit
from kdcore.errors import ConfigError, LabelError
from kdcore.labels import FeatureLabels
from kdcore.labels.apart import ApartLabels
from kdcore.labels.soft_labels import DenseLabels, SparseLabels, TopKLabels
from kdcore.losses.forms import form_of
from kdcore.losses.objective import METRICS, Objective
from kdcore.losses.response.soft_targets import soft_target_loss
from kdcore.losses.sparse.call import grad_dtype
from kdcore.losses.sparse.head import LogitRules
from kdcore.losses.sparse.loss import distillation_loss_from_hidden
from tests.support.losses import PARAMETERS, Wanted, definition_of, reference, sparse_of, topk_of

ALL = [(name, tuple(parameters.items())) for name, several in PARAMETERS.items() for parameters in several]
CALLS = [
    *(("topk", Wanted(*form)) for form in ALL),
    *(("dense", Wanted(*form)) for form in ALL),
    *(("dense", Wanted(*form, temperature=2.5, hard_weight=0.3)) for form in ALL),
    *(("topk", Wanted(*form, temperature=temperature, tail="drop")) for form in ALL for temperature in (1.0, 2.5)),
    *(("topk", Wanted(*form, tail="label")) for form in ALL if not form_of(form[0], **dict(form[1])).infinite),
    ("weights", Wanted()),
    ("weights", Wanted(hard_weight=0.3)),
    ("topk", Wanted(hard_weight=1.0)),
    ("none", Wanted()),
]

KINDS = sorted({kind for kind, _ in CALLS})
TOLERANCE = {torch.float64: {"rtol": 1e-7, "atol": 1e-7}, torch.float32: {"rtol": 1e-4, "atol": 1e-4}}


def calls_of(kind: str) -> list[Wanted]:
    return [wanted for one, wanted in CALLS if one == kind]


def objective_of(wanted: Wanted) -> Objective:
    form = form_of(wanted.form, **dict(wanted.parameters))
    return Objective(form, wanted.hard_weight, wanted.temperature, wanted.tail)  # pyright: ignore[reportArgumentType]


def random_case(seed: int, tokens: int, vocab: int, dim: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, dim, generator=generator, dtype=dtype)
    head = torch.randn(vocab, dim, generator=generator, dtype=dtype)
    bias = torch.randn(vocab, generator=generator, dtype=dtype)
    teacher = 3 * torch.randn(tokens, vocab, generator=generator, dtype=dtype)
    targets = torch.randint(vocab, (tokens,), generator=generator)
    weights = torch.rand(tokens, generator=generator, dtype=dtype)
    return [hidden, head, bias], teacher, targets, weights


def labels_of(kind: str, teacher: Tensor, k: int, seed: int = 0):
    if kind == "topk":
        return topk_of(teacher, k)
    if kind == "weights":
        return sparse_of(teacher, k, seed)
    return DenseLabels(teacher.log_softmax(-1)) if kind == "dense" else None


@settings(max_examples=60, deadline=None)
@given(
    call=st.sampled_from(CALLS),
    seed=st.integers(0, 10_000),
    tokens=st.integers(1, 5),
    vocab=st.integers(2, 12),
    k=st.integers(1, 12),
    padding=st.integers(0, 2),
    masked=st.integers(0, 2),
    chunk=st.integers(1, 6),
    recompute=st.booleans(),
    rules=st.sampled_from([LogitRules(), LogitRules(0.25), LogitRules(1.5, softcap=2.0)]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_value_and_gradients_are_those_of_the_definition(
    call, seed, tokens, vocab, k, padding, masked, chunk, recompute, rules, dtype
):
    kind, wanted = call
    objective = objective_of(wanted)
    padding = 0 if objective.form.infinite else padding
    leaves, teacher, targets, weights = random_case(seed, tokens, vocab + padding + masked, 3, dtype)
    outputs, targets = vocab + padding, targets % vocab
    labels = labels_of(kind, teacher[:, :vocab], min(k, vocab), seed)
    hidden, head, bias = (leaf.requires_grad_() for leaf in leaves)
    logits = (rules.scale * (hidden @ head.T + bias))[:, :outputs]
    logits = logits if rules.softcap is None else rules.softcap * (logits / rules.softcap).tanh()
    expected = reference(logits, labels, targets, wanted, weights)
    expected_gradients = torch.autograd.grad(2.5 * expected, leaves)
    loss, metrics = distillation_loss_from_hidden(
        hidden,
        head,
        labels,
        targets,
        objective=objective,
        head_bias=bias,
        rules=rules,
        num_classes=outputs,
        chunk_tokens=chunk,
        weights=weights,
        recompute=recompute,
    )
    close = partial(torch.testing.assert_close, **TOLERANCE[dtype])
    assert loss.dtype == dtype
    close(loss.double(), expected)
    close(torch.autograd.grad(2.5 * loss, leaves), expected_gradients)
    close(metrics["tokens"], weights.sum())
    p = logits.double().softmax(-1)
    close(metrics["entropy"].double(), -((p * p.log()).sum(-1) @ weights.double()))
    plain = Wanted("kl", (), 0.0, wanted.temperature, wanted.tail)
    plain_kl = reference(logits, labels, targets, plain, weights) if labels is not None else 0 * expected
    close(metrics["kl"].double(), plain_kl)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["topk", "dense", "weights", "none"])
def test_gradcheck(kind, recompute):
    leaves, teacher, targets, _ = random_case(1, tokens=5, vocab=7, dim=3)
    labels = labels_of(kind, teacher, 3)

    def loss(hidden: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        return distillation_loss_from_hidden(
            hidden, head, labels, targets, hard_weight=0.25, head_bias=bias, chunk_tokens=2, recompute=recompute
        )[0]

    assert torch.autograd.gradcheck(loss, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_gives_the_tail_almost_nothing_still_has_the_exact_gradient(kind):
    for wanted in (call for call in calls_of(kind) if call.tail != "drop"):
        logits = torch.tensor([[200.0, 199.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
        labels = labels_of(kind, torch.tensor([[1.0, 0.5, 0.0, -0.5]], dtype=torch.float64), 2)
        targets = torch.tensor([0])
        expected = reference(logits, labels, targets, wanted)
        (expected_gradient,) = torch.autograd.grad(expected, logits)
        single = logits.detach().float().requires_grad_()  # in float32, exp(-199) is zero
        loss, _ = soft_target_loss(single, labels, targets, objective=objective_of(wanted))
        (gradient,) = torch.autograd.grad(loss, single)
        close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6, msg=lambda text, of=wanted: f"{of}: {text}")
        close(loss.double(), expected, atol=1e-5)
        close(gradient.double(), expected_gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_the_teacher_masks_out_leave_loss_and_gradient_finite(kind):
    for wanted in calls_of(kind):
        teacher = torch.tensor([[2.0, -torch.inf, 1.0, -torch.inf], [0.0, 1.0, 2.0, 3.0]])
        labels = labels_of(kind, teacher, 4 if kind == "topk" else 3)
        logits = torch.tensor([[0.0, 1.0, -1.0, 90.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
        loss, metrics = soft_target_loss(logits, labels, torch.tensor([0, 3]), objective=objective_of(wanted))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert all(value.isfinite() for value in (loss, *metrics.values())), wanted
        assert gradient.isfinite().all(), wanted


def test_labels_that_are_kept_apart_are_no_one_distribution():
    dense = DenseLabels(torch.zeros(2, 5).log_softmax(1))
    with pytest.raises(LabelError, match=r"rule 'apart' .* set the rule to arithmetic"):
        soft_target_loss(torch.zeros(2, 5), ApartLabels((dense, dense)), torch.tensor([0, 1]))


def test_a_label_that_names_no_class_says_nothing_without_its_tail():
    """As where teachers of a geometric mix name no class together."""
    torch.manual_seed(0)
    teacher, logits = torch.randn(3, 6), torch.randn(3, 6, requires_grad=True)
    full, targets = labels_of("topk", teacher, 2), torch.tensor([0, 3, 5])
    assert isinstance(full, TopKLabels)
    ids, log_probs, tail = full.ids.clone(), full.log_probs.clone(), full.tail_log_prob.clone()
    ids[1], log_probs[1], tail[1] = -1, -torch.inf, 0.0
    labels = TopKLabels(ids, log_probs, tail, 6)
    for wanted in (call for call in calls_of("topk") if call.tail == "drop" and not call.hard_weight):
        objective = objective_of(wanted)
        loss, metrics = soft_target_loss(logits, labels, targets, objective=objective)
        others, _ = soft_target_loss(logits[[0, 2]], labels.index([0, 2]), targets[[0, 2]], objective=objective)
        torch.testing.assert_close(loss, others, msg=lambda text, of=wanted: f"{of}: {text}")
        assert metrics["kl"].isfinite()
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() < 1e-6


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_all_classes_are_the_generalised_jsd_of_trl(beta):
    generalized_jsd_loss = definition_of("trl", "experimental/gkd/gkd_trainer.py", "generalized_jsd_loss")
    _, teacher, targets, _ = random_case(2, tokens=6, vocab=11, dim=2, dtype=torch.float32)
    student = torch.randn(6, 11, requires_grad=True)
    objective = Objective(form_of("jsd", beta=beta))
    theirs = generalized_jsd_loss(student[None], teacher[None], beta=beta, reduction="sum")
    for labels in (topk_of(teacher, 11), DenseLabels(teacher.log_softmax(-1))):
        ours, _ = soft_target_loss(student, labels, targets, objective=objective)
        torch.testing.assert_close(ours, theirs)
        gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in (ours, theirs)]
        torch.testing.assert_close(*gradients)


def test_padding_takes_no_part_of_the_tail():
    """Outputs beyond the teacher's classes only lose: their gradient is the student's own probability of them."""
    _, teacher, targets, _ = random_case(3, tokens=4, vocab=8, dim=3)
    logits = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    loss, _ = soft_target_loss(logits, topk_of(teacher, 3), targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient[:, 8:], logits.softmax(-1)[:, 8:])


@pytest.mark.parametrize("kind", ["topk", "dense"])
def test_reverse_kl_drives_padding_out_and_stays_finite(kind):
    _, teacher, targets, _ = random_case(3, tokens=4, vocab=8, dim=3)
    logits = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    objective = Objective(form_of("reverse_kl"))
    loss, _ = soft_target_loss(logits, labels_of(kind, teacher, 3), targets, objective=objective)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert (gradient[:, 8:] > logits.softmax(-1)[:, 8:]).all()


def test_rows_of_the_head_that_are_no_tokens_have_no_gradient():
    (hidden, head, bias), teacher, targets, _ = random_case(3, tokens=4, vocab=10, dim=3)
    loss, _ = distillation_loss_from_hidden(
        hidden, head.requires_grad_(), topk_of(teacher[:, :8], 3), targets % 8, head_bias=bias, num_classes=8
    )
    loss.backward()
    assert head.grad is not None
    assert (head.grad[8:] == 0).all()
    assert (head.grad[:8] != 0).all()


def test_by_products():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    labels = topk_of(torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), 2)
    _, metrics = soft_target_loss(logits, labels, torch.tensor([0, 0]))
    assert tuple(metrics) == METRICS
    assert metrics["agreement"].item() == 1
    torch.testing.assert_close(metrics["support_mass"], logits.softmax(-1)[:, :2].sum())
    torch.testing.assert_close(metrics["cross_entropy"], -logits.log_softmax(-1)[:, 0].sum())


@pytest.mark.parametrize("recompute", [False, True])
def test_autocast_multiplies_in_bfloat16_and_returns_gradients_of_the_parameters_type(recompute):
    leaves, teacher, targets, _ = random_case(4, tokens=64, vocab=40, dim=16, dtype=torch.float32)
    hidden, head = (leaf.requires_grad_() for leaf in leaves[:2])
    labels = topk_of(teacher, 5)
    exact, _ = distillation_loss_from_hidden(hidden, head, labels, targets, hard_weight=0.5)
    exact_gradient = torch.autograd.grad(exact, head)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = distillation_loss_from_hidden(hidden, head, labels, targets, hard_weight=0.5, recompute=recompute)
    gradient = torch.autograd.grad(loss, head)[0]
    assert loss.dtype == gradient.dtype == torch.float32
    assert not torch.equal(loss, exact)
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    assert (gradient - exact_gradient).norm() < 0.02 * exact_gradient.norm()


def test_micro_batches_into_a_bfloat16_head_are_summed_in_float32():
    """128 micro-batches of one token: sums in bfloat16 lose several times what products in bfloat16 do."""
    (hidden, head, _), teacher, targets, _ = random_case(5, tokens=128, vocab=20, dim=8, dtype=torch.float32)
    hidden, labels = hidden.bfloat16(), topk_of(teacher, 3)
    errors = {}
    for dtype in (torch.bfloat16, torch.float32):
        weight = head.bfloat16().requires_grad_()
        weight.grad_dtype = dtype
        for row in range(128):
            part = slice(row, row + 1)
            distillation_loss_from_hidden(hidden[part], weight, labels.index(part), targets[part])[0].backward()
        whole = head.bfloat16().float().requires_grad_()
        distillation_loss_from_hidden(hidden.float(), whole, labels, targets)[0].backward()
        assert weight.grad is not None
        assert whole.grad is not None
        errors[dtype] = float((weight.grad.float() - whole.grad).norm() / whole.grad.norm())
    assert errors[torch.float32] < 3e-3  # of products in bfloat16
    assert errors[torch.float32] < errors[torch.bfloat16] / 4


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_sum_to_the_whole(kind):
    (hidden, head, _), teacher, targets, weights = random_case(6, tokens=7, vocab=9, dim=3)
    labels = labels_of(kind, teacher, 3)
    head.requires_grad_()

    def of(part: slice, wanted: Wanted) -> tuple[Tensor, Tensor]:
        loss, _ = distillation_loss_from_hidden(
            hidden[part],
            head,
            None if labels is None else labels.index(part),
            targets[part],
            objective=objective_of(wanted),
            weights=weights[part],
        )
        return loss, torch.autograd.grad(loss, head)[0]

    for wanted in calls_of(kind):
        parts = [of(slice(start, start + 3), wanted) for start in (0, 3, 6)]
        close = partial(torch.testing.assert_close, msg=lambda text, of=wanted: f"{of}: {text}")
        for found, whole in zip(map(sum, zip(*parts, strict=True)), of(slice(0, 7), wanted), strict=True):
            close(found, whole)


@pytest.mark.parametrize("kind", ["topk", "dense", "weights", "none"])
def test_no_tokens_give_zero_and_zero_gradients(kind):
    hidden = torch.zeros(0, 3, requires_grad=True)
    head = torch.ones(5, 3, requires_grad=True)
    labels = labels_of(kind, torch.zeros(1, 5), 2)
    labels = None if labels is None else labels.index(slice(0, 0))
    loss, metrics = distillation_loss_from_hidden(
        hidden, head, labels, torch.zeros(0, dtype=torch.int64), hard_weight=0.5
    )
    loss.backward()
    assert loss.item() == metrics["tokens"].item() == 0
    assert head.grad is not None
    assert torch.equal(head.grad, torch.zeros(5, 3))


def test_labels_without_an_entry_and_tokens_without_weight_have_no_gradient():
    labels = SparseLabels(torch.tensor([1]), torch.tensor([1.0]), torch.tensor([0, 0, 1, 1]), 4)
    hidden, head = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2)
    for weights, moving in ((None, [1]), (torch.zeros(3), [])):
        loss, metrics = distillation_loss_from_hidden(
            hidden, head, labels, torch.tensor([0, 0, 0]), weights=weights, chunk_tokens=1
        )
        (gradient,) = torch.autograd.grad(loss, hidden)
        assert gradient.abs().sum(1).nonzero().flatten().tolist() == moving
        assert metrics["agreement"] <= len(moving)


def test_misfits_are_refused():
    hidden, head = torch.zeros(3, 2), torch.zeros(4, 2)
    labels = topk_of(torch.randn(3, 6), 2)
    zeros = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(LabelError, match=r"6 classes.*4 outputs"):
        distillation_loss_from_hidden(hidden, head, labels, zeros)
    with pytest.raises(LabelError, match=r"6 classes.*5 outputs"):
        distillation_loss_from_hidden(hidden, torch.zeros(6, 2), labels, zeros, num_classes=5)
    with pytest.raises(LabelError, match="3 tokens, 2 labels"):
        distillation_loss_from_hidden(hidden, torch.zeros(6, 2), labels.index(slice(0, 2)), zeros)
    with pytest.raises(LabelError, match="one target per token"):
        distillation_loss_from_hidden(hidden, head, None, zeros[:2])
    for wrong in (-100, 4):
        with pytest.raises(LabelError, match=rf"among the 4 outputs.*got {wrong} \(1 such"):
            distillation_loss_from_hidden(hidden, head, None, torch.tensor([0, wrong, 1]))
    with pytest.raises(LabelError, match=r"among the 2 outputs.*num_classes"):
        distillation_loss_from_hidden(hidden, head, None, torch.tensor([0, 2, 1]), num_classes=2)
    with pytest.raises(LabelError, match="features"):
        soft_target_loss(torch.zeros(2, 3), FeatureLabels(torch.zeros(2, 3), (("layer", 3),)), zeros[:2])


@pytest.mark.parametrize(
    ("kind", "wanted", "remedy"),
    [
        ("weights", Wanted("jsd", (("beta", 0.5),)), "labels.codec.type to topk"),
        ("weights", Wanted(temperature=2.0), "or the temperature to 1"),
        ("weights", Wanted(tail="label"), "leave it out"),
        ("dense", Wanted(tail="drop"), "leave it out"),
        ("topk", Wanted(temperature=2.0), "tail: drop"),
        ("topk", Wanted(temperature=2.0, tail="label"), "tail: drop"),
        ("topk", Wanted("reverse_kl", tail="label"), "skew_reverse_kl"),
        ("topk", Wanted("jsd", (("beta", 1.0),), tail="label"), "skew_reverse_kl"),
    ],
)
def test_divergences_that_labels_do_not_define_are_refused(kind, wanted, remedy):
    labels = labels_of(kind, torch.zeros(1, 4), 2)
    with pytest.raises(ConfigError, match=remedy):
        soft_target_loss(torch.zeros(1, 4), labels, torch.tensor([0]), objective=objective_of(wanted))


def test_every_call_of_these_tests_is_one_that_settings_allow():
    for kind, wanted in CALLS:
        form = form_of(wanted.form, **dict(wanted.parameters))
        if kind != "none":
            assert loss_misfit(kind, wanted.form, form.infinite, wanted.temperature, wanted.tail) is None  # pyright: ignore


WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")
"""Operations whose result the host must have before it goes on."""


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor (of one type) that any operation makes, and how many operations wait for a device."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype, self.largest, self.waits = dtype, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.waits += func.overloadpacket.__name__ in WAITS
        for value in torch.utils._pytree.tree_leaves(result):
            if isinstance(value, Tensor) and self.dtype in (None, value.dtype):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["topk", "dense", "weights", "none"])
def test_logits_of_a_chunk_are_the_largest_tensor_and_no_chunk_is_waited_for(kind, recompute):
    """With 1,024 tokens and 2,000 classes, no tensor of that many elements appears but the labels themselves."""
    hidden, head = torch.randn(1024, 8, requires_grad=True), torch.randn(2000, 8, requires_grad=True)
    labels = labels_of(kind, torch.randn(1024, 2000), 4)
    targets = torch.zeros(1024, dtype=torch.int64)
    with Watch() as watch:
        loss, _ = distillation_loss_from_hidden(
            hidden, head, labels, targets, hard_weight=0.5, chunk_tokens=64, recompute=recompute
        )
        loss.backward()
    assert watch.largest == 64 * 2000
    assert watch.waits == 1  # for the targets, which a CPU looks at; the 16 chunks add none


@pytest.mark.parametrize("kind", ["topk", "dense", "none"])
def test_a_chunk_in_bfloat16_has_logits_in_one_type_alone_and_the_gradients_of_one_in_float32(kind, monkeypatch):
    leaves, teacher, targets, _ = random_case(9, tokens=64, vocab=1000, dim=8, dtype=torch.float32)
    labels = labels_of(kind, teacher, 4)
    wide = [leaf.detach().bfloat16().float().requires_grad_() for leaf in leaves]
    narrow = [leaf.detach().bfloat16().requires_grad_() for leaf in wide]
    whole = distillation_loss_from_hidden(*wide[:2], labels, targets, hard_weight=0.5, head_bias=wide[2])[0]
    expected = torch.autograd.grad(whole, wide)
    monkeypatch.setattr("kdcore.losses.sparse.products._ROWS", 300)
    with Watch(torch.bfloat16) as watch:
        loss = distillation_loss_from_hidden(*narrow[:2], labels, targets, hard_weight=0.5, head_bias=narrow[2])[0]
        found = torch.autograd.grad(loss, narrow)
    assert watch.largest == 64 * 300  # beside the head of 8,000
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_the_mean_gradient_of_sparse_labels_is_the_whole_teachers():
    """Over 20,000 labels of 6 draws, within five standard errors of each logit's gradient."""
    _, teacher, _, _ = random_case(4, tokens=1, vocab=9, dim=2, dtype=torch.float32)
    count, draws = 20_000, 6
    many = teacher.expand(count, -1).contiguous()
    labels = sparse_of(many, draws, seed=7)
    labels.weights[labels.label_of_entry() % 3 == 0] /= 1.5
    student = torch.zeros(count, 9, requires_grad=True)
    targets = torch.zeros(count, dtype=torch.int64)
    (sparse,) = torch.autograd.grad(soft_target_loss(student, labels, targets)[0], student)
    dense = DenseLabels(teacher.log_softmax(-1))
    (whole,) = torch.autograd.grad(soft_target_loss(student[:1], dense, targets[:1])[0], student)
    p = teacher[0].softmax(0)
    error = (p * (1 - p) / draws / count).sqrt()
    assert ((sparse.mean(0) - whole[0]).abs() < 5 * error + 1e-6).all()


def test_agreement_of_sparse_labels_is_with_their_heaviest_class():
    labels = SparseLabels(torch.tensor([2, 0, 1]), torch.tensor([0.25, 0.75, 1.0]), torch.tensor([0, 2, 3]), 3)
    logits = torch.tensor([[3.0, 0.0, 1.0], [3.0, 0.0, 1.0]])
    _, metrics = soft_target_loss(logits, labels, torch.tensor([0, 0]))
    assert metrics["agreement"] == 1


def test_the_rest_of_the_mass_goes_to_the_label_that_is_named_already_or_not():
    labels = TopKLabels(
        torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0.5, 0.2]] * 2).log(), torch.full((2,), 0.3).log(), 4
    )
    logits = torch.zeros(2, 4, requires_grad=True)
    objective = Objective(tail="label")
    loss, _ = soft_target_loss(logits, labels, torch.tensor([1, 3]), objective=objective)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, 0.25 - torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.2, 0.0, 0.3]]))


def test_only_a_leaf_is_asked_for_the_type_of_its_gradient():
    class Inner(torch.Tensor):
        @property
        def grad_dtype(self):  # as torch 2.11 has it
            raise RuntimeError("grad_dtype can only be accessed on leaf tensors.")

    inner = (torch.ones(2, dtype=torch.bfloat16, requires_grad=True) * 2).as_subclass(Inner)
    assert grad_dtype(inner) is torch.bfloat16
