"""From a spec and its state to the codec, or to a refusal."""

import zlib

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from kdcore.errors import StoreError
from kdcore.labels import FeatureCodec, codec_from_spec
from kdcore.labels.coder import CoderModel
from tests.support.labels import codec_of

SPECS = [
    {},
    {"type": None},
    {"type": "span", "num_classes": 3},
    {"type": ["topk"]},
    {"type": "topk", "k": 0, "num_classes": 3},
    {"type": "topk", "k": 4, "num_classes": 3},
    {"type": "topk", "k": True, "num_classes": 3},
    {"type": "topk", "k": 2.0, "num_classes": 3},
    {"type": "topk", "k": 2, "num_classes": "3"},
    {"type": "topk", "k": 2, "num_classes": 3, "bits": 16},
    {"type": "topk", "k": 2, "num_classes": 3, "bits": 4},
    {"type": "topk", "k": 2, "num_classes": 3, "bits": 8.0},
    {"type": "topk", "k": 2, "bits": 8},
    {"type": "dense", "num_classes": 3, "bits": 16, "more": 1},
    {"type": "dense", "num_classes": 3, "bits": 12},
    {"type": "dense", "num_classes": 3, "bits": True},
    {"type": "dense", "num_classes": 3},
    {"type": "dense", "num_classes": -3, "bits": 8},
    {"type": "dense"},
    {"type": "feature", "layers": [], "scales": None},
    {"type": "feature", "layers": [["a"]], "scales": None},
    {"type": "feature", "layers": [["a", 0]], "scales": None},
    {"type": "feature", "layers": [["a", True]], "scales": None},
    {"type": "feature", "layers": [[1, 1]], "scales": None},
    {"type": "feature", "layers": "a", "scales": None},
    {"type": "feature", "layers": [["a", 1]], "scales": "0" * 32},
    {"type": "feature", "layers": [["a", 1]], "scales": 1},
    *(
        {"type": "feature", "layers": [["a", 4], ["b", 2]], "scales": None, "shapes": shapes}
        for shapes in (None, {}, [], [[4]], [[2, 2], [2], [1]], [[2, 2], [3]], [[2, 2], 2], [[-2, -2], [2]])
    ),
    {"type": "feature", "layers": [["a", 4]], "scales": None, "shapes": [[4, True]]},
    {"type": "feature", "layers": [["a", 4]], "scales": None, "shapes": [[4, 1.0]]},
]


@pytest.mark.parametrize("spec", SPECS)
def test_malformed_specs_are_refused(spec):
    for state in (None, b"", b"x", FeatureCodec.learn((("a", 1),), torch.ones(1, 1)).state()):
        with pytest.raises(StoreError):
            codec_from_spec(spec, state)


def test_shapes_are_those_of_the_layers_widths():
    spec = {"type": "feature", "layers": [["a", 4], ["b", 2], ["c", 1]], "scales": None}
    codec = codec_from_spec({**spec, "shapes": [[2, 1, 2], [2], []]})
    assert isinstance(codec, FeatureCodec)
    assert codec.shape_of() == {"a": (2, 1, 2), "b": (2,), "c": ()}
    assert codec.spec() == {**spec, "shapes": [[2, 1, 2], [2], []]}
    assert codec != codec_from_spec(spec)


@pytest.mark.parametrize(
    "spec", [{"type": "topk", "k": 2, "num_classes": 3}, {"type": "dense", "bits": 8, "num_classes": 3}]
)
def test_a_state_that_nothing_asks_for_is_refused(spec):
    codec_from_spec(spec)
    with pytest.raises(StoreError, match="learnt tables"):
        codec_from_spec(spec, b"x")


@pytest.mark.parametrize("name", ["sampled", "threshold"])
@pytest.mark.parametrize(
    "change",
    [
        {"draws": 6},
        {"draws": 0},
        {"draws": "5"},
        {"num_classes": 41},
        {"seed": -1},
        {"seed": 0.5},
        {"coder": None},
        {"coder": "0" * 32},
        {"coder": 7},
        {"more": 1},
        {"type": "dense"},
    ],
)
def test_specs_that_do_not_fit_their_tables_are_refused(name, change):
    codec = codec_of(name, 5, 40)
    assert codec_from_spec(codec.spec(), codec.state()).spec() == codec.spec()
    with pytest.raises(StoreError):
        codec_from_spec({**codec.spec(), **change}, codec.state())


