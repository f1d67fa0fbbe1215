"""Labels made again of texts that a teacher wrote: from the tokens in the store, since there is nothing else."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cluster.labelling.again.report import TeacherReport
from cluster.labelling.replica.answers import Document, TextAnswers
from cluster.labelling.replica.loading import asked_of_teacher
from kdcore.config import Recipe
from kdcore.config.models import TeacherLMConfig
from kdcore.data.encoding import EncodedText, TextEncoder
from kdcore.errors import ConfigError
from kdcore.labels import label_seeds
from kdcore.labels.spans import spans_of
from kdcore.store import LabelStore, ShardRow
from kdcore.synthesis.text.unit import key_of_draws, key_of_text
from kdcore.teachers.causal_lm import CausalLMTeacher

__all__ = ["WrittenAgain", "is_written"]


def is_written(store: LabelStore) -> bool:
    """Whether its labels were taken while its texts were written."""
    return bool((store.identity.get("numerics") or {}).get("written"))


class WrittenAgain:
    """See Again. Raises what the teacher does, and ConfigError for one that cannot have written.

    A text was labelled token by token, from remembered keys and values; here it is one window, as long as it is.
    These are the same labels up to the order in which a model of floating point adds, which is what the teacher's
    numerics explain.
    """

    left_open = ("synthesis", "mask")

    def __init__(self, store: LabelStore, recipe: Recipe) -> None:
        if not isinstance(recipe.teacher, TeacherLMConfig):
            raise ConfigError(
                f"the texts of {store.path} were written, and labelled, by a teacher of type causal_lm, that of recipe "
                f"'{recipe.name}' is another: give the recipe that made them"
            )
        longest = int(store.num_tokens_per_row().max(initial=1))
        whole = recipe.teacher.model_copy(update={"context": longest, "overlap": 0})
        teacher = CausalLMTeacher(recipe.teacher)
        self._store, self._tokenizer = store, teacher.tokenizer
        self._answers = TextAnswers(teacher, whole, 0, TextEncoder(teacher.tokenizer, recipe.data), ())
        self._seeds: dict[int, bytes] = {}

    def asked(self) -> dict[str, Any]:
        """See Again."""
        return {**asked_of_teacher(self._answers.teacher), "numerics": {"written": True}}

    def there(self, rows: Sequence[int], report: TeacherReport) -> list[int]:
        """See Again: those whose tokens read as their key says, and whose name says which draws were theirs."""
        store, seed = self._store, self._store.identity["synthesis"]["seed"]
        there = []
        for row in rows:
            draws = key_of_draws(store.name(row), seed)
            if draws is None:
                report.add(f"row {row} ('{store.name(row)}'): no text that a teacher wrote has such a name")
            elif key_of_text(self._tokenizer, store.tokens(row)) != store.key(row):
                report.add(f"row {row} ('{store.name(row)}'): its tokens are another text than its key says")
            else:
                self._seeds[row] = draws
                there.append(row)
        return there

    def made(self, rows: Sequence[int]) -> Iterator[ShardRow]:
        """See Again."""
        return self._answers.rows_of("the verification", [self._document(row) for row in rows], self._store.codec)

    def _document(self, row: int) -> Document:
        store = self._store
        spans = spans_of(store.label_positions(row)) if store.masked else None
        text = EncodedText(store.tokens(row), spans)
        seeds = label_seeds(self._seeds[row], len(text.tokens), store.codec.spec().get("seed", 0))
        return Document(store.name(row), store.key(row), 1, text, seeds[np.asarray(text.positions)])
