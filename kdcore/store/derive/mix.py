"""What a mix of stores says, written as a new store: for runs that read it often, or where the stores cannot go."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from kdcore.config.labels import ThresholdConfig
from kdcore.config.mix import MixConfig
from kdcore.errors import StoreError
from kdcore.facts import package_versions
from kdcore.identity import digest_input, digest_json, digest_sample_arrays
from kdcore.labels import Codec, DenseCodec, DenseLabels, SoftLabels, SparseLabels, TopKCodec, TopKLabels, label_seeds
from kdcore.labels.checks import row_chunks
from kdcore.labels.codec import Encoded, join
from kdcore.labels.counts import CountsCodec
from kdcore.labels.learn import ProbeBatch, learn_codec
from kdcore.labels.spans import spans_of
from kdcore.store.derive.derive import Derived, DerivedUnit, Making, Progress, SourceStore, derive_store
from kdcore.store.mix.mix import LabelMix
from kdcore.store.schema import FORMAT, LABEL_SPANS, TOKEN_LOG_PROBS, ShardRow, batches_from_rows, store_schema
from kdcore.store.storage.place import Place
from kdcore.store.storage.places import Location
from kdcore.store.writer import Receipt, write_shard

__all__ = ["mix_stores"]

_NOTE = "labels mixed of several stores; no fidelity was measured"
_UNIT_LABELS, _PROBE_LABELS = 1 << 17, 4096
_NOTHING = float("-inf")


def mix_stores(out: Location, config: MixConfig, progress: Progress | None = None) -> Derived:
    """A new store `out` of a mix's labels; a killed run continues, a finished one is left alone.

    Dense and top-k mixes are rounded to float16 once more; of more named classes than the largest k of the sources the
    least go into the tail, and where fewer are named the tail's even share names others. A mix of drawn labels is drawn
    again, as `threshold` with the most draws of its sources: unbiased still, with more variance than the mix has when
    it is read. Raises what opening the mix does, StoreError for one that changes from epoch to epoch, is kept apart or
    voted, for draws beside top-k labels and for views, and LabelError for a geometric mean of top-k labels of text.
    """
    mix = LabelMix.of(config)
    if mix.changes:
        raise StoreError("rule 'random' takes another teacher in every epoch, a store has one label: read this mix")
    if mix.apart:
        raise StoreError("rule 'apart' keeps a label of each teacher, a store has one: read this mix, or set the rule")
    if config.votes is not None:
        raise StoreError("rule 'votes' has the noise of a secret, which no store is to keep: read this mix")
    if len(mix.kinds) > 1:
        raise StoreError(
            "draws beside topk labels would be kept as topk: the largest of them, which are biased, for losses that "
            "take no draws. Read this mix, or leave the stores of one or the other out"
        )
    if mix.view_spec is not None:
        raise StoreError("a mix of views is read, not written: name its stores in labels.mix of a recipe")
    sources = [SourceStore(store.place) for store in mix.stores]
    seed = _seed(sources)
    codec = _codec(mix, seed)
    writer = _Writer(mix, codec, seed)
    identity = _identity(mix, codec, config, [source.digest for source in sources])
    how = {"how": "mix", "note": _NOTE, **_settings(config), "sources": [source.record() for source in sources]}
    made = Making(how, lambda *_: {}, codec.state())
    return derive_store(out, identity, list(writer.units()), made, progress)


def _settings(config: MixConfig) -> dict[str, Any]:
    names = [list(store.names) for store in config.stores]
    return {"rule": config.rule, "weights": list(config.weights), "missing": config.missing, "names": names}


def _identity(mix: LabelMix, codec: Codec, config: MixConfig, labels: list[str]) -> dict[str, Any]:
    """`labels` are the digests of the stores' manifests: one that was labelled again is another one."""
    whose = [store.identity.get("teacher") for store in mix.stores]
    first, second = mix.rows.keys.byteswap().T  # as bytes they are compared from their first on
    order = np.lexsort((second, first))
    return {
        **mix.identity,
        "format": FORMAT,
        "teacher": {"type": "mix", **_settings(config), "teachers": whose, "labels": labels},
        "numerics": {"of": [store.identity.get("numerics") for store in mix.stores]},
        "codec": codec.spec(),
        "vocabulary": mix.num_classes,
        "input": digest_input(mix.rows.keys[order], mix.occurrences()[order]),
        "versions": package_versions(),
    }


def _seed(sources: list[SourceStore]) -> int:
    """Of what is drawn again: with the numbers that drew the sources themselves, labels would be biased."""
    return int(digest_json([source.digest for source in sources])[:15], 16)


def _codec(mix: LabelMix, seed: int) -> Codec:
    if mix.form == "dense":
        return DenseCodec(mix.num_classes)
    if mix.form == "topk":
        return TopKCodec(min(mix.top, mix.num_classes), mix.num_classes)
    draws = max(store.codec.draws for store in mix.stores if isinstance(store.codec, CountsCodec))
    return learn_codec(ThresholdConfig(draws=draws, seed=seed), mix.num_classes, _probe(mix, seed)).codec


