"""Losses across tokenizers against dense references, known joint distributions, and trl's own."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdcore.errors import LabelError
from kdcore.labels import RowView, SpanCodec, SpanLabels, TopKLabels
from kdcore.labels.alignment import Tokens
from kdcore.labels.chunk_labels import ChunkLabels, Pieces, chunk_labels, chunks_of
from kdcore.labels.opening_labels import OpeningLabels, opening_labels, openings_of
from kdcore.labels.span import span_outputs
from kdcore.losses.cross_tokenizer.likelihood import chunk_divergence, chunk_log_probs, likelihood_loss
from kdcore.losses.cross_tokenizer.opening import later_log_probs, opening_loss
from kdcore.losses.cross_tokenizer.path import path_log_probs
from kdcore.losses.cross_tokenizer.sorted_distance import SharedClasses, hybrid_loss, sorted_loss
from kdcore.losses.sparse.head import LogitRules

FORMS = ("kl", "reverse_kl", "total_variation")
CHARACTERS = "ab "
FIRST = np.array([0.5, 0.3, 0.2])
NEXT = np.array([[0.1, 0.6, 0.3], [0.45, 0.2, 0.35], [0.7, 0.25, 0.05]])


def log_probs_of(size: int, before: int | None) -> np.ndarray:
    """Of the next `size` characters of the chain, float64 [3^size], after the character `before` or at the start."""
    found = []
    for word in product(range(3), repeat=size):
        chain = [FIRST if before is None else NEXT[before], *(NEXT[each] for each in word[:-1])]
        found.append(sum(np.log(row[each]) for row, each in zip(chain, word, strict=True)))
    return np.array(found)


class Words:
    """A perfect model of the chain whose tokens are `size` characters each; a label for each of them."""

    def __init__(self, text: list[int], size: int) -> None:
        starts = range(0, len(text), size)
        rows = [log_probs_of(size, text[start - 1] if start else None) for start in starts]
        self.logits = torch.from_numpy(np.array(rows))
        self.targets = np.array(
            [int(np.dot(text[start : start + size], 3 ** np.arange(size)[::-1])) for start in starts]
        )
        self.begins, self.ends = np.array(starts), np.array(starts) + size
        self.marks = torch.arange(3**size) >= 2 * 3 ** (size - 1)

    def labels(self) -> SpanLabels:
        """As a store gives them."""
        outputs = span_outputs(self.logits, self.targets, self.begins, self.ends, self.marks)
        row = SpanCodec().pack([SpanCodec().encode(outputs, np.zeros(len(outputs), np.uint64))], [None])[0]
        return SpanCodec().decode([RowView(row, len(outputs))], [0], [len(outputs)])

    def path(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the loss asks of it."""
        head, targets = torch.eye(self.logits.shape[1], dtype=torch.float64), torch.from_numpy(self.targets)
        found = path_log_probs(self.logits, head, targets, self.marks.nonzero().flatten(), chunk_tokens=3)
        return found.log_probs, found.boundary_log_probs


@pytest.mark.parametrize(
    ("theirs", "ours", "merge"), [(2, 1, 0.0), (2, 3, 0.0), (1, 2, 0.0), (2, 1, 0.34), (3, 2, 0.32)]
)
def test_two_tokenizations_of_a_known_distribution_agree(theirs: int, ours: int, merge: float) -> None:
    text = np.random.default_rng(0).integers(0, 3, 36).tolist()
    teacher, student = Words(text, theirs), Words(text, ours)
    pieces = chunks_of(teacher.labels(), student.begins, student.ends, merge)
    labels = chunk_labels([pieces], np.arange(3))
    assert labels.num_chunks == len(np.unique(pieces.chunk))
    own, boundary = student.path()
    found = chunk_log_probs(own, boundary, labels)
    # Each chunk, and whether a space follows, exactly as in the chain; the store rounds.
    wanted, ends = [], student.ends[np.flatnonzero(np.diff(pieces.chunk, append=-1))].tolist()
    for first, last in zip([0, *ends], ends, strict=False):
        chain = [FIRST if place == 0 else NEXT[text[place - 1]] for place in range(first, last)]
        total = sum(np.log(row[each]) for row, each in zip(chain, text[first:last], strict=True))
        wanted.append(total + (np.log(NEXT[text[last - 1], 2]) if last < len(text) else 0.0))
    assert np.allclose(found.numpy(), wanted, atol=1e-9)
    assert np.allclose((labels.log_probs + labels.boundary_log_probs).numpy(), wanted, atol=0.05)
    right = float(likelihood_loss(own, boundary, labels))
    assert right < 1e-3
    # A label that is one token late, or a boundary that is one token early, is far off.
    late = float(likelihood_loss(own.roll(1), boundary, labels))
    early = float(likelihood_loss(own, boundary.roll(1), labels))
    assert min(late, early) > 20 * right + 1e-3


