"""File formats behind one interface, told apart by the ending of a file's name."""

from functools import cached_property

from kdcore.data.formats.base import Columns, Format
from kdcore.data.formats.lines import Lines
from kdcore.data.formats.whole import Whole
from kdcore.errors import DataError

__all__ = ["Columns", "Format", "Formats"]

_LINES = (".jsonl", ".ndjson")
_PACKED_LINES = tuple(f"{name}.{packed}" for name in (".jsonl", ".ndjson", ".json") for packed in ("gz", "zst"))
_PARQUET = (".parquet",)
_ARROW = (".arrow", ".feather")
_PACKED = (".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip", ".tar", ".tgz", ".7z")


class Formats:
    """The format of each file of a corpus, which may be mixed; `columns` are those of its tables.

    A line or a whole file of more than `max_bytes` is an unreadable sample.
    """

    def __init__(self, columns: Columns, max_bytes: int) -> None:
        self._columns, self._max_bytes = columns, max_bytes

    def of(self, path: str) -> Format:
        """The format of a file by its name. Raises DataError for an archive."""
        name = path.lower()
        if name.endswith(_LINES):
            return self._lines
        if name.endswith(_PACKED_LINES):
            return self._packed
        if name.endswith(_PARQUET):
            return self._parquet
        if name.endswith(_ARROW):
            return self._arrow
        if name.endswith(_PACKED):
            raise DataError(
                f"Of compressed files only JSON lines are read ({' '.join(_PACKED_LINES)}); '{path}' is another: "
                "unpack it, or set data.path to match other files."
            )
        return self._whole

    # One of each, since they hold what was read last; made when the first file of its kind is met.
    @cached_property
    def _lines(self) -> Format:
        return Lines(self._max_bytes)

    @cached_property
    def _whole(self) -> Format:
        return Whole(self._max_bytes)

    @cached_property
    def _packed(self) -> Format:
        from kdcore.data.formats.packed import PackedLines

        return PackedLines(self._max_bytes)

    @cached_property
    def _parquet(self) -> Format:
        from kdcore.data.formats.parquet import Parquet

        return Parquet(self._columns)

    @cached_property
    def _arrow(self) -> Format:
        from kdcore.data.formats.arrow import ArrowIPC

        return ArrowIPC(self._columns)
