"""Texts of all units, sieved: a label store to learn from, and Parquet files for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.labelling.probe import ProbeResult
from cluster.labelling.statistics import Statistics
from cluster.synthesis.kinds import Gathering
from kdcore.config import Recipe
from kdcore.config.models import TeacherLMConfig
from kdcore.config.synthesis.text import SelfGenerationConfig
from kdcore.data.synthesised.gathering import Generation, SampleFile, write_generation, write_samples
from kdcore.data.synthesised.places import labels_folder, samples_folder, units_folder
from kdcore.data.tokenizer import load_tokenizer
from kdcore.evaluation.synthesis_text import collapse_notes, text_figures
from kdcore.identity import digest_input, digest_sample_arrays
from kdcore.store.beginning import read_identity
from kdcore.store.columns import key_words, list_offsets, list_values
from kdcore.store.derive.derive import DerivedUnit, Making, derive_store
from kdcore.store.journal import read_journal
from kdcore.store.probe import read_probe
from kdcore.store.schema import TOKEN_LOG_PROBS, store_schema
from kdcore.store.shard import Shard
from kdcore.store.storage.place import Place
from kdcore.store.storage.places import open_place
from kdcore.store.verify import check_digest
from kdcore.store.writer import Receipt, write_shard
from kdcore.synthesis.text.filters import TextSieve, perplexity
from kdcore.synthesis.text.unit import ends_of
from kdcore.synthesis.units import SynthesisUnit, cut_units

__all__ = ["gather"]

_NOTE = "texts that the teacher wrote, labelled while it wrote them; fidelity was measured on texts of its own"
# Figures are of the first texts of a generation: a sample of all, since each is written without regard to the others.
_MEASURED = 5_000
_SAMPLES = pa.schema(
    [
        ("text", pa.string()),
        ("name", pa.string()),
        ("method", pa.string()),
        ("generation", pa.int32()),
        ("unit", pa.string()),
        ("seed", pa.int64()),
        ("step", pa.int32()),
        ("tokens", pa.int32()),
        ("perplexity", pa.float64()),
        ("finished", pa.bool_()),
    ]
)


def gather(recipe: Recipe, task: Gathering) -> Generation:
    """The kept texts of all generations so far as a label store, those of this one also as files.

    Texts are asked one after the other, in the order of generations, units and rows: what is kept depends on nothing
    else. CorruptShard for a shard that is not what its receipt says, OutOfSpace when the disk is full.
    """
    config = recipe.synthesis
    assert isinstance(config, SelfGenerationConfig)
    work = _Gathered.of(recipe, config)
    files: list[SampleFile] = []
    for generation in range(task.generation + 1):
        work.begin(generation)
        for unit, receipt in work.units(generation):
            table = work.take(unit, receipt)
            if generation == task.generation:
                files.append(write_samples(samples_folder(recipe), generation, unit.id, table))
    _write_labels(recipe, config, task.generation, work)
    figures = work.measured.figures(work.sieve.counts)
    made = sum(receipt.rows for receipt in task.receipts)
    identity = read_identity(units_folder(recipe, task.generation))
    prompted = bool(config.prompts) or config.prompt_file is not None
    notes = collapse_notes(figures, sum(file.rows for file in files), prompted)
    found = Generation(task.generation, task.asked, identity, made, tuple(files), figures, notes)
    write_generation(samples_folder(recipe), found)
    return found


class _Measured:
    """What is measured of texts."""

    def __init__(self) -> None:
        self.texts: list[np.ndarray] = []
        self.perplexities: list[float] = []
        self.finished: list[bool] = []

    def add(self, text: np.ndarray, found: float, finished: bool) -> None:
        """A kept text int [T], its perplexity, and whether it ended by itself."""
        if len(self.texts) < _MEASURED:
            self.texts.append(text.astype(np.int32))
            self.perplexities.append(found)
            self.finished.append(finished)

    def figures(self, left_out: Mapping[str, int]) -> dict[str, Any]:
        """See `text_figures`."""
        return text_figures(self.texts, np.array(self.perplexities), left_out, np.array(self.finished, bool))


@dataclass(frozen=True)
class _Chosen:
    """Rows of a unit's shard that are kept: their place in its batches, keys uint64 [n, 2], and number of tokens."""

    source: Place
    receipt: Receipt
    rows: Sequence[Sequence[int]]
    keys: np.ndarray
    tokens: int