def test_the_boundary_takes_out_what_a_token_says_of_the_next_one() -> None:
    # A teacher with a token "ab" says by "a" that no b follows: P(a) P(not b | a) instead of P(a).
    own = np.log(FIRST[0] * (1 - NEXT[0, 1]))
    boundary = np.log(NEXT[0, 2] / (1 - NEXT[0, 1]))
    outputs = torch.tensor([[own, -1.0, 0, 1], [boundary, boundary, 1, 2]], dtype=torch.float64)
    row = SpanCodec().pack([SpanCodec().encode(outputs, np.zeros(2, np.uint64))], [None])[0]
    teacher = SpanCodec().decode([RowView(row, 2)], [0], [2])
    student = Words([0, 2], 1)
    labels = chunk_labels([chunks_of(teacher, student.begins, student.ends)], np.arange(3))
    first = chunk_log_probs(*student.path(), labels)[0]
    assert float(first) == pytest.approx(np.log(FIRST[0] * NEXT[0, 2]), abs=1e-9)
    assert float(labels.log_probs[0] + labels.boundary_log_probs[0]) == pytest.approx(float(first), abs=0.02)
    assert float(labels.log_probs[0]) != pytest.approx(np.log(FIRST[0]), abs=0.5)


def spans(*tokens: tuple[int, int], boundary: float = -0.1) -> SpanLabels:
    begins, ends = torch.tensor(tokens).T
    return SpanLabels(-torch.arange(1.0, 1 + len(ends)), torch.full((len(ends),), boundary), begins, ends)


def pieces(teacher: SpanLabels, *tokens: tuple[int, int], merge: float = 0.0) -> Pieces:
    begins, ends = np.array(tokens).T
    return chunks_of(teacher, begins, ends, merge)


def test_chunks_have_all_their_bytes_on_both_sides() -> None:
    teacher = spans((0, 2), (2, 5), (5, 6), (8, 9), (9, 12))
    found = pieces(teacher, (1, 2), (2, 4), (4, 5), (5, 6), (6, 9), (9, 11), (11, 12))
    # The first has another beginning, and one begins in a gap of the teacher's.
    assert found.chunk.tolist() == [-1, 0, 0, 1, -1, 2, 2]
    assert found.log_probs.tolist() == [-2, -3, -5]
    assert found.after.tolist() == [3, -1, -1]
    assert found.boundary_log_probs.tolist() == pytest.approx([-0.1, 0, 0])


def test_chunks_are_joined_where_white_space_is_unlikely() -> None:
    teacher = spans((0, 2), (2, 5), (5, 6), (6, 8), boundary=-3.0)
    teacher.boundary_log_probs[2] = -0.5
    found = pieces(teacher, (0, 2), (2, 5), (5, 6), (6, 8), merge=0.1)
    assert found.chunk.tolist() == [0, 0, 1, 1]
    assert found.log_probs.tolist() == [-3, -7]
    assert found.after.tolist() == [2, -1]
    assert pieces(teacher, (0, 2), (2, 5), (5, 6), (6, 8)).chunk.tolist() == [0, 1, 2, 3]


