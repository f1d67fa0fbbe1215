"""Losses that a recipe lists, at work: weights, features of both networks, memories, and the way they are summed up."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kdcore
from kdcore.config.training import TrainingConfig
from kdcore.errors import ConfigError
from kdcore.labels.dense import DenseCodec
from kdcore.labels.feature import FeatureCodec
from kdcore.labels.soft_labels import DenseLabels, FeatureLabels, TopKLabels
from kdcore.losses.compose import teacher_paths, term_names
from kdcore.losses.feature.attention_transfer import AttentionTransfer
from kdcore.training.batches import ImageBatch
from kdcore.training.composition import Composition, compose
from kdcore.training.model import DistillModel
from kdcore.training.ranks import Ranks
from kdcore.training.teacher_side import LiveTeacher, NoTeacher, StoredTeacher, TeacherSide
from tests.support.methods import TERMS

OWN = "tests.support.own_losses"
CLASSES, SAMPLES = 4, 10
ALONE = Ranks(0, 1, torch.device("cpu"))
CROSS = {"type": "cross_entropy", "weight": 0.5}
ATTENTION = {"type": "attention_transfer", "at": "1", "weight": 3.0}
CONTRAST = {"type": "crd", "at": "3", "negatives": 4, "dimension": 5}
MEMORY = {"type": "import", "name": f"{OWN}:Memory", "at": "1"}


def network(width: int = 4, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(width)
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36 * width, CLASSES)]
    return nn.Sequential(*layers[:1], nn.BatchNorm2d(width) if norm else nn.Identity(), *layers[1:])


def terms(*given: dict[str, Any]) -> list[Any]:
    return [TERMS.validate_python(one) for one in given]


def composed(
    *given: dict[str, Any], student: nn.Module | None = None, teacher: TeacherSide | None = None
) -> Composition:
    torch.manual_seed(7)
    side = teacher or LiveTeacher(network(6), ["1"])
    return compose(student or network(), terms(*given), side, torch.zeros(1, 1, 6, 6), CLASSES, SAMPLES)


def seen(count: int = 6) -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 1, 6, 6, generator=generator)
    return ImageBatch(pixels, torch.arange(count) % CLASSES, None, indices=torch.arange(count))


def test_the_weighted_sum_over_samples_and_each_term_under_its_name():
    total, values = composed(CROSS, ATTENTION).loss(seen())
    assert values["loss/cross_entropy"] == pytest.approx(float(values["cross_entropy"]), rel=1e-5)
    wanted = 0.5 * values["loss/cross_entropy"] + 3 * values["loss/attention_transfer"]
    assert float(total.detach()) == pytest.approx(float(wanted), rel=1e-5)
    assert values["tokens"] == 6
    assert values["kl"] > 0


def test_names_of_terms():
    given = terms(CROSS, MEMORY, CROSS, CROSS)
    assert term_names(given) == ("loss/cross_entropy", "loss/Memory", "loss/cross_entropy_2", "loss/cross_entropy_3")


@pytest.mark.parametrize("off", [{"weight": 0.0}, {"warmup": 0.5}, {"until": 0.5}])
def test_a_loss_of_weight_zero_is_not_computed(off):
    never = {"type": "import", "name": f"{OWN}:Never", **off}
    composition = composed(CROSS, never)
    total, values = composition.loss(seen(), 0.75 if "until" in off else 0.0)
    assert values["loss/Never"] == 0
    assert float(total.detach()) == pytest.approx(0.5 * float(values["cross_entropy"]), rel=1e-5)
    assert composition.losses.leaves_out()


def test_which_compositions_may_leave_parameters_out():
    assert not composed(CROSS, ATTENTION).losses.leaves_out()
    assert composed(ATTENTION).losses.leaves_out()


def gradient(student: nn.Module, sizes: list[int]) -> Tensor:
    """Of the mean over all samples, in micro-batches of `sizes`."""
    whole = seen(sum(sizes))
    teacher = LiveTeacher(network(6), ["1"])
    composition = composed(CROSS, ATTENTION, {**MEMORY, "weight": 0.3}, student=student, teacher=teacher)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        given = replace(whole, pixels=whole.pixels[part], targets=whole.targets[part], indices=torch.arange(10)[part])
        if not size:
            given = replace(given, pixels=whole.pixels[:1])
        (composition.loss(given)[0] / sum(sizes)).backward()
        start += size
    parameters = [*student.parameters(), *composition.losses.parameters()]
    return torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])


@pytest.mark.parametrize("sizes", [[3, 3], [1, 5], [6, 0], [1, 1, 4]])
def test_any_split_into_micro_batches_has_the_gradient_of_the_whole(sizes):
    torch.testing.assert_close(gradient(network(), sizes), gradient(network(), [6]), rtol=1e-4, atol=1e-6)


def test_a_rank_without_work_changes_nothing():
    composition = composed(CROSS, MEMORY)
    before = [buffer.clone() for buffer in composition.losses.memories()]
    given = replace(seen(1), targets=torch.zeros(0, dtype=torch.int64), indices=torch.zeros(0, dtype=torch.int64))
    total, values = composition.loss(given)
    total.backward()
    assert float(total.detach()) == 0
    assert all(float(value) == 0 for value in values.values())
    assert all(torch.equal(*pair) for pair in zip(before, composition.losses.memories(), strict=True))
    assert all(bool((parameter.grad == 0).all()) for parameter in composition.losses.parameters())


@pytest.mark.parametrize("accepted", [True, False])
def test_a_refused_step_is_not_remembered(accepted):
    composition = composed(CROSS, MEMORY)
    for _ in range(2):
        composition.loss(seen(3))
    composition.memories.settle(accepted, ALONE)
    (rows,) = composition.losses.memories()
    assert bool(rows[:3].any()) == accepted
    assert not rows[3:].any()


@pytest.mark.parametrize("accepted", [True, False])
def test_a_contrast_memory_is_one_of_samples(accepted):
    composition = composed(CROSS, CONTRAST, teacher=LiveTeacher(network(6), ["3"]))
    before = [rows.clone() for rows in composition.losses.memories()]
    assert [rows.shape for rows in before] == [(SAMPLES, 5)] * 2
    for _ in range(2):
        total, values = composition.loss(seen(3))
        total.backward()
        assert values["loss/crd"] > 0
    composition.memories.settle(accepted, ALONE)
    for rows, first in zip(composition.losses.memories(), before, strict=True):
        assert (rows[:3] != first[:3]).any(1).tolist() == [accepted] * 3
        assert torch.equal(rows[3:], first[3:])


@pytest.mark.parametrize(("policy", "accepted"), [("skip", False), ("skip", True), ("stop", True)])
def test_a_skipped_step_leaves_statistics_and_buffers_as_they_were(policy, accepted):
    student = network(norm=True)
    hint = {"type": "fitnet", "at": "1"}  # through a BatchNorm of its own
    composition = composed(CROSS, hint, MEMORY, CONTRAST, student=student, teacher=LiveTeacher(network(6), ["1", "3"]))
    model = DistillModel(student, TrainingConfig(steps=1, on_bad_step=policy), True, composition).train()
    changing = (
        "student.1.running_var",
        "1.regressors.0.1.running_mean",
        "2.calls",
        "3.memories.0.normalisers",
        "2.rows",
    )
    for _ in range(2):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        for micro_batch in (seen(4), replace(seen(3), pixels=torch.full((3, 1, 6, 6), torch.nan))):
            model(micro_batch)
        model.settle(accepted, ALONE)
        same = {name: torch.equal(before[name], buffer) for name, buffer in model.named_buffers()}
        assert [same[name] for name in same if name.endswith(changing)] == [not accepted] * len(changing)
        assert all(same.values()) or accepted
        if accepted:
            return


def test_a_buffer_as_long_as_the_training_set_is_no_memory_for_that():
    """CRD has two numbers to divide by, and here two samples."""
    side = LiveTeacher(network(6), ["3"])
    losses = compose(network(), terms(CONTRAST), side, torch.zeros(1, 1, 6, 6), CLASSES, 2).losses
    assert [tuple(rows.shape) for rows in losses.memories()] == [(2, 5), (2, 5)]
    assert len(losses.other_buffers()) == 3


def test_the_dry_pass_leaves_student_and_statistics_as_they_were():
    student = network(norm=True).train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    composed(CROSS, ATTENTION, student=student)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert all(module.training for module in student.modules())


def test_the_teacher_is_no_part_of_what_is_trained_and_keeps_its_mode_and_dtype():
    theirs = network(6, norm=True).to(torch.bfloat16)
    student = network()
    composition = composed(CROSS, ATTENTION, student=student, teacher=LiveTeacher(theirs, ["1"]))
    config = TrainingConfig(steps=1)
    model = DistillModel(student, config, True, composition)
    assert {id(value) for value in model.parameters()}.isdisjoint(id(value) for value in theirs.parameters())
    given = seen(3)
    model.train()
    loss, values = model(given, 0.0)
    loss.backward()
    assert tuple(values) == model.measures
    assert not any(module.training for module in theirs.modules())
    assert {value.dtype for value in theirs.parameters()} == {torch.bfloat16}
    assert all(value.grad is None for value in theirs.parameters())


def test_a_teacher_in_float32_stays_so_where_the_student_runs_in_bfloat16():
    dtypes = []
    theirs = network(6)
    theirs[0].register_forward_hook(lambda module, given, output: dtypes.append(output.dtype))
    student = network()
    composition = composed(CROSS, ATTENTION, student=student, teacher=LiveTeacher(theirs, ["1"]))
    model = DistillModel(student, TrainingConfig(steps=1, precision="bfloat16"), True, composition)
    ours = []
    student[0].register_forward_hook(lambda module, given, output: ours.append(output.dtype))
    given = seen(3)
    with torch.autocast("cpu", torch.bfloat16):  # as the engine does
        loss, _ = model(given)
    loss.backward()
    assert dtypes[-1] == torch.float32
    assert ours[-1] == torch.bfloat16


def test_losses_are_computed_without_autocast_but_for_those_that_want_it(monkeypatch: pytest.MonkeyPatch):
    student, noted = network(), []
    composition = composed(CROSS, ATTENTION, MEMORY, student=student)
    for method in composition.losses.methods:
        method.register_forward_pre_hook(lambda module, given: noted.append(torch.is_autocast_enabled("cpu")))
    monkeypatch.setattr(AttentionTransfer, "wants_autocast", True)
    for precision in ("bfloat16", "float32"):
        model = DistillModel(student, TrainingConfig(steps=1, precision=precision), True, composition)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):  # as the engine does
            model(seen(3))
    assert noted == [False, True, True, False, False, False]


def stored(theirs: nn.Module, pixels: Tensor) -> FeatureLabels:
    with torch.no_grad():
        maps = theirs[1](theirs[0](pixels)).flatten(1)
        logits = theirs(pixels)
    return FeatureLabels(torch.cat([maps, logits], 1), (("1", maps.shape[1]), ("logits", CLASSES)))


def test_stored_features_and_logits_teach_what_the_live_teacher_teaches():
    theirs, given = network(6), seen()
    codec = FeatureCodec.of_shapes((("1", (6, 6, 6)), ("logits", (CLASSES,))))
    wanted = {**MEMORY, "name": f"{OWN}:Logits", "at": []}
    live = composed(CROSS, ATTENTION, wanted, teacher=LiveTeacher(theirs, ["1"])).loss(given)
    side = StoredTeacher(codec, {"1": "a loss"})
    told = replace(given, labels=stored(theirs, given.pixels))
    ours = composed(CROSS, ATTENTION, wanted, teacher=side).loss(told)
    for name, value in live[1].items():
        torch.testing.assert_close(ours[1][name], value, msg=name)
    torch.testing.assert_close(ours[0], live[0])


def test_stored_logits_of_all_classes_or_of_few():
    side = StoredTeacher(DenseCodec(CLASSES), {})
    log_probs = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]])
    answer = side.answer(torch.zeros(1), DenseLabels(log_probs))
    assert answer.logits is not None
    assert answer.logits.tolist() == [[0.0, -87.0, -87.0, -87.0]]
    few = TopKLabels(torch.tensor([[1]] * 6), torch.full((6, 1), 0.5).log(), torch.full((6,), 0.5).log(), CLASSES)
    labels = {"type": "import", "name": f"{OWN}:Labels"}
    total, _ = composed(labels, teacher=side).loss(replace(seen(), labels=few))
    assert float(total.detach()) == 6 * CLASSES


def test_a_store_without_the_features_is_refused():
    asked = teacher_paths(terms(CROSS, {**ATTENTION, "at": ["1", "3"], "teacher_at": ["1", "2"]}))
    with pytest.raises(ConfigError, match=r"no features of '1' of training\.losses\.1, att.*live_teacher: true"):
        StoredTeacher(DenseCodec(CLASSES), asked)
    with pytest.raises(
        ConfigError, match=r"no features of '2' of training\.losses\.1, attention_transfer \(`teacher_at"
    ):
        StoredTeacher(FeatureCodec((("1", 3),)), asked)


def test_a_module_that_is_not_there_is_told_with_network_loss_and_what_is_near():
    wrong = {**ATTENTION, "at": "layer1"}
    with pytest.raises(
        ConfigError, match=r"the student has no module 'layer1' of .*losses\.1, att.*`at`.*it has 0, 1, 2"
    ):
        composed(CROSS, wrong)
    named = teacher_paths(terms(CROSS, {**wrong, "teacher_at": "l4"}), "teacher.fit.losses")
    with pytest.raises(ConfigError, match=r"the teacher has no module 'l4' of teacher\.fit\.losses\.1, .*`teacher_at`"):
        LiveTeacher(network(6), named)
    side, chosen = LiveTeacher(network(6), ["3"]), terms(CROSS, {"type": "fitnet", "at": "1", "teacher_at": "3"})
    with pytest.raises(ConfigError, match=r"teacher\.fit\.losses\.1, fitnet: this loss compares features place by"):
        compose(network(), chosen, side, torch.zeros(1, 1, 6, 6), CLASSES, SAMPLES, "teacher.fit.losses")
    wanted = r"'4:1' of training\.losses\.0, rkd \(`at`\) in the student gives Tensor"
    with pytest.raises(ConfigError, match=wanted):
        composed({"type": "rkd", "at": "4:1", "teacher_at": "4"}, teacher=LiveTeacher(network(6), ["4"]))


def test_gradients_of_the_input_and_passes_of_the_teacher():
    jacobian = {"type": "import", "name": f"{OWN}:Jacobian"}
    live = {"type": "import", "name": f"{OWN}:Live"}
    composition = composed(jacobian, live)
    given = seen()
    total, values = composition.loss(given)
    total.backward()
    assert values["loss/Jacobian"] > 0
    assert values["loss/Live"] > 0
    assert not given.pixels.requires_grad


def test_features_without_a_gradient_are_refused():
    student = network()
    student[0].requires_grad_(False)
    composition = composed(ATTENTION, student=student)
    with pytest.raises(ConfigError, match=r"\['1'\] have no gradient"):
        composition.loss(seen())


def test_hard_labels_alone():
    total, values = composed(CROSS, teacher=NoTeacher()).loss(seen())
    assert float(total.detach()) == pytest.approx(0.5 * float(values["cross_entropy"]), rel=1e-5)
    assert values["kl"] == 0
    assert np.isfinite(total.item())


def test_losses_in_a_script_of_ones_own():
    student, theirs, given = network(), network(6), seen()
    losses = kdcore.compose_losses(
        [CROSS, ATTENTION, {**MEMORY, "weight": 0.1}], student, theirs, given.pixels, num_samples=SAMPLES
    )
    assert len(list(losses.parameters())) == 2
    optimizer = torch.optim.SGD([*student.parameters(), *losses.parameters()], lr=0.05)
    found = []
    for _ in range(8):
        loss, values = losses.loss(given.pixels, given.targets, indices=given.indices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(values["loss/cross_entropy"].item())
    assert found[-1] < 0.9 * found[0]
    assert student.training
    with pytest.raises(ConfigError, match=r"key 'training\.losses\.0\.wieght'.*nearest valid key: '.*\.weight'"):
        kdcore.compose_losses([{"type": "cross_entropy", "wieght": 1}], student, None, given.pixels)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (ATTENTION, "'attention_transfer' looks into the teacher"),
        ({"type": "jacobian"}, "'jacobian' looks into the teacher"),
        ({"type": "dkd"}, "'dkd' needs the teacher's logits.*not NoneType"),
        ({"type": "kl"}, "'kl' needs the teacher's logits.*not NoneType"),
    ],
)
def test_a_script_without_a_teacher_is_told_what_misses_it(term, message):
    given = seen()
    with pytest.raises(ConfigError, match=message):
        kdcore.compose_losses([CROSS, term], network(), None, given.pixels).loss(given.pixels, given.targets)


def test_a_script_s_labels_are_of_logits_that_its_losses_can_take():
    given, half = seen(3), torch.full((3,), 0.5).log()
    few = TopKLabels(torch.zeros(3, 1, dtype=torch.int64), half[:, None], half, CLASSES)
    dense = DenseLabels(torch.randn(3, CLASSES).log_softmax(1))
    terms = {"kl": {"type": "kl", "temperature": 1.0}, "dkd": {"type": "dkd"}}
    losses = {name: kdcore.compose_losses([term], network(), None, given.pixels) for name, term in terms.items()}
    for name, labels in (("kl", few), ("kl", dense), ("dkd", dense)):
        assert losses[name].loss(given.pixels, given.targets, labels)[0] > 0
    with pytest.raises(ConfigError, match=r"'dkd' needs the teacher's logits.*not TopKLabels"):
        losses["dkd"].loss(given.pixels, given.targets, few)


def test_a_script_says_how_many_images_a_memory_is_of():
    with pytest.raises(ConfigError, match="set `num_samples`"):
        kdcore.compose_losses([CONTRAST], network(), network(6), seen().pixels)


class Auxiliary(nn.Sequential):
    """Has a second head in training, as torchvision's googlenet and inception_v3."""

    def forward(self, given: Tensor) -> Any:
        found = super().forward(given)
        return (found, found) if self.training else found


