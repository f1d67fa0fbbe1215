import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kdcore.config.models import CausalLMConfig, ImageClassifierConfig
from kdcore.data.tokenizer import encode_document
from kdcore.errors import ConfigError, TokenizerMismatch
from kdcore.models.causal_lm import build_causal_lm
from kdcore.models.cifar_resnet import BasicBlock
from kdcore.models.image import build_image_model, load_image_model, save_image_model
from kdcore.models.lenet import LeNet5
from kdcore.models.mlp import MLP
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


def vit(folder):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=5)).save_pretrained(folder)
    return {"source": "transformers", "name": str(folder)}


def timm_resnet(folder):
    import timm

    save_file(timm.create_model("resnet10t", num_classes=1000).state_dict(), folder / "weights.safetensors")
    overlay = {"file": str(folder / "weights.safetensors")}
    return {"source": "timm", "name": "resnet10t", "kwargs": {"pretrained": True, "pretrained_cfg_overlay": overlay}}


@pytest.mark.parametrize("made", [vit, timm_resnet])
def test_an_export_needs_nothing_of_what_its_weights_began_from(made, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    config = image_config(**made(begun))
    model = build_image_model(config, 5, 3).eval()
    save_image_model(model, config, 5, 3, tmp_path / "export")
    shutil.rmtree(begun)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_image_model(tmp_path / "export").eval()(pixels), model(pixels))
    described = config.model_copy(update={"path": str(tmp_path / "export")})
    assert torch.equal(build_image_model(described, 5, 3).eval()(pixels), model(pixels))


def test_torchvision_fetches_no_weights_where_there_are_some(tmp_path, monkeypatch):
    from torchvision.models import get_model

    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *given, **more: pytest.fail("fetched")
    )
    model = get_model("squeezenet1_1", num_classes=1000).eval()
    config = image_config(source="torchvision", name="squeezenet1_1", kwargs={"weights": "DEFAULT"})
    save_image_model(model, config, 1000, 3, tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_image_model(tmp_path).eval()(pixels), model(pixels))


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_torchvision_s_weights_are_tensors(tmp_path, monkeypatch):
    from torchvision.models import SqueezeNet1_1_Weights, get_model

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / Path(SqueezeNet1_1_Weights.DEFAULT.url).name
    file.parent.mkdir(parents=True)
    config = image_config(source="torchvision", name="squeezenet1_1", kwargs={"weights": "DEFAULT"})
    model = get_model("squeezenet1_1", num_classes=1000)
    torch.save(model.state_dict(), file)
    assert torch.equal(build_image_model(config, 1000, 3).classifier[1].bias, model.classifier[1].bias)
    torch.save({"classifier.1.bias": Touch(tmp_path / "ran")}, file)
    with pytest.raises(ConfigError, match="Weights only load failed"):
        build_image_model(config, 1000, 3)
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


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
        (
            {"source": "transformers", "kwargs": {"model_type": "vit", "hiden_size": 8}},
            3,
            r"`kwargs`.*hiden_size.*hidden_size",
        ),
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


@pytest.mark.parametrize(
    ("source", "kwargs", "channels", "size"),
    [
        ("cifar_resnet", {"depth": 8, "width": 6}, 3, 16),
        ("mlp", {"hidden": [12, 7], "size": 6, "dropout_input": 0.2, "dropout": 0.5}, 3, 6),
        ("lenet", {"width": 0.5}, 1, 28),
    ],
)
def test_our_own_networks_are_exported_and_loaded_again(source, kwargs, channels, size, tmp_path):
    config = image_config(source=source, kwargs=kwargs)
    model = build_image_model(config, 5, channels)
    pixels = torch.randn(4, channels, size, size)
    model(pixels)  # in training, so that running averages are those of some images
    model.eval()
    assert model(pixels).shape == (4, 5)
    save_image_model(model, config, 5, channels, tmp_path)
    again = load_image_model(tmp_path)
    assert torch.equal(again.eval()(pixels), model(pixels))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_shortcut_of_option_a_has_every_second_pixel_and_zeros_for_new_channels():
    block = BasicBlock(4, 8).eval()
    torch.nn.init.zeros_(block.bn2.weight)  # the shortcut alone
    maps = torch.rand(2, 4, 6, 6)
    found = block(maps)
    assert torch.equal(found[:, 2:6], maps[:, :, ::2, ::2])
    assert not found[:, :2].any()
    assert not found[:, 6:].any()
    same = BasicBlock(4, 4).eval()
    torch.nn.init.zeros_(same.bn2.weight)
    assert torch.equal(same(maps), maps)


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (56, 853_018)])
def test_the_residual_networks_have_the_paper_s_sizes(depth, parameters):
    """Section 4.2 of He et al. 2015: 0.27 and 0.85 million."""
    model = build_image_model(image_config(source="cifar_resnet", kwargs={"depth": depth}), 10, 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    weighted = [name for name, value in model.named_parameters() if value.ndim > 1]
    assert len(weighted) == depth


def test_dropout_is_of_pixels_and_of_every_hidden_layer_s_units():
    model = MLP(3, 1, (200, 200), size=20, dropout_input=0.25, dropout=0.5)
    with torch.no_grad():
        kept = (model.input(torch.ones(50, 1, 20, 20)) != 0).float().mean()
        assert kept == pytest.approx(0.75, abs=0.02)
        for layer, width in zip(model.hidden, (400, 200), strict=True):
            torch.nn.init.ones_(layer[0].weight)
            assert (layer(torch.ones(50, width)) != 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert not [module for module in MLP(3, 1).modules() if getattr(module, "p", 0) > 0]


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_a_lenet_of_another_width_has_so_many_times_the_channels(width):
    model = LeNet5(10, 1, width)
    layers = (model.conv1, model.conv2, model.conv3, model.hidden)
    assert [layer.weight.shape[0] for layer in layers] == [6 * width, 16 * width, 120 * width, 84 * width]
    inner = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(inner), model(torch.nn.functional.pad(inner, (2, 2, 2, 2))))


@pytest.mark.parametrize(
    ("source", "kwargs", "pixels", "words"),
    [
        ("mlp", {"size": 8}, (1, 1, 9, 9), r"\(1, 8, 8\), got \(1, 9, 9\): set `size`"),
        ("lenet", {}, (1, 1, 30, 30), r"got 30 x 30: set data\.size"),
        ("cifar_resnet", {"depth": 21}, (1, 1, 8, 8), r"depth must be 6 n \+ 2 .* got 21"),
    ],
)
def test_what_our_own_networks_cannot_take_is_said(source, kwargs, pixels, words):
    with pytest.raises(ConfigError, match=words):
        build_image_model(image_config(source=source, kwargs=kwargs), 5, 1)(torch.zeros(pixels))