def test_an_end_that_one_side_has_is_in_no_chunk() -> None:
    assert pieces(spans((0, 2), (2, 3)), (0, 1), (1, 2)).chunk.tolist() == [0, 0]
    assert pieces(spans((0, 2)), (0, 2), (2, 3)).chunk.tolist() == [0, -1]
    assert pieces(spans((5, 6)), (0, 1)).after.tolist() == []


def test_sequences_are_joined() -> None:
    teacher = spans((0, 2), (2, 3))
    parts = [pieces(teacher, (0, 1), (1, 2), (2, 3)), pieces(teacher, (2, 3))]
    labels = chunk_labels(parts, np.array([4]))
    assert labels.chunk.tolist() == [0, 0, 1, 2]
    assert labels.after.tolist() == [2, -1, -1]
    assert labels.index(slice(0, 0)).num_chunks == 0
    assert labels.index(slice(None)).num_chunks == 3
    assert chunk_labels([], np.array([4])).num_labels == 0
    none = labels.index(slice(0, 0))
    assert float(likelihood_loss(torch.zeros(0), torch.zeros(0), none)) == 0
    with pytest.raises(LabelError, match="one log-probability a token"):
        likelihood_loss(torch.zeros(3), torch.zeros(3), labels)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [1.0, 20.0, float("inf")])
def test_divergences_and_their_gradients(form, temperature) -> None:
    torch.manual_seed(0)
    teacher, student = -torch.rand(2, 40, dtype=torch.float64) * 30 - 1e-3
    found = chunk_divergence(teacher, student, form, temperature)
    scale = 1e6 if temperature == float("inf") else temperature
    p, q = (teacher / scale).exp(), (student / scale).exp()
    first, second = (q, p) if form == "reverse_kl" else (p, q)
    wanted = (first - second).abs()
    if form != "total_variation":
        wanted = first * (first / second).log() + (1 - first) * ((1 - first) / (1 - second)).log()
    assert torch.allclose(found, scale * wanted, rtol=1e-3, atol=1e-4)
    assert torch.allclose(
        chunk_divergence(teacher.float(), student.float(), form, temperature).double(), found, atol=1e-3
    )
    assert float(chunk_divergence(teacher, teacher, form, temperature).abs().max()) < 1e-9
    leaf = student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: chunk_divergence(teacher, values, form, temperature), leaf)
    certain = chunk_divergence(torch.zeros(2), torch.tensor([0.0, -5.0]), form, temperature)
    assert torch.isfinite(certain).all()


def test_the_form_of_the_paper() -> None:
    # Binary cross-entropy of the authors' code, less the teacher's own entropy, which no student changes.
    teacher, student = torch.tensor([-3.0, -20.0, -0.2]).double(), torch.tensor([-1.0, -25.0, -0.9]).double()

    def cross(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return -(first.exp() * second + (1 - first.exp()) * (1 - second.exp()).log())

    scaled = teacher / 100, student / 100
    wanted = 100 * (cross(*scaled) - cross(scaled[0], scaled[0]))
    assert torch.allclose(chunk_divergence(teacher, student, "kl", 100.0), wanted)


def dense_path(hidden, head, bias, targets, marks, rules=None, outputs=None):
    logits = hidden @ head[:outputs].T
    if bias is not None:
        logits = logits + bias[:outputs]
    if rules is not None:
        logits = rules.softcap * torch.tanh(logits * rules.scale / rules.softcap)
    log_p = logits.log_softmax(1)
    boundary = log_p[:, marks[marks < log_p.shape[1]]].logsumexp(1)
    return log_p.gather(1, targets[:, None]).squeeze(1), boundary, -(log_p.exp() * log_p).sum(1)


@pytest.mark.parametrize("rules", [None, LogitRules(0.5, 3.0)])
@pytest.mark.parametrize("outputs", [None, 9])
@pytest.mark.parametrize("chunk_tokens", [3, 100])
def test_the_path_is_that_of_all_logits(rules, outputs, chunk_tokens) -> None:
    torch.manual_seed(0)
    hidden, head, bias = torch.randn(7, 5).double(), torch.randn(11, 5).double(), torch.randn(11).double()
    leaves = [leaf.requires_grad_() for leaf in (hidden, head, bias)]
    targets, marks, weights = (
        torch.tensor([0, 1, 8, 3, 3, 7, 2]),
        torch.tensor([1, 4, 8, 10]),
        torch.randn(2, 7).double(),
    )
    options = {"head_bias": bias, "rules": rules, "num_classes": outputs, "chunk_tokens": chunk_tokens}
    found = path_log_probs(hidden, head, targets, marks, **options)
    wanted = dense_path(hidden, head, bias, targets, marks, rules, outputs)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs)
    grads = [
        torch.autograd.grad((weights[0] * each[0] + weights[1] * each[1]).sum(), leaves) for each in (found, wanted)
    ]
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs)


