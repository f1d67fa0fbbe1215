"""Shards whose types carry a pickle."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from tests.benchmarks.damage_children import Damage
from tests.benchmarks.damage_seal import Contents, resealed


class _Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def payload(trap: Path) -> bytes:
    """A pickle that makes the file `trap` when it is loaded."""
    return pickle.dumps(_Trap(trap))


def springs(trap: Path) -> bool:
    """Whether the trap works, so that nothing else proved that no pickle was loaded."""
    pickle.loads(payload(trap))  # noqa: S301
    return trap.exists()


_EXTENSIONS = (
    "arrow.py_extension_type",
    "datasets.features.features.Array2DExtensionType",
    "ray.data.arrow_tensor",
    "ray.data.arrow_tensor_v2",
    "ray.data.arrow_variable_shaped_tensor",
    "ray.data.arrow_pickled_object",
)


def pickles(contents: Contents, names: Iterable[str], trap: Path) -> list[Damage]:
    """Extension types whose parameters are a pickle, on each column, on values of lists and on the schema."""
    found: list[Damage] = []
    for name in names:
        table = pa.ipc.open_file(contents[name]).read_all()
        for extension in _EXTENSIONS:
            metadata = {b"ARROW:extension:name": extension.encode(), b"ARROW:extension:metadata": payload(trap)}
            for what, schema in _trapped(table.schema, metadata):
                content = _written(table, schema)
                assert metadata[b"ARROW:extension:metadata"] in content
                make = partial(resealed, contents, name, content)
                found.append(Damage(f"{extension} on {what} of {name}", make))
    return found


def _trapped(schema: pa.Schema, metadata: dict[bytes, bytes]) -> Iterator[tuple[str, pa.Schema]]:
    yield "the schema", schema.with_metadata({**(schema.metadata or {}), **metadata})
    for place, entry in enumerate(schema):
        yield entry.name, schema.set(place, entry.with_metadata(metadata))
        if pa.types.is_list(entry.type):
            inner = pa.list_(entry.type.value_field.with_metadata(metadata))
            yield f"the values of {entry.name}", schema.set(place, pa.field(entry.name, inner))


def _written(table: pa.Table, schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in table.to_batches():
            columns = [_typed(column, entry.type) for column, entry in zip(batch.columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue().to_pybytes()


def _typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column with metadata on its values, which a cast would drop."""
    if not pa.types.is_list(kind):
        return column
    return pa.ListArray.from_arrays(column.offsets, column.values, type=kind)
