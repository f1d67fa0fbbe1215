"""Every method makes images of a tiny teacher: the same ones twice, and better by its own terms than at first."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from kdcore.config.synthesis import SynthesisConfig
from kdcore.config.synthesis.images import ImageSynthesis
from kdcore.errors import ConfigError, LabelError
from kdcore.synthesis.images.disagreement import kl
from kdcore.synthesis.images.make import check_networks, make_images
from kdcore.synthesis.images.nayer import Nayer
from kdcore.synthesis.images.pixels import PixelSpace, SynthesisedImages, total
from kdcore.synthesis.images.pool import ImagePool
from kdcore.synthesis.images.shadow import ShadowStudent
from kdcore.taps import Taps
from tests.support.made_images import CLASSES, SPACE, BatchNormNet, batch_norm_teacher

SMALL = {"samples": 12, "batch_size": 12, "latent": 8, "width": 4, "student_batch_size": 16, "student_steps": 2}
METHODS: dict[str, dict[str, Any]] = {
    "deep_inversion": {"steps": 15, "learning_rate": 0.1},
    "impressions": {"steps": 15, "learning_rate": 0.1},
    "cmi": {"steps": 12, "samples": 24, "memory": 15},
    "fast_meta": {"steps": 5, "samples": 48, "learning_rate": 0.01, "warmup": 1},
    "nayer": {"steps": 12, "samples": 24, "embeddings": "orthogonal"},
    "dafl": {"steps": 25, "learning_rate": 0.01},
    "zskt": {"steps": 25, "learning_rate": 0.01, "student_learning_rate": 1e-6},
    "dfq": {"steps": 25, "learning_rate": 0.01, "adversarial": 0.1, "total_variation": 0.1, "pixel_statistics": 0.1},
}


@pytest.fixture(scope="module")
def teacher() -> BatchNormNet:
    return batch_norm_teacher()


def settings(type: str, **changes: Any) -> Any:
    asked = {**SMALL, **METHODS.get(type, {}), **changes, "type": type}
    if type not in METHODS or type in ("deep_inversion", "impressions"):
        asked = {name: value for name, value in asked.items() if name not in ("latent", "width")}
    return TypeAdapter[ImageSynthesis](SynthesisConfig).validate_python(asked)


def make(teacher: nn.Module, asked: Any, seed: int = 1, heard: list[float] | None = None) -> SynthesisedImages:
    student = None
    if asked.needs_student:
        torch.manual_seed(5)
        student = BatchNormNet(3)

    def listen(have: int, losses: dict[str, float]) -> None:
        if heard is not None:
            terms = {name: torch.tensor(value) for name, value in losses.items() if name != "student"}
            heard.append(total(asked, terms).item() if terms else 0.0)

    return make_images(teacher, student, asked, SPACE, CLASSES, wanted=asked.samples, seed=seed, on_step=listen)


@pytest.mark.parametrize("type", METHODS)
def test_a_method_lowers_its_loss_and_depends_on_its_seed_alone(teacher: BatchNormNet, type: str) -> None:
    asked = settings(type)
    heard: list[float] = []
    torch.manual_seed(123)
    made = make(teacher, asked, heard=heard)
    assert made.pixels.shape == (asked.samples, *SPACE.shape)
    assert made.pixels.dtype == torch.uint8
    assert len(made) == len(made.losses) == len(made.steps) == asked.samples
    assert min(heard[1:]) < heard[0]
    assert sum(heard[-3:]) / 3 < heard[0]
    torch.manual_seed(7)
    again = make(teacher, asked)
    assert torch.equal(again.pixels, made.pixels)
    assert again.losses == made.losses


def test_another_seed_makes_other_images(teacher: BatchNormNet) -> None:
    first, second = (make(teacher, settings("dafl", steps=2), seed=seed) for seed in (1, 2))
    assert not torch.equal(first.pixels, second.pixels)


@pytest.mark.parametrize("type", ["deep_inversion", "cmi", "fast_meta"])
def test_asked_for_classes_are_what_the_teacher_sees(teacher: BatchNormNet, type: str) -> None:
    made = make(teacher, settings(type, steps=30, one_hot=3.0, batch_norm=0.3))
    assert torch.bincount(made.targets, minlength=CLASSES).tolist() == [asked_each(made)] * CLASSES
    seen = teacher(SPACE.seen(SPACE.from_bytes(made.pixels))).argmax(1)
    assert (seen == made.targets).float().mean() > 0.8


@pytest.mark.parametrize("type", ["deep_inversion", "nayer"])
@pytest.mark.parametrize("batch", [2, 4])
def test_batches_that_classes_do_not_divide_are_balanced_together(teacher: BatchNormNet, type: str, batch: int) -> None:
    made = make(teacher, settings(type, steps=1, samples=26, batch_size=batch))
    assert sorted(torch.bincount(made.targets, minlength=CLASSES).tolist()) == [8, 9, 9]


def test_noisy_layers_go_on_with_the_class_that_is_next(teacher: BatchNormNet) -> None:
    maker = Nayer(teacher, None, settings("nayer"), SPACE, CLASSES)
    maker._generator = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]  latents are seen as they are
    latents = []
    for first in range(2):
        torch.manual_seed(0)  # the same two layers
        latents.append(maker.canvas(torch.arange(first, 6) % CLASSES).draw())
    assert torch.equal(latents[0][1:], latents[1])


def asked_each(made: SynthesisedImages) -> int:
    return len(made) // CLASSES


def test_an_adaptive_inversion_is_drawn_to_where_its_student_errs(teacher: BatchNormNet) -> None:
    asked = settings("deep_inversion", adversarial=1.0, samples=24)
    heard = make(teacher, asked).losses
    assert "adversarial" not in heard[0]  # the student has learnt nothing yet
    assert 0 <= heard[-1]["adversarial"] <= 1
    assert heard[-1]["student"] > 0


@pytest.mark.parametrize(
    ("type", "warmup"), [("deep_inversion", {}), ("fast_meta", {"warmup": 2}), ("nayer", {"warmup": 0})]
)
def test_a_student_is_heard_after_the_warm_up_or_not_asked_for(
    teacher: BatchNormNet, type: str, warmup: dict[str, int]
) -> None:
    first = max(1, warmup.get("warmup", 1))
    asked = {"adversarial": 1.0, "steps": 1, "batch_size": 4, **warmup}
    made = make(teacher, settings(type, samples=4 * first + 1, **asked))
    assert ["adversarial" in losses for losses in made.losses] == [False] * 4 * first + [True]
    for units in ({"samples": 4 * first}, {"samples": 99, "unit_samples": 4 * first}):
        with pytest.raises(ValidationError, match=f"here after {first}, and a unit has {first}"):
            settings(type, **asked, **units)
    with pytest.raises(ValidationError, match="here after 10, and a unit has 10"):
        TypeAdapter(SynthesisConfig).validate_python({"type": "nayer", "samples": 9999, "adversarial": 1})


@pytest.mark.parametrize("type", ["deep_inversion", "zskt"])
def test_a_student_that_diverges_is_told_from_images_that_do(teacher: BatchNormNet, type: str) -> None:
    asked = settings(type, adversarial=1.0, samples=24, steps=1, student_learning_rate=1e30)
    with pytest.raises(LabelError, match=r"student must .* got nan.* Lower synthesis\.student_learning_rate"):
        make(teacher, asked)


PAIRS = [["conv1", "conv1"], ["bn2", "conv2"]]


def test_a_student_of_a_game_learns_by_attention_transfer_too(teacher: BatchNormNet) -> None:
    asked = settings("zskt", attention=7.0, attention_pairs=PAIRS, replay=0.0, student_learning_rate=0.01)
    torch.manual_seed(5)
    network = BatchNormNet(3)
    image = torch.rand(1, *SPACE.shape)
    seen = SPACE.seen(image).expand(asked.student_batch_size, -1, -1, -1)

    def apart() -> Tensor:
        """Sum over both pairs of the mean of (Q_s - Q_t)^2, from the definition."""
        found = torch.zeros(())
        for ours, theirs in ((network.conv1, teacher.conv1), (network.bn2, teacher.conv2)):
            maps = []
            for net, layer in ((network, ours), (teacher, theirs)):
                with Taps(net, [next(name for name, module in net.named_modules() if module is layer)]) as taps:
                    net(seen)
                (features,) = taps.outputs.values()
                strength = (features**2).sum(1).flatten(1)
                maps.append(strength / (strength**2).sum(1, keepdim=True).sqrt())
            found = found + ((maps[0] - maps[1]) ** 2).mean()
        return found

    before = apart().item()
    wanted = kl(network.train()(seen), teacher(seen), asked.temperature).mean().item() + 7 * before
    student = ShadowStudent(network, teacher, asked, SPACE)
    pool = ImagePool(SPACE.shape, 4)
    assert student.learn(image, pool, 1) == pytest.approx(wanted, rel=1e-4)
    student.learn(image, pool, 20)
    after = apart().item()
    assert after < 0.7 * before
    assert make(teacher, settings("zskt", attention=7.0, attention_pairs=PAIRS, steps=4)).losses[0]["student"] > 0


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (["conv3", "conv1"], r"the student has no module 'conv3' of synthesis\.attention_pairs; nearest: conv"),
        (["conv1", "head"], r"maps \[B, C, H, W\]; 'head' of synthesis\.attention_pairs in the teacher gives"),
    ],
)
def test_layers_of_attention_are_looked_for_before_anything_is_made(
    teacher: BatchNormNet, pair: list[str], message: str
) -> None:
    asked = settings("zskt", attention=1.0, attention_pairs=[pair])
    with pytest.raises(ConfigError, match=message):
        check_networks(teacher, BatchNormNet(3), asked, SPACE)


def test_attention_needs_layers_a_weight_and_a_student() -> None:
    for type, changes, message in (
        ("zskt", {"attention": 1.0}, "1 and 0 pairs"),
        ("zskt", {"attention_pairs": PAIRS}, "0 and 2 pairs"),
        ("dafl", {"attention": 1.0, "attention_pairs": PAIRS}, "set adversarial above 0"),
    ):
        with pytest.raises(ValidationError, match=message):
            settings(type, **changes)


def test_teachers_of_attention_are_asked_by_their_patches() -> None:
    torch.manual_seed(0)
    vit = TinyVit().requires_grad_(False).eval()
    asked = settings("patch_similarity", steps=12, learning_rate=0.1, one_hot=0.0, total_variation=0.0, first_tokens=0)
    heard: list[float] = []
    made = make(vit, asked, heard=heard)
    assert heard[-1] < heard[0] < 5
    assert made.losses[0].keys() == {"patch_entropy"}
    with pytest.raises(ConfigError, match=r"synthesis\.at"):
        make(BatchNormNet(), asked)


@pytest.mark.parametrize("type", ["deep_inversion", "dfq"])
def test_a_transformer_is_asked_by_its_layer_norms(type: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    vit = models.VisionTransformer(8, 4, 2, 2, 16, 32, num_classes=CLASSES).requires_grad_(False).eval()
    space = PixelSpace((3, 8, 8), (0.5,) * 3, (0.3,) * 3)
    alone = {"layer_norm": 1.0, "batch_norm": 0.0, "one_hot": 0.0, "total_variation": 0.0}
    game = {"adversarial": 0.0, "balance": 0.0, "pixel_statistics": 0.0, "learning_rate": 0.02}
    others = {"dfq": game, "deep_inversion": {"l2": 0.0, "shift": 0}}
    asked = settings(type, **{"steps": 20, "learning_rate": 0.1, **alone, **others[type]})
    heard: list[float] = []
    made = make_images(
        vit, None, asked, space, CLASSES, wanted=12, seed=1, on_step=lambda have, losses: heard.append(total_of(losses))
    )
    assert made.losses[0].keys() == {"layer_norm"}
    # It falls only if its slope comes to the pixels.
    assert sum(heard[-3:]) / 3 < 0.95 * heard[0]
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).eval()
    with pytest.raises(ConfigError, match=r"synthesis\.layer_norm"):
        check_networks(bare, None, asked, SPACE)


def total_of(losses: dict[str, float]) -> float:
    return sum(losses.values())


class TinyVit(nn.Module):
    """Patches of 2 x 2, one attention, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, 2)
        self.attention = SelfAttention()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.attention(self.patches(pixels).flatten(2).transpose(1, 2)).mean(1))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.project(tokens).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(query, key, value)


def test_unrelated_images_are_balanced_by_what_the_teacher_sees(teacher: BatchNormNet) -> None:
    asked = settings("transfer", samples=30, candidates=8)
    made = make(teacher, asked)
    counts = torch.bincount(made.targets, minlength=CLASSES)
    assert counts.min() >= 5
    dark = make_images(
        teacher, None, asked, SPACE, CLASSES, wanted=4, seed=0, found=lambda count: torch.zeros(count, *SPACE.shape)
    )
    assert not dark.pixels.any()
    with pytest.raises(ValidationError, match="found"):
        settings("transfer", adversarial=1.0)


def test_what_a_teacher_or_recipe_lacks_is_said(teacher: BatchNormNet) -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).eval()
    with pytest.raises(ConfigError, match=r"synthesis\.batch_norm"):
        make(bare, settings("deep_inversion"))
    with pytest.raises(ConfigError, match="add `student`"):
        make_images(teacher, None, settings("zskt"), SPACE, CLASSES, wanted=3, seed=0)
    with pytest.raises(ValidationError):
        settings("dafl", warmup=3)
