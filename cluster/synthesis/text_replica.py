"""A teacher that writes texts: its units are labelled while they are written, as shards of an ordinary label store."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from cluster.labelling.disk_room import free_bytes
from cluster.labelling.probe import learn_on, settle_codec
from cluster.labelling.replica.answers import token_bounded_batches
from cluster.labelling.replica.loading import asked_of_teacher
from cluster.labelling.statistics import Statistics
from kdcore.config import Recipe
from kdcore.config.models import TeacherLMConfig
from kdcore.config.synthesis.text import SelfGenerationConfig
from kdcore.data.synthesised.places import units_folder
from kdcore.errors import ConfigError
from kdcore.facts import package_versions
from kdcore.identity import digest_file
from kdcore.labels import Codec
from kdcore.labels.learn import ProbeBatch
from kdcore.labels.spans import spans_of
from kdcore.precision import bfloat16_note
from kdcore.store import find_receipt, publish_probe, read_probe
from kdcore.store.schema import LABEL_SPANS, TOKEN_LOG_PROBS, ShardRow, batches_from_rows, store_schema
from kdcore.store.writer import Receipt, write_shard
from kdcore.synthesis.text.beginnings import Prompts
from kdcore.synthesis.text.labelling import LabelTaker, probed
from kdcore.synthesis.text.unit import beginnings_of, ends_of, key_of_text, name_of, probe_unit, writing_of
from kdcore.synthesis.text.weak_spots import disagreement, weakest
from kdcore.synthesis.units import SynthesisUnit, settings_of_samples
from kdcore.teachers.base import pick_device
from kdcore.teachers.causal_lm import CausalLMTeacher
from kdcore.teachers.split import LeadingTeacher

__all__ = ["TextReplica"]


class TextReplica:
    """The teacher of a recipe, loaded, to write texts. A unit depends on nothing but its number and the codec."""

    def __init__(self, recipe_json: str, store_path: str) -> None:
        recipe = Recipe.model_validate_json(recipe_json)
        self._recipe, self._store_path = recipe, store_path
        self._config, teacher = _asked(recipe)
        split = teacher.tensor_parallel > 1
        timeout = recipe.cluster.rank_timeout_seconds
        self.teacher = LeadingTeacher(teacher, timeout) if split else CausalLMTeacher(teacher)
        self._prompts = Prompts(self._config, self._encode, _begin(self.teacher.tokenizer))
        self._stops = _stops(self.teacher)
        self._longest = self._prompts.longest() + self._config.max_tokens
        self.teacher.check_slots(self._longest)
        self._seed: int = getattr(recipe.codec, "seed", 0)

    def _encode(self, text: str) -> list[int]:
        # Special tokens in a prompt are meant: <|im_start|>user begins a question.
        return self.teacher.tokenizer.encode(text, add_special_tokens=False, verbose=False)

    @property
    def _written_alone(self) -> bool:
        return self._config.labelled == "written"

    @cached_property
    def _student(self) -> CausalLMTeacher | None:
        """The one whose weak spots are looked for."""
        path, teacher = self._config.student, self._recipe.teacher
        if self._config.weak_spots is None or path is None:
            return None
        assert isinstance(teacher, TeacherLMConfig)
        own = {"path": path, "tokenizer": teacher.tokenizer or teacher.path, "revision": None, "tensor_parallel": 1}
        # It looks at whole texts: that they fit is what counts, not the teacher's windows.
        student = CausalLMTeacher(teacher.model_copy(update={**own, "context": 2, "overlap": 0}))
        student.check_context(self._longest, "synthesis.max_tokens (and a prompt's tokens)", "the student")
        return student

    @cached_property
    def _asked_of_codec(self) -> dict[str, Any]:
        return {
            **asked_of_teacher(self.teacher),
            "numerics": {"written": True},
            **({"mask": "completion"} if self._written_alone else {}),
            "synthesis": {**_words_of(self._config), **_ends_beyond(self.teacher.tokenizer, self._stops)},
        }

    @cached_property
    def _codec(self) -> Codec:
        """The store's, or what texts of this replica say it should be; of all generations that of the first."""
        first = units_folder(self._recipe, 0)
        learnt = None if str(first) == self._store_path else read_probe(first)
        if learnt is not None:
            publish_probe(self._store_path, learnt)
        learn = learn_on(self._probe(), self._recipe.codec, self.teacher.num_classes, ())
        return settle_codec(self._store_path, self._asked_of_codec, self._recipe.codec, learn)

    def _probe(self) -> Iterator[ProbeBatch]:
        config = self._config
        unit = probe_unit(config, self._recipe.labels.probe_labels)
        beginnings = beginnings_of(config, self._prompts, unit)
        writing = writing_of(config, beginnings, self._stops)
        steps = writing.steps(self.teacher)
        yield from probed(steps, beginnings, writing.longest, self._seed, self._written_alone)

    def identity(self) -> dict[str, Any]:
        """Kind, teacher, tokenizer, how texts are written, codec and versions. The first call settles the codec."""
        asked = dict(self._asked_of_codec)
        if self._student is not None:
            asked["synthesis"] = {**asked["synthesis"], "student": self._student.identity()}
        return {**asked, "codec": self._codec.spec(), "versions": package_versions()}

    def outlook(self) -> dict[str, float | None]:
        """The free bytes here."""
        return {"free": free_bytes(self._store_path)}

    @property
    def note(self) -> str:
        """What a person should know before it begins: that its numerics are slow here."""
        return bfloat16_note(self._recipe, ("teacher.dtype",), pick_device(None))

    def label(self, unit: SynthesisUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
        """Write the texts of a unit and its shard; the receipt is not published yet. `batch_divisor`: fewer at a time.

        A unit that has a valid receipt meanwhile is answered with that one. LabelError when the teacher's outputs are
        not finite, OutOfSpace when the disk is full.
        """
        there = find_receipt(self._store_path, unit.id, unit.digest)
        if there is not None:
            return there
        codec, vocabulary = self._codec, self.teacher.num_classes
        schema, statistics = (
            store_schema("text", codec, vocabulary, self._written_alone),
            Statistics("text", codec, vocabulary),
        )
        batches = statistics.watch(batches_from_rows(schema, self._rows(unit, batch_divisor)))
        receipt = write_shard(self._store_path, unit.id, attempt, schema, batches, unit_digest=unit.digest, codec=codec)
        return statistics.noted(receipt)

    def _rows(self, unit: SynthesisUnit, batch_divisor: int) -> list[ShardRow]:
        """What is kept of a unit's texts, in the order of their rows."""
        beginnings = beginnings_of(self._config, self._prompts, unit)
        writing = writing_of(self._config, beginnings, self._stops, batch_divisor)
        taker = LabelTaker(self._codec, beginnings, writing.longest, self._seed, self._written_alone)
        for step in writing.steps(self.teacher):
            taker.take(step)
        texts = [row[:length] for row, length in zip(writing.tokens, writing.lengths.tolist(), strict=True)]
        labels = list(taker.rows(writing.tokens, writing.lengths))
        rows = []
        for row in self._kept(texts, taker.first, [log_probs for _, log_probs in labels]):
            columns, log_probs = labels[row]
            if self._written_alone:
                columns[LABEL_SPANS] = spans_of(np.arange(taker.first[row], len(texts[row]) - 1))
            key, found = key_of_text(self.teacher.tokenizer, texts[row]), {**columns, TOKEN_LOG_PROBS: log_probs}
            rows.append(ShardRow(key, name_of(unit, row), 1, found, tokens=texts[row]))
        return rows

    def _kept(self, texts: Sequence[np.ndarray], first: np.ndarray, log_probs: Sequence[np.ndarray]) -> list[int]:
        student, share = self._student, self._config.weak_spots
        if student is None or share is None:
            return list(range(len(texts)))
        limit = student.config.batch_tokens
        theirs: list[np.ndarray] = [np.empty(0)] * len(texts)
        for batch in token_bounded_batches([len(text) for text in texts], limit):
            for row, logits in zip(batch, student.window_logits([texts[row] for row in batch]), strict=True):
                targets = torch.from_numpy(texts[row][1:]).to(logits.device)[:, None]
                found = logits[:-1].float().log_softmax(1).gather(1, targets)[:, 0]
                theirs[row] = found[first[row] :].cpu().numpy()
        return weakest(disagreement(log_probs, theirs), share).tolist()

    @property
    def torn(self) -> bool:
        """Whether the processes of a split teacher are no longer at the same call."""
        return isinstance(self.teacher, LeadingTeacher) and self.teacher.torn

    def rest(self) -> None:
        """Let the other processes of a split teacher go until the next call."""
        if isinstance(self.teacher, LeadingTeacher):
            self.teacher.rest()


# How many texts there are and are written at once decides no word of one; a file of prompts is told by its content.
_NOT_OF_WORDS = frozenset({"batch", "unit_samples", "prompt_file"})


def _words_of(config: SelfGenerationConfig) -> dict[str, Any]:
    """What decides the words of a text, for the identity of a store."""
    found = {name: value for name, value in settings_of_samples(config).items() if name not in _NOT_OF_WORDS}
    return found if config.prompt_file is None else {**found, "prompt_file": digest_file(config.prompt_file)}


def _ends_beyond(tokenizer: Any, stops: set[int]) -> dict[str, list[int]]:
    """The model's own ends of a text, where it has any: who gathers the texts has the tokenizer alone."""
    own = sorted(stops - ends_of(tokenizer))
    return {"ends": own} if own else {}


def _asked(recipe: Recipe) -> tuple[SelfGenerationConfig, TeacherLMConfig]:
    config, teacher = recipe.synthesis, recipe.teacher
    if not isinstance(config, SelfGenerationConfig) or not isinstance(teacher, TeacherLMConfig):
        raise ConfigError(
            f"recipe '{recipe.name}' lets a teacher write texts: it needs synthesis.type self_generation and "
            "teacher.type causal_lm"
        )
    if recipe.codec.type in ("feature", "span"):
        raise ConfigError(
            f"labels that are taken while a text is written are distributions over its next token; labels.codec.type "
            f"'{recipe.codec.type}' is something else: leave it out, or label the samples in a run of their own"
        )
    return config, teacher


def _begin(tokenizer: Any) -> int | None:
    """The token before a text: the BOS, or what ends the text before it."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def _stops(teacher: CausalLMTeacher) -> set[int]:
    """The tokens after which a text is over: the tokenizer's, and those of the model's own."""
    own: Any = getattr(getattr(teacher.model, "generation_config", None), "eos_token_id", None)
    return ends_of(teacher.tokenizer) | {
        int(token) for token in (own if isinstance(own, list) else [own]) if token is not None
    }
