"""A folder with one sub-folder of image files a class."""

import hashlib
import json
import posixpath
from collections.abc import Iterator
from functools import cached_property

from kdcore.config.data import ImageFolderData, Kind
from kdcore.config.urls import check_url, is_url
from kdcore.data.base import BaseSource
from kdcore.data.document import WHOLE_FILE, Extent, ImageSample, SampleRef, unreadable
from kdcore.data.files import common_folder, relative_name
from kdcore.data.images import ImageDecoder
from kdcore.data.inputs import InputFile, absolute, inputs_of
from kdcore.errors import DataError, printable

_ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolderSource(BaseSource):
    """Class ids follow the sorted names of the sub-folders of all folders in `data.path`.

    A sample's name is its path below the deepest folder that all those folders share.
    """

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
        name = _class_of(posixpath.dirname(ref.source))
        if name not in self._class_ids:
            raise unreadable(ref, f"its folder '{name}' is no class of data.path; classes: {sorted(self._class_ids)}")
        try:
            pixels = self._decoder.decode(inputs_of(ref.source).read(ref.source))
        except ValueError as error:  # DataError is one
            raise unreadable(ref, str(error)) from error
        return ImageSample(ref.name, pixels, self._class_ids[name])

    def _find(self) -> Iterator[Extent]:
        return _classes(self._config.path, "data.path")

    def _find_heldout(self) -> Iterator[Extent] | None:
        heldout = self._config.heldout
        return None if heldout is None else _classes(heldout, "data.heldout")

    def stamp(self, extent: Extent) -> str:
        """Of the names, bytes and times of change of a folder's images."""
        listed = [(posixpath.basename(file.path), file.version) for file in _images(extent.source)]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        for file in _images(extent.source):
            name = f"{extent.name}/{printable(posixpath.basename(file.path))}"
            yield SampleRef(name, file.path, WHOLE_FILE, file.num_bytes)

    @cached_property
    def _class_ids(self) -> dict[str, int]:
        names = sorted({_class_of(extent.source) for extent in self._find()})
        return {name: number for number, name in enumerate(names)}


def _classes(folders: str | tuple[str, ...], setting: str) -> Iterator[Extent]:
    """One extent a class and folder."""
    found: list[Extent] = []
    given = (folders,) if isinstance(folders, str) else folders
    roots = {absolute(folder).rstrip("/"): folder for folder in given}
    for root in filter(is_url, roots):
        check_url(root, setting)
    shared = common_folder(list(roots), setting)
    for root, folder in roots.items():
        before = len(found)
        for path in inputs_of(root, setting).listed(root)[1]:
            images = _images(path)
            if images:
                size = sum(image.num_bytes for image in images)
                found.append(Extent(relative_name(path, shared), path, 0, len(images), size))
        if len(found) == before:
            raise DataError(
                f"{setting} must be a folder with one sub-folder of images a class: '{folder}' ({root}) has no "
                f"*/* with one of the endings {' '.join(sorted(_ENDINGS))}. Likely the path is wrong."
            )
    return iter(sorted(found, key=lambda extent: extent.name))


def _class_of(folder: str) -> str:
    return printable(posixpath.basename(folder))


def _images(folder: str) -> list[InputFile]:
    files = inputs_of(folder).listed(folder)[0]
    return sorted(file for file in files if posixpath.splitext(file.path)[1].lower() in _ENDINGS)
