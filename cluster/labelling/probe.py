"""The probe of a labelling job: a few real documents, from which the codec learns and its losses are measured.

Every replica that finds no probe in the store makes it; the first to publish wins, and all use the winner's.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from kdcore.config.labels import CodecConfig
from kdcore.data.document import SampleRef
from kdcore.errors import IdentityMismatch
from kdcore.evaluation.fidelity import fidelity
from kdcore.identity import canonical_json, digest_bytes
from kdcore.labels import Codec, codec_from_spec
from kdcore.labels.feature import Layers
from kdcore.labels.learn import ProbeBatch, learn_codec
from kdcore.store import publish_probe, read_probe

__all__ = ["Probe", "ProbeResult", "settle_codec", "spread"]


class ProbeResult:
    """What a probe found: the codec, its setting, and its fidelity."""

    def __init__(self, content: bytes) -> None:
        value = json.loads(content)
        state = value["state"]
        self.config: dict[str, Any] = value["config"]
        self.codec: Codec = codec_from_spec(value["codec"], None if state is None else base64.b64decode(state))
        self.fidelity: dict[str, Any] = value["fidelity"]

    @staticmethod
    def content(config: CodecConfig, codec: Codec, figures: dict[str, Any]) -> bytes:
        """The JSON of `probe.json`."""
        state = codec.state()
        value = {
            "config": config.model_dump(),
            "codec": codec.spec(),
            "state": None if state is None else base64.b64encode(state).decode(),
            "fidelity": figures,
        }
        return json.dumps(value, allow_nan=False).encode()


Probe = Iterator[ProbeBatch]


def settle_codec(store_path: str, config: CodecConfig, num_classes: int, layers: Layers, probe: Probe) -> ProbeResult:
    """The codec of a store: the one it was begun with, else learnt on `probe` and published.

    IdentityMismatch when the store's codec was learnt for another setting.
    """
    content = read_probe(store_path)
    if content is None:
        learnt = learn_codec(config, num_classes, probe, layers)
        figures = fidelity(learnt.codec, learnt.kept)
        content = publish_probe(store_path, ProbeResult.content(config, learnt.codec, figures))
    result = ProbeResult(content)
    if canonical_json(result.config) != canonical_json(config.model_dump()):
        raise IdentityMismatch(
            f"the label store {store_path} was begun with labels.codec {canonical_json(result.config)}, now "
            f"{canonical_json(config.model_dump())} is asked for: set it back, or give a new labels.path"
        )
    return result


def spread(refs: Sequence[SampleRef]) -> list[SampleRef]:
    """The samples in an order of their own, the same on every machine: the first few stand for all."""
    return sorted(refs, key=lambda ref: digest_bytes(f"probe:{ref.name}".encode()))