def _probe(mix: LabelMix, seed: int) -> Iterator[ProbeBatch]:
    """The first few thousand labels."""
    seen = 0
    for row in range(mix.num_rows):
        labels = mix.labels(row)
        assert isinstance(labels, SparseLabels)
        seeds, hard = label_seeds(mix.key(row), labels.num_labels, seed), _hard(mix, row)
        for part in row_chunks(labels.num_labels, mix.num_classes):
            yield ProbeBatch(_log_weights(labels.index(part)), None if hard is None else hard[part], seeds[part])
        seen += labels.num_labels
        if seen >= _PROBE_LABELS:
            return


def _hard(mix: LabelMix, row: int) -> np.ndarray | None:
    return mix.tokens(row)[1 + mix.label_positions(row)] if mix.kind == "text" else None


class _Writer:
    """Rows of a mix as shards."""

    def __init__(self, mix: LabelMix, codec: Codec, seed: int) -> None:
        self._mix, self._codec, self._seed = mix, codec, seed
        self._counts, self._times = mix.num_labels_per_row(), mix.occurrences()
        self._schema = store_schema(mix.kind, codec, mix.num_classes, mix.masked)

    def units(self) -> Iterator[DerivedUnit]:
        """Consecutive rows of about as many labels each."""
        number = np.cumsum(self._counts) // _UNIT_LABELS
        for place, unit in enumerate(np.unique(number).tolist()):
            rows = np.flatnonzero(number == unit)
            yield self._unit(f"unit-{place:06d}", rows)

    def _unit(self, name: str, rows: np.ndarray) -> DerivedUnit:
        digest = digest_sample_arrays(self._mix.rows.keys[rows], self._times[rows])

        def write(out: Place) -> Receipt:
            batches = batches_from_rows(self._schema, map(self._row, rows.tolist()))
            return write_shard(out, name, 0, self._schema, batches, unit_digest=digest, codec=self._codec)

        return DerivedUnit(name, digest, int(self._counts[rows].sum()), write)

    def _row(self, row: int) -> ShardRow:
        mix, hard = self._mix, _hard(self._mix, row)
        key = mix.key(row)
        encoded = _encoded(self._codec, mix.labels(row), label_seeds(key, int(self._counts[row]), self._seed))
        columns = self._codec.pack([encoded], [hard])[0]
        if hard is None:
            target = int(mix.targets_of(row))
            return ShardRow(key, mix.name(row), int(self._times[row]), columns, target=None if target < 0 else target)
        columns[TOKEN_LOG_PROBS] = mix.token_log_probs(row).astype(np.float16)
        if mix.masked:
            columns[LABEL_SPANS] = spans_of(mix.label_positions(row))
        return ShardRow(key, mix.name(row), int(self._times[row]), columns, tokens=mix.tokens(row))


def _encoded(codec: Codec, labels: SoftLabels, seeds: np.ndarray) -> Encoded:
    if isinstance(labels, DenseLabels):
        return codec.encode(labels.log_probs, seeds)
    if isinstance(labels, TopKLabels):
        assert isinstance(codec, TopKCodec)
        ids, log_probs = _largest(labels, codec.k)
        return codec.encode_entries(ids.numpy(), log_probs.numpy())
    assert isinstance(labels, SparseLabels)
    parts = row_chunks(labels.num_labels, labels.num_classes) or [slice(0, 0)]
    return join([codec.encode(_log_weights(labels.index(part)), seeds[part]) for part in parts])


def _log_weights(labels: SparseLabels) -> torch.Tensor:
    """Drawn labels as the logits of what they say, float32 [N, V]."""
    found = labels.weights.new_full((labels.num_labels, labels.num_classes), _NOTHING)
    found[labels.label_of_entry(), labels.ids] = labels.weights.log()
    return found


def _largest(labels: TopKLabels, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k classes with the most mass, int64 and float32 [N, k], by falling mass; see `mix_stores`."""
    ids, log_probs = labels.ids, labels.log_probs
    missing = k - ids.shape[1]
    if missing > 0:
        ids = torch.nn.functional.pad(ids, (0, missing), value=-1)
        log_probs = torch.nn.functional.pad(log_probs, (0, missing), value=_NOTHING)
    log_probs, order = log_probs.topk(k, dim=1)
    ids = ids.gather(1, order)
    for row in (ids < 0).any(1).nonzero()[:, 0].tolist():
        named = ids[row][ids[row] >= 0]
        others = torch.ones(labels.num_classes, dtype=torch.bool)
        others[named] = False
        free = others.nonzero()[: k - len(named), 0]
        share = labels.tail_log_prob[row].double() - float(np.log(labels.num_classes - len(named)))
        ids[row] = torch.cat([named, free])
        log_probs[row, len(named) :] = share.float()
    log_probs, order = log_probs.sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), log_probs
