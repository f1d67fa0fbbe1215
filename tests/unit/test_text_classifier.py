"""Encoders that classify texts, built and as teachers."""

import pytest
import torch

from kdcore.config.models import TeacherTextClassifierConfig, TextClassifierConfig
from kdcore.errors import ConfigError, TeacherError
from kdcore.models.text_classifier import TokenClassifier, build_text_classifier, encode_texts
from kdcore.models.tokenizer import load_tokenizer
from kdcore.teachers.text_classifier import TextClassifierTeacher
from tests.support.encoders import ARCHITECTURE, make_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def _config(**values):
    return TextClassifierConfig.model_validate({"max_length": 8, **values})


def _teacher(folder, **values):
    settings = {"path": str(folder), "max_length": 8, **values}
    return TextClassifierTeacher(TeacherTextClassifierConfig.model_validate(settings), 2)


def test_texts_are_padded_and_cut(folder):
    tokenizer = load_tokenizer(str(folder))
    found = encode_texts(tokenizer, [("good film", None), ("the film was not very good the film", None)], 6)
    assert found["input_ids"].tolist() == [[2, 8, 6, 3, 0, 0], [2, 4, 6, 7, 12, 3]]
    assert found["attention_mask"].sum(1).tolist() == [4, 6]
    pair = encode_texts(tokenizer, [("good", "bad")], 6)
    assert pair["input_ids"].tolist() == [[2, 8, 3, 9, 3]]


def test_a_teacher_answers_alike_in_any_batch(folder):
    teacher = _teacher(folder)
    texts = [("good film", None), ("the film was not very good", None), ("bad", None)]
    together = teacher.logits(teacher.encode(texts))
    assert together.shape == (3, 2)
    alone = torch.cat([teacher.logits(teacher.encode([text])) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_features_are_those_of_the_first_token(folder):
    teacher = _teacher(folder)
    layers = ["bert.encoder.layer.0", "bert.pooler"]
    assert teacher.features(teacher.encode([("good film", None), ("bad", None)]), layers).shape == (2, 32)
    inputs = teacher.encode([("good film", None), ("bad", None)])
    torch.testing.assert_close(teacher.features(inputs, [*layers, "logits"])[:, 32:], teacher.logits(inputs))
    with pytest.raises(ConfigError, match="nearest"):
        teacher.features(inputs, ["bert.encoder.layer.9"])


def test_identity_is_of_weights_and_length(folder, tmp_path):
    found = [_teacher(folder), _teacher(make_encoder(tmp_path, seed=1)), _teacher(folder, max_length=9)]
    assert len({str(sorted(teacher.identity().items())) for teacher in found}) == 3
    assert _teacher(folder).identity() == found[0].identity()


def test_what_does_not_fit_is_refused(folder):
    tokenizer = load_tokenizer(str(folder))
    with pytest.raises(ConfigError, match=r"data\.num_classes is 3, the model of .* has 2"):
        build_text_classifier(_config(path=str(folder)), tokenizer, 3)
    with pytest.raises(ConfigError, match="16 positions, max_length is 32: set it to 16"):
        build_text_classifier(_config(path=str(folder), max_length=32), tokenizer, 2)
    with pytest.raises(ConfigError, match="did you mean 'hidden_size'"):
        build_text_classifier(_config(architecture={**ARCHITECTURE, "hiden_size": 8}), tokenizer, 2)
    with pytest.raises(TeacherError, match="only initial ones"):
        TextClassifierTeacher(TeacherTextClassifierConfig.model_validate({"architecture": ARCHITECTURE}), 2)


def test_an_architecture_is_built_for_tokenizer_and_classes(folder):
    model = build_text_classifier(_config(architecture=ARCHITECTURE), load_tokenizer(str(folder)), 3)
    assert model.config.num_labels == 3
    assert model.get_input_embeddings().weight.shape == (14, 16)


def test_positions_of_roberta_begin_after_those_of_padding(folder):
    """The tokenizer's padding is 0, so that 15 of 16 rows are positions of tokens."""
    tokenizer = load_tokenizer(str(folder))
    roberta = {**ARCHITECTURE, "model_type": "roberta"}
    texts = [(" ".join(["good"] * 30), None)]
    model = build_text_classifier(_config(architecture=roberta, max_length=15), tokenizer, 2)
    assert model(**encode_texts(tokenizer, texts, 15)).logits.shape == (1, 2)
    with pytest.raises(ConfigError, match=r"has 15 positions \(16 in its .*the first 1 stand for .*to 15 or"):
        build_text_classifier(_config(architecture=roberta, max_length=16), tokenizer, 2)


def test_types_are_not_told_to_a_network_that_has_one(folder):
    """RoBERTa has a single type, where a tokenizer may number the second text of a pair 1."""
    tokenizer = load_tokenizer(str(folder))
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokens = torch.stack([torch.tensor([[2, 8, 3, 9, 3]]), torch.ones(1, 5).long(), torch.tensor([[0, 0, 0, 1, 1]])], 1)
    for architecture, alike in (({"model_type": "roberta", "type_vocab_size": 1}, True), ({}, False)):
        model = build_text_classifier(_config(architecture={**ARCHITECTURE, **architecture}), tokenizer, 2)
        found = TokenClassifier(model.eval(), tokenizer)(tokens)
        assert torch.allclose(found, model(input_ids=tokens[:, 0]).logits) == alike
