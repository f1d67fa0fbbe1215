"""The Arrow files of a plan: written whole under a name of their own, opened by name, size and digest."""

import secrets
from collections.abc import Iterable

import pyarrow as pa

from kdcore.errors import CorruptShard, KDError
from kdcore.planning.plan import PlanFile
from kdcore.store.layout import PLAN
from kdcore.store.shard import refuse_extensions
from kdcore.store.storage.place import Place
from kdcore.store.writer import HashingSink


def write_table(place: Place, kind: str, key: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> PlanFile:
    """Write one file; of two tasks that do the same work each has its own."""
    name = f"{PLAN}/{kind}-{key}-{secrets.token_hex(8)}.arrow"
    with place.writer(name) as file:
        sink = HashingSink(file)
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    return PlanFile(name, sink.size, sink.hash.hexdigest())


class PlanTable:
    """A file of a plan, mapped; from a bucket, a copy in the cache. CorruptShard when it is not as it was written."""

    def __init__(self, place: Place, file: PlanFile, schema: pa.Schema) -> None:
        self._where = place.where(file.name)
        # Held as long as views of it are used: it owns the mapping.
        self._source = place.mapped(file.name, file.num_bytes, file.digest)
        refuse_extensions(self._source.buffer, self._where)
        try:
            self._reader = pa.ipc.open_file(pa.BufferReader(self._source.buffer))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        if not self._reader.schema.equals(schema, check_metadata=True):
            raise self._damaged(f"its columns are {self._reader.schema.names}")

    def batches(self) -> Iterable[pa.RecordBatch]:
        """All record batches."""
        return (self.batch(number) for number in range(self._reader.num_record_batches))

    def batch(self, number: int) -> pa.RecordBatch:
        """One record batch, checked."""
        self._source.check()
        try:
            batch = self._reader.get_batch(number)
            batch.validate(full=True)
        except KDError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        return batch

    def _damaged(self, why: str) -> CorruptShard:
        return CorruptShard(
            f"{self._where}, a file of the job's plan, is damaged ({why}): remove the folder {PLAN} of the store, and "
            "start the job again, which plans anew"
        )