def test_the_path_in_other_types_and_without_tokens() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(6, 8), torch.randn(30, 8, requires_grad=True)
    targets, marks = torch.arange(6), torch.tensor([2, 3])
    exact = path_log_probs(hidden, head, targets, marks)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = path_log_probs(hidden, head, targets, marks)
    assert narrow.log_probs.dtype == torch.float32
    assert torch.allclose(narrow.log_probs, exact.log_probs, atol=0.1)
    narrow.log_probs.sum().backward()
    assert head.grad is not None
    none = path_log_probs(hidden[:0].requires_grad_(), head, targets[:0], marks)
    assert none.log_probs.shape == (0,)
    none.log_probs.sum().backward()


def test_gradcheck_of_the_whole_loss() -> None:
    torch.manual_seed(0)
    teacher = spans((0, 2), (2, 3), (3, 7), (7, 8))
    begins = np.arange(8)
    labels = chunk_labels([chunks_of(teacher, begins, begins + 1, 0.0)], np.array([1, 2]))
    targets = torch.randint(0, 6, (8,))

    def loss(hidden, head):
        path = path_log_probs(hidden, head, targets, labels.boundary_ids, chunk_tokens=3)
        return likelihood_loss(path.log_probs, path.boundary_log_probs, labels, temperature=5.0)

    leaves = torch.randn(8, 4).double().requires_grad_(), torch.randn(6, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(loss, leaves)


def whole(logits: torch.Tensor, k: int | None = None) -> TopKLabels:
    log_p = logits.float().log_softmax(1)
    top, ids = log_p.topk(log_p.shape[1] if k is None else k, dim=1)
    rest = log_p.scatter(1, ids, float("-inf")).logsumexp(1)
    return TopKLabels(ids, top, rest, log_p.shape[1])


@pytest.mark.parametrize("classes", [(9, 6), (6, 9), (7, 7)])
def test_sorted_distance_of_whole_distributions(classes) -> None:
    torch.manual_seed(0)
    teacher, student = (torch.randn(5, size) * 2 for size in classes)
    p, q = (values.softmax(1).sort(1, descending=True).values for values in (teacher, student))
    width = max(classes)
    wanted = (functional.pad(p, (0, width - p.shape[1])) - functional.pad(q, (0, width - q.shape[1]))).abs().sum()
    assert float(sorted_loss(student, whole(teacher))) == pytest.approx(float(wanted), abs=1e-5)
    few = [float(sorted_loss(student, whole(teacher, k))) for k in (1, 2, 4)]
    assert few == sorted(few)
    assert few[-1] <= float(wanted) + 1e-5
    leaf = student.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: sorted_loss(values, whole(teacher, 3)), leaf)
    with pytest.raises(LabelError, match="one label a place"):
        sorted_loss(student[:2], whole(teacher))


