"""Texts with classes: rows of JSON lines, Parquet, Arrow."""

from collections.abc import Mapping
from typing import Any

from kdcore.config.data import ClassifiedTextData, Kind
from kdcore.data.document import WHOLE_FILE, ClassifiedText, SampleRef, unreadable
from kdcore.data.formats import Columns
from kdcore.data.row_source import RowSource
from kdcore.data.rows import text_of
from kdcore.errors import UnreadableDocument


class ClassifiedTextSource(RowSource):
    """Every row has a text, or two that belong together, and a class."""

    kind: Kind = "classified_text"

    def __init__(self, config: ClassifiedTextData) -> None:
        needed = {config.field: "data.field", config.label_field: "data.label_field"}
        pair = {} if config.pair_field is None else {config.pair_field: "data.pair_field"}
        super().__init__(config, Columns({**needed, **pair}))
        self._config = config

    @property
    def num_classes(self) -> int:
        """As set."""
        return self._config.num_classes

    def read(self, ref: SampleRef) -> ClassifiedText:
        """The row. Raises UnreadableDocument for one without text or class, or a class that there is none of."""
        if ref.index == WHOLE_FILE:
            raise unreadable(ref, "texts with classes are rows (.jsonl, .parquet, .arrow), this is plain text")
        format = self._formats.of(ref.source)
        try:
            return self._sample(ref.name, format.row(ref))
        except UnreadableDocument as error:
            raise unreadable(ref, f"{format.place(ref)} {error.message}") from error

    def _sample(self, name: str, row: Any) -> ClassifiedText:
        config = self._config
        if not isinstance(row, Mapping):
            raise UnreadableDocument(f"must be an object with keys, it is {type(row).__name__}")
        text = text_of(row, config.field, "field")
        pair = None if config.pair_field is None else text_of(row, config.pair_field, "pair_field")
        target = row.get(config.label_field)
        if type(target) is not int or not 0 <= target < config.num_classes:
            raise UnreadableDocument(
                f"needs a class of 0 .. {config.num_classes - 1} under '{config.label_field}', has {target!r}; set "
                "data.label_field or data.num_classes"
            )
        return ClassifiedText(name, text, pair, target)