@pytest.mark.parametrize("listed", [True, False])
def test_a_student_that_gives_more_than_logits_is_told_so(listed: bool) -> None:
    student = Auxiliary(*network())
    composition = composed(CROSS, ATTENTION, student=student) if listed else None
    model = DistillModel(student, TrainingConfig(steps=1, batch_size=6), True, composition)
    with pytest.raises(ConfigError, match=r"the student must return logits \[6, classes\].* got tuple.*aux_logits"):
        model(seen())


def test_a_live_teacher_gives_logits() -> None:
    teacher = LiveTeacher(network()[:3], [])
    with pytest.raises(ConfigError, match=r"the teacher must return logits .* got a tensor \[6, 4, 6, 6\]"):
        teacher.answer(seen().inputs, None)


def test_a_step_without_any_loss_has_a_gradient_of_zero() -> None:
    """The first of a warm-up."""
    student = network()
    total, values = composed({**CROSS, "warmup": 0.5}, student=student).loss(seen())
    total.backward()
    assert (float(total.detach()), float(values["loss/cross_entropy"])) == (0, 0)
    assert float(values["cross_entropy"]) > 0
    gradients = [one.grad for one in student.parameters()]
    assert all(one is not None and not one.any() for one in gradients)


@pytest.mark.parametrize("off", [{"until": 0.4}, {"weight": 0.0}])
def test_losses_that_end_before_the_run_are_refused(off: dict[str, float]) -> None:
    lasting = {"type": "kl", "warmup": 0.5}
    TrainingConfig.model_validate({"steps": 10, "losses": [{**CROSS, **off}, lasting]})
    TrainingConfig.model_validate({"steps": 10, "losses": [{"type": "kl", "weight": 0.0, "final_weight": 1.0}]})
    with pytest.raises(ValueError, match=r"nothing to learn from after a share (0|0\.4) of the steps"):
        TrainingConfig.model_validate({"steps": 10, "losses": [{**CROSS, **off}, {**ATTENTION, "until": 0.3, **off}]})
