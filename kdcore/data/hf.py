"""Datasets of Hugging Face `datasets`, opened; nothing of them is code, and no error of theirs comes through raw."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from kdcore.config.data import HfDatasetData
from kdcore.data.inputs import absolute, local_file
from kdcore.errors import DataError, KDError, StorageUnavailable, missing_extra
from kdcore.identity import digest_json


def open_mapped(config: HfDatasetData, split: str) -> tuple[Any, str]:
    """A `datasets.Dataset`, memory-mapped, and a version of its files.

    It is one written by save_to_disk, or is prepared in the package's cache. Raises DataError, naming the path and the
    splits there are; StorageUnavailable when the hub does not answer.
    """
    datasets = _package()
    folder = absolute(config.path)
    with explained(config):
        if _is_saved(folder):
            found = datasets.load_from_disk(folder)
        else:
            _, version = _builder(config)
            cache = _cache(version) if os.path.isdir(folder) else None
            options = {"split": split, "revision": config.revision, "cache_dir": cache}
            return datasets.load_dataset(folder if cache else config.path, config.name, **options), version
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise DataError(f"'{config.path}' has no split '{split}', only {sorted(found)}: set data.split")
        found = found[split]
    elif str(found.split or "train") != split:
        own = found.split or "train"
        raise DataError(f"'{config.path}' is saved as one split, '{own}'; '{split}' is not in it: set data.split")
    return found, digest_json([local_file(item["filename"]).version for item in found.cache_files])


def open_streamed(config: HfDatasetData, split: str) -> tuple[Any, str]:
    """A `datasets.IterableDataset` and a version of its files. Raises like `open_mapped`."""
    if _is_saved(absolute(config.path)):
        raise DataError(
            f"'{config.path}' was written by save_to_disk and is memory-mapped without a copy: set data.streaming to "
            "false"
        )
    with explained(config):
        builder, version = _builder(config)
        return builder.as_streaming_dataset(split), version


def _builder(config: HfDatasetData) -> tuple[Any, str]:
    """What the package knows of a dataset, and a version: of the files of a directory, or of the hub's revision."""
    folder = absolute(config.path)
    here = os.path.isdir(folder)
    path = folder if here else config.path
    builder = _package().load_dataset_builder(path, config.name, revision=config.revision)
    files = sorted(str(file) for files in (builder.config.data_files or {}).values() for file in files)
    versions = [local_file(file).version for file in files if os.path.isfile(file)]
    return builder, digest_json([folder if here else builder.hash, builder.config_id, files, versions])


def _cache(version: str) -> str:
    """Where a directory's files are prepared: the package itself takes changed files for those it knows."""
    return os.path.join(_package().config.HF_DATASETS_CACHE, "kdcore", version)


@contextlib.contextmanager
def explained(config: HfDatasetData) -> Iterator[None]:
    """Failures of the package as ours."""
    datasets = _package()
    try:
        yield
    except KDError:
        raise
    except (OSError, ValueError, RuntimeError, pa.ArrowException, *_errors(datasets)) as error:
        cause = error.__cause__ or error
        words = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
        if _is_passing(error) and not datasets.config.HF_HUB_OFFLINE:
            raise StorageUnavailable(f"the dataset '{config.path}' cannot be read now: {words}") from error
        raise DataError(
            f"the dataset '{config.path}' cannot be read: {words}. data.path must be a directory or a name on the "
            "hub, data.name, data.split and data.revision those of it; with HF_HUB_OFFLINE=1 the hub is out of reach"
        ) from error


def _errors(datasets: Any) -> tuple[type[Exception], ...]:
    """What is raised beside the ordinary: the package's own errors, and those of the hub's client, whichever it is."""
    from huggingface_hub.errors import HfHubHTTPError

    return (datasets.exceptions.DatasetsError, *HfHubHTTPError.__bases__)


def _is_passing(error: BaseException) -> bool:
    """Whether the same may work a moment later: no answer of the hub, or one that says so."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    lost = isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")
    return status >= 500 if status else lost


def _is_saved(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("state.json", "dataset_dict.json"))


def _package() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "text", "data.type 'hf_dataset'") from error
    return datasets
