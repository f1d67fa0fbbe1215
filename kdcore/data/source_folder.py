"""A folder with one sub-folder of image files a class."""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from kdcore.config.data import ImageFolderData
from kdcore.data.base import BaseSource
from kdcore.data.document import WHOLE_FILE, Extent, ImageSample, Kind, SampleRef
from kdcore.data.images import ImageDecoder
from kdcore.data.source_text import unreadable
from kdcore.errors import DataError

_ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolderSource(BaseSource):
    """Class ids follow the sorted names of the sub-folders of all folders in `data.path`."""

    kind: Kind = "image"

    def __init__(self, config: ImageFolderData) -> None:
        super().__init__(config.heldout_fraction, config.max_samples, f"data.path {config.path!r}")
        self._config = config
        self._decoder = ImageDecoder(config)

    @property
    def num_classes(self) -> int:
        """The sub-folders of `data.path`."""
        return len(self._class_ids)

    @property
    def num_channels(self) -> int:
        """As set: 1 or 3."""
        return self._config.channels

    def read(self, ref: SampleRef) -> ImageSample:
        """One image. Raises UnreadableDocument."""
        name = Path(ref.source).parent.name
        if name not in self._class_ids:
            raise unreadable(ref, f"its folder '{name}' is no class of data.path; classes: {sorted(self._class_ids)}")
        try:
            pixels = self._decoder.decode(Path(ref.source).read_bytes())
        except (OSError, ValueError) as error:
            raise unreadable(ref, str(error)) from error
        return ImageSample(ref.name, pixels, self._class_ids[name])

    def _find(self) -> Iterator[Extent]:
        return _classes(self._config.path, "data.path")

    def _find_heldout(self) -> Iterator[Extent] | None:
        heldout = self._config.heldout
        return None if heldout is None else _classes(heldout, "data.heldout")

    def stamp(self, extent: Extent) -> str:
        """Of the names, bytes and times of change of a folder's images."""
        states = [(path.name, path.stat()) for path in sorted(_images(Path(extent.source)))]
        listed = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        for path in sorted(_images(Path(extent.source))):
            yield SampleRef(f"{extent.name}/{path.name}", str(path), WHOLE_FILE, path.stat().st_size)

    @cached_property
    def _class_ids(self) -> dict[str, int]:
        names = sorted({extent.name for extent in self._find()})
        return {name: number for number, name in enumerate(names)}


def _classes(folders: str | tuple[str, ...], setting: str) -> Iterator[Extent]:
    """One extent a class and folder; its bytes are those of the first image times their number."""
    found: list[Extent] = []
    for folder in (folders,) if isinstance(folders, str) else folders:
        root = Path(os.path.abspath(os.path.expanduser(folder)))
        before = len(found)
        for path in root.iterdir() if root.is_dir() else ():
            images = list(_images(path)) if path.is_dir() else []
            if images:
                size = images[0].stat().st_size * len(images)
                found.append(Extent(path.name, str(path), 0, len(images), size))
        if len(found) == before:
            raise DataError(
                f"{setting} must be a folder with one sub-folder of images a class: '{folder}' ({root}) has no "
                f"*/* with one of the endings {' '.join(sorted(_ENDINGS))}. Likely the path is wrong."
            )
    return iter(sorted(found, key=lambda extent: extent.name))


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())