def test_tables_of_another_store_or_none_are_refused():
    codec, other = codec_of("threshold", 5, 40), codec_of("threshold", 5, 40, seed=1)
    with pytest.raises(StoreError, match="another store"):
        codec_from_spec(codec.spec(), other.state())
    with pytest.raises(StoreError, match="needs its learnt tables"):
        codec_from_spec(codec.spec())


def test_the_digest_is_of_the_tables_not_of_their_compression():
    """Two builds of zlib may compress the same tables to other bytes; the store's spec must not change with them."""
    codec = codec_of("threshold", 5, 40)
    state = codec.state()
    again = codec_from_spec(codec.spec(), zlib.compress(zlib.decompress(state), 1))
    assert zlib.compress(zlib.decompress(state), 1) != state
    assert again.spec() == codec.spec()


def test_garbage_for_tables_is_refused():
    state = codec_of("threshold", 5, 40).state()
    for garbage in (b"", b"x", state[:-1], state[:50], state[1:], zlib.compress(b""), zlib.compress(b"x" * 99)):
        with pytest.raises(StoreError, match="restore it"):
            CoderModel.from_bytes(garbage)


def test_no_flipped_bit_in_the_tables_goes_unseen():
    codec = codec_of("threshold", 5, 40)
    state, spec = codec.state(), codec.spec()
    for place in range(0, 8 * len(state), 7):
        altered = bytearray(state)
        altered[place // 8] ^= 1 << place % 8
        try:
            found = codec_from_spec(spec, bytes(altered))
        except StoreError:
            continue
        assert found == codec  # a bit that carries nothing, such as zlib's level


def edited(**changes) -> bytes:
    tensors = load(zlib.decompress(codec_of("threshold", 5, 40).state()))
    for name, change in changes.items():
        tensors[name] = change(tensors[name])
    return zlib.compress(save(tensors))


def _put(place, value):
    def change(tensor):
        tensor = tensor.copy()
        tensor[place] = value
        return tensor

    return change


def _move(tensor):
    """A frequency to the next symbol; the first of the two can then not be coded, though the sum is right."""
    tensor = tensor.copy()
    first = int(np.flatnonzero(tensor[1] > 0)[0])
    tensor[1, first + 1] += tensor[1, first]
    tensor[1, first] = 0
    return tensor


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("draws", lambda _: np.array([0])),
        ("draws", lambda _: np.array([-5])),
        ("draws", lambda _: np.array([6_000])),
        ("draws", lambda _: np.array([2**62])),
        ("draws", lambda _: np.array([np.inf])),
        ("draws", lambda _: np.array([], np.int64)),
        ("draws", lambda _: np.ones((2, 2), np.int64)),
        ("bytes_per_label", lambda _: np.array([], np.float64)),
        ("ids_by_rank", _put(3, 4)),
        ("ids_by_rank", _put(3, -1)),
        ("ids_by_rank", _put(3, 40)),
        ("ids_by_rank", lambda ids: ids[:0]),
        ("ids_by_rank", lambda ids: ids[:-1]),
        ("ids_by_rank", lambda ids: ids.astype(np.int64)),
        ("ids_by_rank", lambda ids: ids.reshape(4, 10)),
        ("frequencies", _put((0, 0), 0)),
        ("frequencies", _put((3, 1), 4000)),
        ("frequencies", _move),
        ("frequencies", lambda table: table[:-1]),
        ("frequencies", lambda table: table[:, :-1]),
        ("frequencies", lambda table: table.astype(np.int32)),
        ("frequencies", lambda table: table.ravel()),
    ],
)
def test_edited_tables_are_refused(name, change):
    CoderModel.from_bytes(edited())
    with pytest.raises(StoreError, match="restore it"):
        CoderModel.from_bytes(edited(**{name: change}))


@pytest.mark.parametrize("name", ["draws", "bytes_per_label", "ids_by_rank", "frequencies"])
def test_missing_tables_are_refused(name):
    tensors = load(zlib.decompress(codec_of("threshold", 5, 40).state()))
    del tensors[name]
    with pytest.raises(StoreError, match="cannot be read"):
        CoderModel.from_bytes(zlib.compress(save(tensors)))


def test_bfloat16_tables_are_refused():
    from safetensors.torch import save as save_torch

    state = zlib.compress(save_torch({"draws": torch.ones(1, dtype=torch.bfloat16)}))
    with pytest.raises(StoreError):
        CoderModel.from_bytes(state)
    codec = FeatureCodec.learn((("a", 1),), torch.ones(1, 1))
    with pytest.raises(StoreError):
        codec_from_spec(codec.spec(), save_torch({"scales": torch.ones(1, dtype=torch.bfloat16)}))
