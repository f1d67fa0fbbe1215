import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdcore.config.models import CausalLMConfig, ImageClassifierConfig, TeacherImageConfig, TeacherLMConfig
from kdcore.data.windows import windows
from kdcore.errors import TeacherError, TokenizerMismatch
from kdcore.models.causal_lm import build_causal_lm
from kdcore.models.image import build_image_model, save_image_model
from kdcore.models.tokenizer import load_tokenizer
from kdcore.teachers.causal_lm import CausalLMTeacher
from kdcore.teachers.image_classifier import ImageTeacher

pytest.importorskip("transformers")

SHAPE = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "max_position_embeddings": 64}


def save_teacher(folder, seed=0, **change):
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(str(folder))
    model = build_causal_lm(CausalLMConfig(architecture=SHAPE | change), tokenizer)
    model.lm_head.weight.data *= 20  # answers that differ clearly between tokens
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    from jobs.train_tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(iter(["def function(argument):\n    return argument\n"] * 3), 270, folder)
    return folder


@pytest.fixture
def folder(vocabulary, tmp_path):
    return shutil.copytree(vocabulary, tmp_path / "teacher")


def teacher_of(path, **settings):
    return CausalLMTeacher(TeacherLMConfig(path=path, **({"context": 32, "overlap": 8} | settings)), device="cpu")


def random_tokens(length, seed=0):
    return np.random.default_rng(seed).integers(0, 270, length)


def test_padding_of_a_batch_changes_nothing(folder):
    teacher = teacher_of(save_teacher(folder))
    tokens = [random_tokens(length, length) for length in (1, 17, 32, 5)]
    together = teacher.window_logits(tokens)
    for window, logits in zip(tokens, together, strict=True):
        assert logits.shape == (len(window), 270)
        assert logits.dtype == torch.float32
        assert not logits.requires_grad
        torch.testing.assert_close(logits, teacher.window_logits([window])[0], atol=1e-4, rtol=1e-4)


def test_windows_of_a_document_answer_like_the_document_itself(folder):
    teacher = teacher_of(save_teacher(folder))
    tokens = random_tokens(40)
    with torch.no_grad():
        whole = teacher.model(input_ids=torch.from_numpy(tokens)[None]).logits[0]
    # Overlap 31 of 32: each later label sees 31 tokens to its left, the first 32 labels all there is.
    parts = windows(40, 32, 31)
    found = [teacher.window_logits([tokens[part.start : part.stop]])[0][part.kept] for part in parts]
    assert sum(len(rows) for rows in found) == 39
    torch.testing.assert_close(found[0], whole[:32], atol=1e-4, rtol=1e-4)


def test_padded_vocabulary_is_cut_and_a_foreign_one_refused(folder):
    teacher = teacher_of(save_teacher(folder, vocab_size=320))
    assert teacher.num_classes == 270
    assert teacher.window_logits([random_tokens(3)])[0].shape == (3, 270)
    config = teacher.model.config
    config.vocab_size = 600
    type(teacher.model)(config).save_pretrained(folder)
    with pytest.raises(TokenizerMismatch, match="600 rows"):
        teacher_of(str(folder))


def test_identity_follows_content_not_place(folder, tmp_path):
    path = save_teacher(folder)
    identity = teacher_of(path).identity()
    moved = str(shutil.copytree(folder, tmp_path / "moved"))
    assert teacher_of(moved).identity() == identity
    assert "teacher" not in str(identity.values())
    assert teacher_of(moved, dtype="bfloat16").identity()["dtype"] == "bfloat16"
    weights = teacher_of(save_teacher(folder, seed=1)).identity()
    assert weights["weights"] != identity["weights"]
    assert weights["settings"] == identity["settings"]
    # Same tensors, other answers: the positions turn at another speed.
    rope = save_teacher(folder, rope_parameters={"rope_type": "default", "rope_theta": 77.0})
    assert teacher_of(rope).identity()["settings"] != identity["settings"]
    assert teacher_of(rope).identity()["weights"] == identity["weights"]


def test_half_precision_answers_in_half_precision(folder):
    logits = teacher_of(save_teacher(folder), dtype="bfloat16").window_logits([random_tokens(9)])[0]
    assert logits.dtype == torch.bfloat16  # codecs widen a few rows at a time
    assert torch.isfinite(logits).all()


def test_teachers_that_cannot_be_trusted(folder):
    path = save_teacher(folder)
    with pytest.raises(TeacherError, match="64"):
        teacher_of(path, context=65)
    with pytest.raises(TeacherError, match=r"teacher\.path"):
        CausalLMTeacher(TeacherLMConfig(architecture=SHAPE, tokenizer=path))
    with pytest.raises(TeacherError, match="at least one token"):
        teacher_of(path).window_logits([np.zeros(0, dtype=np.int64)])
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(TeacherError, match=r"pytorch_model\.bin"):
        teacher_of(path)
    weights.write_bytes(b"\0" * 100)
    with pytest.raises(TeacherError, match="safetensors"):
        teacher_of(path)


def test_image_teacher(tmp_path):
    network = ImageClassifierConfig(kwargs={"width": 4})
    model = build_image_model(network, 5, 1).eval()
    save_image_model(model, network, 5, 1, tmp_path)
    teacher = ImageTeacher(TeacherImageConfig(path=str(tmp_path)), 5, 1, device="cpu")
    pixels = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(teacher.logits(pixels), model(pixels).detach())
    assert (teacher.kind, teacher.num_classes, teacher.tokenizer) == ("image", 5, None)
    half = ImageTeacher(TeacherImageConfig(path=str(tmp_path), dtype="bfloat16"), 5, 1, device="cpu")
    assert half.logits(pixels).dtype == torch.float32
    assert teacher.identity()["settings"] == half.identity()["settings"]
    assert teacher.identity() != half.identity()
    with pytest.raises(TeacherError, match="exported with"):
        ImageTeacher(TeacherImageConfig(path=str(tmp_path)), 6, 1)


def test_classifier_with_another_shape_is_refused():
    config = TeacherImageConfig(source="import", name="torch.nn:Identity")
    with pytest.raises(TeacherError, match=r"must return logits \(2, 5\)"):
        ImageTeacher(config, 5, 1, device="cpu").logits(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize(
    "settings", [{}, {"source": "timm", "name": "resnet10t"}, {"source": "torchvision", "name": "resnet18"}]
)
def test_an_untrained_classifier_is_no_teacher(settings):
    with pytest.raises(TeacherError, match=r"teacher\.path.*teacher\.fit"):
        ImageTeacher(TeacherImageConfig(**settings), 5, 3)


def test_a_pretrained_head_of_other_classes_is_no_teacher(tmp_path):
    timm = pytest.importorskip("timm")
    save_file(timm.create_model("resnet10t", num_classes=7).state_dict(), tmp_path / "weights.safetensors")
    overlay = {"file": str(tmp_path / "weights.safetensors"), "num_classes": 7}
    kwargs = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    config = TeacherImageConfig(source="timm", name="resnet10t", kwargs=kwargs)
    assert ImageTeacher(config, 7, 3, device="cpu").logits(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    with pytest.raises(TeacherError, match=r"they are 5, .* are of 7.*teacher\.path"):
        ImageTeacher(config, 5, 3, device="cpu")


@pytest.mark.parametrize("source", ["cifar_resnet", "lenet", "mlp"])
def test_networks_of_our_own_have_no_weights(source):
    with pytest.raises(TeacherError, match=rf"'{source}' network .* has only its initial ones.*teacher\.fit"):
        ImageTeacher(TeacherImageConfig(source=source), 5, 1)
