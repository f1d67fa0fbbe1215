import json

import pytest
import torch
from safetensors.torch import save_file

from kdcore.config.models import CausalLMConfig, ImageClassifierConfig
from kdcore.data.tokenizer import encode_document
from kdcore.errors import ConfigError, TokenizerMismatch
from kdcore.models.causal_lm import build_causal_lm
from kdcore.models.image import build_image_model, load_image_model, save_image_model
from kdcore.models.tokenizer import check_tokenizer, load_tokenizer, valid_vocabulary

pytest.importorskip("transformers")

SHAPE = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from jobs.train_tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    assert build_tokenizer(iter(["def function(argument):\n    return argument\n"] * 3), 270, folder) == 270
    return load_tokenizer(str(folder))


def image_config(**settings):
    return ImageClassifierConfig(**settings)


def test_documents_begin_and_end_but_do_not_end_inside(tokenizer):
    text = "def <|endoftext|>\r\n\té \U0001f600\0"
    ids = encode_document(tokenizer, text)
    assert ids.dtype == "int64"
    assert (ids == 0).nonzero()[0].tolist() == [0, len(ids) - 1]
    assert tokenizer.decode(ids[1:-1]) == text
    assert encode_document(tokenizer, "").tolist() == [0, 0]


def test_encoding_leaves_the_tokenizer_as_it_was(tokenizer):
    from kdcore.identity import digest_tokenizer

    before = digest_tokenizer(tokenizer)
    encode_document(tokenizer, "x <|endoftext|>")
    assert digest_tokenizer(tokenizer) == before
    assert tokenizer("<|endoftext|>")["input_ids"] == [0]


def test_tokenizer_that_does_not_fit(tokenizer, tmp_path):
    assert valid_vocabulary(tokenizer) == 270
    assert check_tokenizer(tokenizer, 270) == check_tokenizer(tokenizer, 320) == 270
    for rows in (269, 500):
        with pytest.raises(TokenizerMismatch, match=str(rows)):
            check_tokenizer(tokenizer, rows)
    with pytest.raises(TokenizerMismatch, match="nothing-here"):
        load_tokenizer(str(tmp_path / "nothing-here"))


def test_architecture_takes_vocabulary_and_specials_of_the_tokenizer(tokenizer):
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build_causal_lm(CausalLMConfig(architecture=SHAPE), tokenizer))
    config = models[0].config
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (270, 0, 0, 0)
    weights = [model.lm_head.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hiden_size": 8}, "hidden_size"),
        ({"model_type": "lama"}, "lama"),
        ({"hidden_size": 15}, "multiple"),
        ({"vocab_size": 100}, "100 rows"),
    ],
)
def test_wrong_architecture_is_explained(tokenizer, change, message):
    with pytest.raises((ConfigError, TokenizerMismatch), match=message):
        build_causal_lm(CausalLMConfig(architecture=SHAPE | change), tokenizer)
    with pytest.raises(ConfigError, match="model_type"):
        build_causal_lm(CausalLMConfig(architecture={"hidden_size": 8}), tokenizer)


def test_loading_from_safetensors_and_nothing_else(tokenizer, tmp_path):
    model = build_causal_lm(CausalLMConfig(architecture=SHAPE), tokenizer)
    model.save_pretrained(tmp_path / "good")
    again = build_causal_lm(CausalLMConfig(path=str(tmp_path / "good")), tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

    weights = tmp_path / "good" / "model.safetensors"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if "q_proj" not in name}
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="q_proj"):
        build_causal_lm(CausalLMConfig(path=str(tmp_path / "good")), tokenizer)

    weights.unlink()
    torch.save(model.state_dict(), tmp_path / "good" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin"):
        build_causal_lm(CausalLMConfig(path=str(tmp_path / "good")), tokenizer)


@pytest.mark.parametrize("size", [8, 15])
def test_convnet(size):
    model = build_image_model(image_config(kwargs={"width": 4, "depth": 4}), 7, 1)
    assert model(torch.randn(3, 1, size, size)).shape == (3, 7)


@pytest.mark.parametrize(
    ("source", "name", "kwargs", "size"),
    [
        ("timm", "resnet10t", {}, 32),
        ("torchvision", "squeezenet1_1", {}, 32),
        ("transformers", "", {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                              "intermediate_size": 16, "image_size": 32, "patch_size": 16}, 32),
        ("import", "kdcore.models.convnet:ConvNet", {"width": 4}, 8),
    ],
)  # fmt: skip
def test_every_source_answers_with_logits(source, name, kwargs, size, tmp_path):
    config = image_config(source=source, name=name, kwargs=kwargs)
    model = build_image_model(config, 5, 3).eval()
    pixels = torch.randn(2, 3, size, size)
    assert model(pixels).shape == (2, 5)
    save_image_model(model, config, 5, 3, tmp_path)
    assert torch.equal(load_image_model(tmp_path).eval()(pixels), model(pixels))


def test_an_export_brings_its_network_and_is_checked(tmp_path):
    config = image_config(kwargs={"width": 4})
    model = build_image_model(config, 5, 1)
    save_image_model(model, config, 5, 1, tmp_path)
    again = build_image_model(image_config(path=str(tmp_path)), 5, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    written_out = ImageClassifierConfig.model_validate(image_config(path=str(tmp_path)).model_dump())
    assert build_image_model(written_out, 5, 1).state_dict().keys() == model.state_dict().keys()
    for wrong, classes, channels in (({"kwargs": {"width": 8}}, 5, 1), ({}, 6, 1), ({}, 5, 3)):
        with pytest.raises(ConfigError, match="exported with"):
            build_image_model(image_config(path=str(tmp_path), **wrong), classes, channels)
    (tmp_path / "model.json").write_text(json.dumps({"model": {"source": "pickle"}}))
    with pytest.raises(ConfigError, match="exported by this project"):
        load_image_model(tmp_path)


@pytest.mark.parametrize(
    ("settings", "channels", "message"),
    [
        ({"kwargs": {"widht": 4}}, 1, "widht"),
        ({"source": "timm", "name": "resnet_none"}, 3, "resnet_none"),
        ({"source": "torchvision", "name": "resnet_none"}, 3, "resnet_none"),
        ({"source": "torchvision", "name": "squeezenet1_1"}, 1, r"data\.channels"),
        ({"source": "import", "name": "no.such.module:f"}, 1, "module:callable"),
        ({"source": "import", "name": "builtins:dict"}, 1, "torch.nn.Module"),
        ({"path": "missing.safetensors"}, 1, "missing.safetensors"),
    ],
)
def test_wrong_image_model_is_explained(settings, channels, message):
    with pytest.raises(ConfigError, match=message):
        build_image_model(image_config(**settings), 5, channels)


def test_pickled_and_unfitting_weights_are_refused(tmp_path):
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="safetensors alone"):
        build_image_model(image_config(path=str(tmp_path / "model.pt")), 5, 1)
    save_file({"head.bias": torch.zeros(9)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="do not fit"):
        build_image_model(image_config(path=str(tmp_path / "w.safetensors")), 5, 1)