def trl_loss(teacher_vocabulary, student_vocabulary, hybrid: bool):
    gold = pytest.importorskip("trl.experimental.gold.gold_trainer")

    class Tokenizer:
        def __init__(self, vocabulary):
            self.get_vocab = lambda: vocabulary

    class Config:
        uld_crossentropy_weight, uld_distillation_weight = 0.0, 1.0
        uld_student_temperature = uld_teacher_temperature = 1.0
        uld_skip_student_eos = uld_skip_teacher_eos = False
        use_extended_uld, uld_token_merge_strategy, beta = True, "bayesian", 0.3
        uld_use_hybrid_loss = hybrid
        uld_hybrid_matched_weight = uld_hybrid_unmatched_weight = None

    return gold.ULDLoss(Config(), Tokenizer(student_vocabulary), Tokenizer(teacher_vocabulary))


def test_hybrid_as_in_trl() -> None:
    torch.manual_seed(0)
    theirs = {f"t{number}": number for number in range(8)} | {"x": 8, "y": 9, "z": 10}
    ours = {f"s{number}": number for number in range(5)} | {"y": 5, "x": 6, "z": 7}
    teacher, student = torch.randn(4, 11), torch.randn(4, 8)
    # trl takes means over places, and merged chunks: the scales are of the earlier tokens.
    scales = torch.rand(2, 4)
    loss = trl_loss(theirs, ours, hybrid=True)
    distributions = student.softmax(1) * scales[0, :, None], teacher.softmax(1) * scales[1, :, None]
    wanted = loss._compute_hybrid_uld_loss(*distributions)
    shared = SharedClasses.of(theirs, ours, 11)
    found = hybrid_loss(student, whole(teacher), shared, 0.3, scales[0], scales[1]) / 4
    assert float(found) == pytest.approx(float(wanted), abs=1e-5)
    assert shared.share == pytest.approx(3 / 11)
    assert torch.isfinite(hybrid_loss(student, whole(teacher, 3), shared, 0.3))
    leaf = student.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: hybrid_loss(values, whole(teacher, 4), shared, 0.5), leaf)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_hybrid_ends(beta) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 6)
    same = SharedClasses(torch.arange(6))
    assert float(hybrid_loss(logits, whole(logits), same, beta)) == pytest.approx(0, abs=1e-5)
    assert float(hybrid_loss(logits, whole(logits.flip(1)), same, beta)) > 0.01
    none = SharedClasses(torch.full((6,), -1))
    apart = hybrid_loss(logits, whole(logits.flip(1)), none, beta)
    assert float(apart) == pytest.approx(float(sorted_loss(logits, whole(logits.flip(1)))), abs=1e-5)


def test_an_empty_cell_is_no_class() -> None:
    """Labels of a mix may name fewer classes than others; all classes of the last id are shared here."""
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 6), whole(torch.randn(3, 6), 3)
    wider = TopKLabels(
        functional.pad(labels.ids, (0, 2), value=-1),
        functional.pad(labels.log_probs, (0, 2), value=float("-inf")),
        labels.tail_log_prob,
        6,
    )
    shared = SharedClasses(torch.tensor([-1, -1, -1, 0, 2, 4]))
    torch.testing.assert_close(hybrid_loss(logits, wider, shared), hybrid_loss(logits, labels, shared))
    torch.testing.assert_close(sorted_loss(logits, wider), sorted_loss(logits, labels))


def test_a_batch_without_a_chunk_has_no_loss() -> None:
    labels = ChunkLabels(
        torch.tensor([-1, -1]), torch.zeros(0), torch.zeros(0), torch.zeros(0).long(), torch.tensor([0])
    )
    log_probs = torch.zeros(2, requires_grad=True)
    loss = likelihood_loss(log_probs, torch.zeros(2), labels)
    loss.backward()
    assert float(loss) == 0


def tokens(*ends: int, begin: int = 0) -> Tokens:
    return Tokens(np.array([begin, *ends[:-1]]), np.array(ends))