class _Gathered:
    """Units read one after the other, and what is kept of them."""

    def __init__(self, recipe: Recipe, config: SelfGenerationConfig, tokenizer: Any, first: Place) -> None:
        self._recipe, self._config, self._tokenizer = recipe, config, tokenizer
        content = read_probe(first)
        assert content is not None  # no unit is written before a codec is settled
        self.probe = ProbeResult.of(content)
        identity = read_identity(first)
        self.vocabulary: int = identity["vocabulary"]
        self.schema = store_schema("text", self.probe.codec, self.vocabulary, "mask" in identity)
        self._ends = ends_of(tokenizer) | set(identity["synthesis"].get("ends", ()))
        self.sieve, self.measured = TextSieve(config.filters), _Measured()
        self.chosen: list[_Chosen] = []

    @classmethod
    def of(cls, recipe: Recipe, config: SelfGenerationConfig) -> "_Gathered":
        """With the teacher's tokenizer, and the codec that the first generation settled."""
        teacher = recipe.teacher
        assert isinstance(teacher, TeacherLMConfig)
        path, revision = teacher.tokenizer or teacher.path, None if teacher.tokenizer else teacher.revision
        return cls(recipe, config, load_tokenizer(str(path), revision), open_place(units_folder(recipe, 0)))

    def statistics(self) -> Statistics:
        """Empty ones, to be added to: of the labels that are kept, not of those that were written."""
        return Statistics("text", self.probe.codec, self.vocabulary)

    def begin(self, generation: int) -> None:
        """Count and measure from here on; what was kept before stays known."""
        self.sieve.counts = dict.fromkeys(self.sieve.counts, 0)
        self.measured = _Measured()
        self.place = open_place(units_folder(self._recipe, generation))

    def units(self, generation: int) -> list[tuple[SynthesisUnit, Receipt]]:
        """All of a generation, in their order; StoreError where one has no receipt."""
        units = cut_units(self._config, generation)
        return list(zip(units, read_journal(self.place, {unit.id: unit.digest for unit in units}), strict=True))

    def take(self, unit: SynthesisUnit, receipt: Receipt) -> pa.Table:
        """The kept texts of a unit, for people."""
        shard = Shard(self.place, receipt, self.schema, source=check_digest(self.place, receipt))
        lines: list[dict[str, Any]] = []
        rows = [self._sieved(unit, batch, lines) for batch in shard.batches]
        keys = [key_words(batch)[kept] for batch, kept in zip(shard.batches, rows, strict=True)]
        if lines:
            tokens = sum(line["tokens"] for line in lines)
            self.chosen.append(_Chosen(self.place, receipt, rows, np.concatenate(keys), tokens))
        return pa.Table.from_pylist(lines, schema=_SAMPLES)

    def _sieved(self, unit: SynthesisUnit, batch: pa.RecordBatch, lines: list[dict[str, Any]]) -> list[int]:
        names, keys = batch.column("name").to_pylist(), batch.column("key").to_pylist()
        columns = [
            np.split(list_values(batch, name), list_offsets(batch, name)) for name in ("tokens", TOKEN_LOG_PROBS)
        ]
        kept = []
        for row, (tokens, log_probs) in enumerate(zip(columns[0][1:-1], columns[1][1:-1], strict=True)):
            ended = int(tokens[-1]) in self._ends
            if self.sieve.refuses(keys[row], tokens, log_probs, ended) is not None:
                continue
            kept.append(row)
            found = perplexity(log_probs)
            self.measured.add(tokens, found, ended)
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            made = {"method": self._config.type, "generation": unit.generation, "unit": unit.id, "seed": unit.seed}
            about = {"step": len(log_probs), "tokens": len(tokens), "perplexity": found, "finished": ended}
            lines.append({"text": text, "name": names[row], **made, **about})
        return kept


def _write_labels(recipe: Recipe, config: SelfGenerationConfig, generation: int, work: _Gathered) -> None:
    """The store of all that is kept."""
    units = [_derived(number, chosen, work) for number, chosen in enumerate(work.chosen)]
    keys = np.concatenate([np.empty((0, 2), np.uint64), *(chosen.keys for chosen in work.chosen)])
    swapped = keys.byteswap()  # read as big-endian numbers, keys sort as their bytes do
    order = np.lexsort((swapped[:, 1], swapped[:, 0]))
    first = open_place(units_folder(recipe, 0))
    identity = {name: value for name, value in read_identity(first).items() if name != "generation"}
    identity["synthesis"] = {**identity["synthesis"], "filters": config.filters.model_dump(mode="json")}
    identity["input"] = digest_input(keys[order], np.ones(len(keys), np.int32))
    how = {"how": "self_generation", "note": _NOTE, "generations": generation + 1}

    def extra(place: Place, receipts: Sequence[Receipt]) -> dict[str, Any]:
        statistics = work.statistics()
        for receipt in receipts:
            statistics.add(receipt)
        return {"fidelity": work.probe.fidelity, "statistics": statistics.summary()}

    made = Making(how, extra, work.probe.codec.state(), first)
    derive_store(labels_folder(recipe, generation), identity, units, made)


def _derived(number: int, chosen: _Chosen, work: _Gathered) -> DerivedUnit:
    name = f"unit-{number:06d}"
    digest = digest_sample_arrays(chosen.keys, np.ones(len(chosen.keys), np.int32))

    def write(out: Place) -> Receipt:
        shard = Shard(chosen.source, chosen.receipt, work.schema, source=check_digest(chosen.source, chosen.receipt))
        pairs = zip(shard.batches, chosen.rows, strict=True)
        batches, statistics = [batch.take(pa.array(rows, pa.int64())) for batch, rows in pairs], work.statistics()
        kept = statistics.watch(batches)
        receipt = write_shard(out, name, 0, work.schema, kept, unit_digest=digest, codec=work.probe.codec)
        return statistics.noted(receipt)

    return DerivedUnit(name, digest, chosen.tokens, write)
