"""Losses of hidden states and attention beside loops over samples, heads and tokens, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcore.errors import ConfigError
from kdcore.losses.registry import make_method
from kdcore.losses.tokens import token_mean
from kdcore.losses.transformer.attention import map_distance, score_distance, scores_of
from kdcore.losses.transformer.contrast import cos_nce
from kdcore.losses.transformer.feature_maps import mean_distance, normalised_distance, variance_distance
from kdcore.losses.transformer.hidden import cosine_distance, direction_distance, mean_square
from kdcore.losses.transformer.layer_projection import layer_projection
from tests.support.methods import inputs, method, shapes, term

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 999))
WIDTH, HEADS = 6, 2


def states(batch: int, length: int, seed: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, length, WIDTH, dtype=torch.float64, generator=generator) for _ in range(count)]


def padding(batch: int, length: int) -> Tensor:
    """Sequences of 1, 2, 3 ... tokens."""
    return torch.arange(length) <= torch.arange(batch)[:, None]


def by_pkd(h: Tensor, g: Tensor) -> float:
    return sum((a / float(h.norm()) - b / float(g.norm())) ** 2 for a, b in zip(h.tolist(), g.tolist(), strict=True))


def by_squares(h: Tensor, g: Tensor) -> float:
    return sum((a - b) ** 2 for a, b in zip(h.tolist(), g.tolist(), strict=True)) / WIDTH


def by_cosine(h: Tensor, g: Tensor) -> float:
    return 1 - float(h @ g) / math.sqrt(float(h @ h) * float(g @ g))


def moments(h: Tensor) -> tuple[float, float]:
    mean = sum(h.tolist()) / WIDTH
    return mean, sum((value - mean) ** 2 for value in h.tolist()) / WIDTH


def by_normalised(h: Tensor, g: Tensor) -> float:
    scaled = [(one - moments(one)[0]) / math.sqrt(moments(one)[1] + 1e-5) for one in (h, g)]
    return by_squares(*scaled)


DISTANCES = {
    direction_distance: by_pkd,
    mean_square: by_squares,
    cosine_distance: by_cosine,
    normalised_distance: by_normalised,
    mean_distance: lambda h, g: (moments(h)[0] - moments(g)[0]) ** 2,
    variance_distance: lambda h, g: abs(moments(h)[1] - moments(g)[1]),
}


@pytest.mark.parametrize("distance", DISTANCES)
@settings(max_examples=5, deadline=None)
@given(sizes=SIZES)
def test_hidden_states_are_compared_token_by_token(distance, sizes):
    student, teacher = states(*sizes, count=2)
    wanted = [
        [DISTANCES[distance](h, g) for h, g in zip(*sample, strict=True)]
        for sample in zip(student, teacher, strict=True)
    ]
    torch.testing.assert_close(distance(student, teacher), torch.tensor(wanted, dtype=torch.float64))
    assert float(distance(student, student).abs().max()) < 1e-12
    if distance in (direction_distance, cosine_distance):
        torch.testing.assert_close(distance(3 * student, teacher), distance(student, teacher))


@pytest.mark.parametrize("distance", [*DISTANCES, lambda h, g: cos_nce(h, g, padding(2, 3))])
def test_gradients_are_those_of_the_value(distance):
    student, teacher = states(2, 3, 0, count=2)
    assert torch.autograd.gradcheck(lambda h: distance(h, teacher), student.requires_grad_())


def test_every_sample_counts_alike_and_its_padding_not_at_all():
    values, mask = torch.tensor([[1.0, 9.0, 9.0], [2.0, 4.0, 9.0]]), padding(2, 3)
    assert float(token_mean(values, mask)) == (1.0 + 3.0) / 2
    assert float(token_mean(values, mask & False)) == 0.0
    assert float(token_mean(values, None)) == float(values.mean())


@settings(max_examples=5, deadline=None)
@given(sizes=SIZES)
def test_layers_are_mixed_by_how_they_agree_with_the_student(sizes):
    student, *teacher = states(*sizes, count=4)
    found = layer_projection(student, torch.stack(teacher))
    for sample in range(sizes[0]):
        for token in range(sizes[1]):
            h, g = student[sample, token], [layer[sample, token] for layer in teacher]
            shares = [math.exp(float(h @ one)) for one in g]
            mixed = sum(share / sum(shares) * one for share, one in zip(shares, g, strict=True))
            assert isinstance(mixed, Tensor)
            assert float(found[sample, token]) == pytest.approx(by_squares(h, mixed), rel=1e-9)


@settings(max_examples=5, deadline=None)
@given(sizes=SIZES)
def test_cos_nce_is_near_to_the_same_text_and_far_from_others(sizes):
    student, teacher = states(*sizes, count=2)
    batch, length, _ = sizes
    mask = padding(batch, length)
    total = 0.0
    for i in range(batch):
        distances = []
        for j in range(batch):
            places = [place for place in range(length) if mask[i, place] and mask[j, place]]
            distances.append(sum(by_cosine(student[i, place], teacher[j, place]) for place in places) / len(places))
        others = distances[:i] + distances[i + 1 :]
        total += 1 + distances[i] - (sum(others) / len(others) / 2 if others else 0.0)
    assert float(cos_nce(student, teacher, mask)) == pytest.approx(total / batch, rel=1e-9)


def scores_by_loop(queries: Tensor, keys: Tensor) -> Tensor:
    batch, length, _ = queries.shape
    width = WIDTH // HEADS
    found = torch.zeros(batch, HEADS, length, length, dtype=torch.float64)
    for b in range(batch):
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            for i in range(length):
                for j in range(length):
                    found[b, head, i, j] = float(queries[b, i, part] @ keys[b, j, part]) / math.sqrt(width)
    return found


@settings(max_examples=5, deadline=None)
@given(sizes=SIZES, padded=st.booleans())
def test_attention_is_compared_among_real_tokens(sizes, padded):
    four = states(*sizes, count=4)
    student, teacher = scores_of(*four[:2], HEADS), scores_of(*four[2:], HEADS)
    torch.testing.assert_close(student, scores_by_loop(*four[:2]))
    batch, length, _ = sizes
    mask = padding(batch, length) if padded else torch.ones(batch, length, dtype=torch.bool)
    of_scores, of_maps = 0.0, 0.0
    for b in range(batch):
        held = int(mask[b].sum())
        ours, theirs = student[b, :, :held, :held], teacher[b, :, :held, :held]
        of_scores += float((ours - theirs).square().mean()) / batch
        t, p = theirs.softmax(-1), ours.softmax(-1)
        of_maps += float((t * (t.log() - p.log())).sum()) / HEADS / held / batch
    given = mask if padded else None
    assert float(score_distance(student, teacher, given)) == pytest.approx(of_scores, rel=1e-9, abs=1e-15)
    assert float(map_distance(student, teacher, given)) == pytest.approx(of_maps, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("distance", [score_distance, map_distance])
def test_gradients_of_attention(distance):
    query, key, *theirs = states(2, 3, 0, count=4)
    teacher, mask = scores_of(*theirs, HEADS), padding(2, 3)
    assert torch.autograd.gradcheck(lambda q: distance(scores_of(q, key, HEADS), teacher, mask), query.requires_grad_())


def test_a_sample_that_is_all_padding_adds_nothing():
    query, key, *theirs = states(2, 3, 0, count=4)
    scores, teacher = scores_of(query.requires_grad_(), key, HEADS), scores_of(*theirs, HEADS)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    loss = map_distance(scores, teacher, mask)
    (gradient,) = torch.autograd.grad(loss, query)
    torch.testing.assert_close(loss, map_distance(scores[:1], teacher[:1], mask[:1]) / 2)
    assert bool((gradient[1] == 0).all())
    assert bool(gradient[0].isfinite().all())


NAMES = [
    "pkd",
    "hidden_states",
    "hidden_cosine",
    "mobilebert",
    "lrc_bert",
    "alp",
    "attention_scores",
    "attention_maps",
    "minilm",
]


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    options = {"tokens": "all"} if name in ("pkd", "alp") else {}
    given, loss = inputs(3), method(name, **options)
    mask = given.mask
    assert mask is not None
    noise = {path: given.student[path] + 5.0 * ~mask[..., None] for path in ("tokens", "tokens.late")}
    torch.testing.assert_close(loss(replace(given, student=noise)), loss(given))
    assert not torch.isclose(loss(replace(given, student=noise, mask=None)), loss(replace(given, mask=None)))


@pytest.mark.parametrize("name", ["pkd", "hidden_cosine", "alp"])
def test_of_the_first_token_alone(name):
    given, loss = inputs(3), method(name, tokens="first")
    later = {path: given.student[path] + 5.0 * (torch.arange(7) > 0)[:, None] for path in ("tokens", "tokens.late")}
    assert torch.equal(loss(replace(given, student=later)), loss(given))
    assert not torch.equal(loss(replace(given, student={path: 2 - later[path] for path in later})), loss(given))


def test_sums_over_layers():
    given = inputs(3)
    both = method("attention_maps", at=["tokens", "tokens.late", "tokens.late", "tokens"])(given)
    each = [method("attention_maps", at=at)(given) for at in (["tokens", "tokens.late"], ["tokens.late", "tokens"])]
    torch.testing.assert_close(both, each[0] + each[1])
    relations = [method("minilm", at=at)(given) for at in ("tokens", "tokens.late")]
    torch.testing.assert_close(method("minilm")(given), relations[0] + relations[1])


def test_relations_are_attention_of_vectors_to_themselves():
    given = inputs(3)
    alike = method("attention_maps", at=["tokens", "tokens"], heads=4)(given)
    torch.testing.assert_close(method("minilm", at="tokens", heads=4)(given), alike)


@pytest.mark.parametrize("name", ["pkd", "hidden_states"])
def test_states_of_one_width_need_no_map(name):
    given = inputs(3)
    same = replace(given, teacher={"tokens": given.student["tokens"].detach()})
    loss = type(method(name))(term(name), replace(shapes(), teacher={"tokens": (7, 8)}))
    assert list(loss.parameters()) == []
    assert float(loss(same).detach()) == pytest.approx(0.0, abs=1e-10)
    assert len(list(method(name).parameters())) == 2


def test_mobilebert_weighs_three_distances():
    given = inputs(3)
    weights = {"normalised": 0.0, "mean": 0.0, "variance": 0.0}
    parts = [method("mobilebert", **{**weights, name: 2.0})(given) for name in weights]
    torch.testing.assert_close(2 * method("mobilebert")(given), sum(parts))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("minilm", {"heads": 3}, "`heads` to a divisor of D"),
        ("attention_maps", {"at": ["maps", "maps"]}, "cuts vectors"),
        ("alp", {"at": ["tokens", "vectors"]}, "alp mixes layers of one width"),
        ("hidden_states", {"at": "tokens", "teacher_at": "vectors.seen"}, "sequences of \\[3, 7\\] tokens"),
        ("minilm", {"at": "tokens", "teacher_at": "vectors.seen", "heads": 2}, "sequences of \\[3, 7\\] tokens"),
        ("attention_maps", {"at": ["tokens", "narrow"]}, "share their keys"),
    ],
)
def test_layers_that_do_not_fit_are_refused(name, options, message):
    known = shapes()
    odd = {"narrow": (7, 4), "vectors.seen": (3, 12)}
    with pytest.raises(ConfigError, match=message):
        make_method(
            term(name, **options), replace(known, student={**known.student, **odd}, teacher={**known.teacher, **odd})
        )


def test_the_first_tokens_of_sequences_of_different_length_can_be_compared():
    known, longer = shapes(), {"tokens": (9, 12)}
    loss = make_method(term("pkd", at="tokens"), replace(known, teacher=longer))
    given = inputs(3)
    assert loss(replace(given, teacher={"tokens": torch.randn(3, 9, 12)})).isfinite()


def test_attention_needs_queries_and_keys():
    with pytest.raises(ValueError, match="`at` needs two paths of each layer"):
        term("attention_maps", at=["tokens", "tokens", "tokens"])