def test_where_chunks_begin() -> None:
    log_probs = np.array([-1, -2, -4, -8, -np.inf, -16])
    # A piece from byte 1 on: the teacher's first token began before it.
    found = openings_of(tokens(2, 3, 5, 7, 8, 9), log_probs, tokens(2, 3, 4, 7, 9, 11, begin=1))
    assert found.chunk.tolist() == [-1, 0, 1, 1, 2, -1]
    assert found.opening.tolist() == [1, 2, 4]
    assert found.asked.tolist() == [1, 2, 4]
    assert found.rest_log_probs.tolist() == [0, -8, -16]
    late = openings_of(tokens(8, 9, begin=7), np.array([-np.inf, -np.inf]), tokens(9, begin=7))
    assert (late.asked.tolist(), late.rest_log_probs.tolist()) == ([0], [-65_504])
    nothing = openings_of(tokens(4, 9), log_probs[:2], tokens(3, 6))
    assert (nothing.chunk.tolist(), len(nothing.opening)) == ([-1, -1], 0)
    both = opening_labels([found, nothing, late], whole(torch.randn(4, 5), 2), torch.arange(5))
    assert both.chunk.tolist() == [-1, 0, 1, 1, 2, -1, -1, -1, 3]
    assert both.opening.tolist() == [1, 2, 4, 8]
    assert both.index(slice(0, 0)).num_chunks == 0


@pytest.mark.parametrize("beta", [None, 0.3])
@pytest.mark.parametrize("rules", [LogitRules(), LogitRules(0.7, 3.0)])
def test_the_loss_of_openings_from_hidden_states(beta, rules) -> None:
    torch.manual_seed(0)
    found = openings_of(tokens(1, 3, 4, 6, 7), -torch.rand(5).numpy(), tokens(1, 2, 3, 5, 6, 7, 8))
    student_of = torch.tensor([2, -1, 7, 0, -1, 3])
    labels = opening_labels([found], whole(torch.randn(5, 6), 3).index(torch.from_numpy(found.asked)), student_of)
    targets = torch.randint(0, 7, (7,))

    def loss(hidden, head, bias):
        common = {"head_bias": bias, "rules": rules, "num_classes": 7, "chunk_tokens": 3}
        path = path_log_probs(hidden, head, targets, labels.boundary_ids, **common)
        return opening_loss(hidden, head, path, labels, beta=beta, **common)

    def dense(hidden, head, bias):
        outputs = (hidden @ head[:7].T + bias[:7]) * rules.scale
        logits = outputs if rules.softcap is None else rules.softcap * (outputs / rules.softcap).tanh()
        if beta is None:
            return sorted_loss(logits[labels.opening], labels.labels)
        own = logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
        later = torch.stack([own[labels.chunk == place].sum() for place in range(4)]) - own[labels.opening]
        shared = SharedClasses(torch.tensor([2, -1, -1, 0, -1, 3]))  # the student's class 7 does not count
        scales = later.exp(), labels.rest_log_probs.double().exp()
        return hybrid_loss(logits[labels.opening], labels.labels, shared, beta, *scales)

    assert labels.num_chunks == 4
    assert labels.chunk.tolist() == [0, 1, 1, 2, 2, 3, -1]
    leaves = [torch.randn(*size).double().requires_grad_() for size in ((7, 4), (9, 4), (9,))]
    ours, theirs = loss(*leaves), dense(*leaves)
    torch.testing.assert_close(ours, theirs)
    both = [torch.autograd.grad(value, leaves) for value in (3 * ours, 3 * theirs)]
    torch.testing.assert_close(*both)


def test_openings_without_a_chunk_have_no_loss() -> None:
    labels = OpeningLabels(
        torch.tensor([-1, -1]), torch.zeros(0).long(), whole(torch.zeros(0, 5), 2), torch.zeros(0), torch.arange(5)
    )
    hidden, head = torch.zeros(2, 3, requires_grad=True), torch.zeros(5, 3, requires_grad=True)
    path = path_log_probs(hidden, head, torch.zeros(2).long(), labels.boundary_ids)
    loss = opening_loss(hidden, head, path, labels, beta=0.5)
    loss.backward()
    assert float(loss.detach()) == 0
    assert head.grad is not None
    assert later_log_probs(path.log_probs, labels).shape == (0,)
