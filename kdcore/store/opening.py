"""What is checked of a store before anything in it is read: manifest against sizes, index against its digest."""

from kdcore.errors import CorruptShard
from kdcore.labels import Codec
from kdcore.store.index import Index, index_schema, load_index
from kdcore.store.layout import DATA
from kdcore.store.manifest import Manifest
from kdcore.store.storage.place import MappedFile, Place, missing, wrong_size

__all__ = ["check_sizes", "open_index", "size_problems"]


def size_problems(place: Place, manifest: Manifest) -> dict[str, CorruptShard]:
    """What is wrong with the presence and size of shards, by shard; one listing of data/ for all."""
    there = place.sizes(DATA)
    problems: dict[str, CorruptShard] = {}
    for receipt in manifest.shards:
        size = there.get(receipt.shard)
        if size == receipt.bytes:
            continue
        try:
            # Not in the listing: gone, or no plain file (which `size` refuses by name).
            size = place.size(receipt.shard) if size is None else size
        except CorruptShard as error:
            problems[receipt.shard] = error
            continue
        where = place.where(receipt.shard)
        problems[receipt.shard] = missing(where) if size is None else wrong_size(where, receipt.bytes, size)
    return problems


def check_sizes(place: Place, manifest: Manifest) -> None:
    """CorruptShard for the first shard that is missing, no plain file, or of another size."""
    for problem in size_problems(place, manifest).values():
        raise problem


def open_index(place: Place, manifest: Manifest, codec: Codec) -> tuple[MappedFile, Index]:
    """The store's index, mapped, its digest compared; CorruptShard when it is not the manifest's."""
    file, where = manifest.index, place.where(manifest.index.file)
    source = place.mapped(file.file, file.bytes, file.digest, verify=True)
    schema = index_schema(manifest.kind, codec, manifest.masked, manifest.views)
    return source, load_index(source, schema, manifest.shards, manifest.kind, where)
