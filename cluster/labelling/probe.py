"""The probe of a labelling job: a few real documents, from which the codec learns and its losses are measured.

The driver asks one replica for it first; when that has answered, all others find it in the store. Between two jobs on
one store the first to publish wins.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kdcore.config.labels import CodecConfig
from kdcore.evaluation.fidelity import fidelity
from kdcore.identity import canonical_json, compare_identity
from kdcore.labels import Codec, codec_from_spec
from kdcore.labels.feature import ShapedLayers
from kdcore.labels.learn import ProbeBatch, learn_codec
from kdcore.store import Manifest, load_manifest, publish_probe, read_probe
from kdcore.store.manifest import is_finished

__all__ = ["Learn", "ProbeResult", "learn_on", "settle_codec"]


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found: the codec, what it was learnt for, and its fidelity."""

    asked: dict[str, Any]
    codec: Codec
    fidelity: dict[str, Any]

    @classmethod
    def of(cls, content: bytes) -> "ProbeResult":
        """From `probe.json`."""
        value = json.loads(content)
        state = value["state"]
        codec = codec_from_spec(value["codec"], None if state is None else base64.b64decode(state))
        return cls(value["asked"], codec, value["fidelity"])

    @classmethod
    def of_finished(cls, manifest: Manifest) -> "ProbeResult":
        """From a finished store that no probe began, such as an imported one."""
        return cls({}, manifest.make_codec(), manifest.extra.get("fidelity", {}))

    def content(self) -> bytes:
        """The JSON of `probe.json`."""
        state = self.codec.state()
        value = {
            "asked": self.asked,
            "codec": self.codec.spec(),
            "state": None if state is None else base64.b64encode(state).decode(),
            "fidelity": self.fidelity,
        }
        return json.dumps(value, allow_nan=False).encode()


class Learn(Protocol):
    """Learns a codec; the fidelity report of it is made when it is called for."""

    def __call__(self) -> tuple[Codec, Callable[[], dict[str, Any]]]:
        """Runs the probe."""
        ...


def learn_on(probe: Iterator[ProbeBatch], config: CodecConfig, num_classes: int, layers: ShapedLayers) -> Learn:
    """Learn from a teacher's whole outputs."""

    def learn() -> tuple[Codec, Callable[[], dict[str, Any]]]:
        learnt = learn_codec(config, num_classes, probe, layers)
        return learnt.codec, lambda: fidelity(learnt.codec, learnt.kept)

    return learn


def settle_codec(store_path: str, asked: Mapping[str, Any], config: CodecConfig, learn: Learn) -> Codec:
    """The codec of a store: the one it was begun with, else learnt and published.

    `asked` is what the labels are to be of: teacher, tokenizer, numerics, the names of the probe's samples.
    IdentityMismatch when the store's codec was learnt for something else.
    """
    wanted = json.loads(canonical_json({**asked, "codec": config.model_dump()}))
    content = read_probe(store_path)
    if content is None and is_finished(store_path):
        return ProbeResult.of_finished(load_manifest(store_path)).codec
    if content is None:
        codec, figures = learn()
        content = read_probe(store_path)  # another replica may have been faster
        if content is None:
            content = publish_probe(store_path, ProbeResult(wanted, codec, figures()).content())
    result = ProbeResult.of(content)
    compare_identity(
        _with_defaults(result.asked, config), wanted, what=f"the probe that began the label store {store_path}"
    )
    return result.codec


def _with_defaults(asked: dict[str, Any], config: CodecConfig) -> dict[str, Any]:
    """What a version asked that knew fewer settings of the codec: those it did not know were at their default."""
    optional = {name: field.default for name, field in type(config).model_fields.items() if not field.is_required()}
    return {**asked, "codec": {**json.loads(canonical_json(optional)), **asked["codec"]}}
