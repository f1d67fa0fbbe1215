"""Where samples come from, and which of them are held out for evaluation."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from kdcore.config.base import Settings


class _Source(Settings):
    heldout_fraction: float = Field(default=0.05, ge=0.0, lt=1.0, description="share of samples kept for evaluation")
    on_unreadable: Literal["error", "skip"] = Field(
        default="error", description="a bad sample: stop, or count and go on"
    )
    max_samples: int | None = Field(default=None, ge=1, description="read no more than this many samples of each split")


class TextData(_Source):
    """Text files (one document each) or JSON lines (one document a line), by path or glob."""

    type: Literal["text"] = "text"
    path: str | tuple[str, ...]
    field: str = Field(default="text", description="the key of the text in JSON lines")
    heldout: str | tuple[str, ...] | None = Field(
        default=None, description="evaluation files; replaces heldout_fraction"
    )


class PythonStdlibData(_Source):
    """The Python standard library's own source on this machine, tests excluded; whole modules are held out."""

    type: Literal["python_stdlib"] = "python_stdlib"


class DigitsData(_Source):
    """scikit-learn's 1,797 digits of 8 x 8 pixels."""

    type: Literal["digits"] = "digits"
    heldout_fraction: float = Field(default=0.25, ge=0.0, lt=1.0)


class ImageParquetData(_Source):
    """Parquet files with encoded images (a bytes column, or a struct with `bytes`) and integer labels."""

    type: Literal["image_parquet"] = "image_parquet"
    path: str | tuple[str, ...]
    heldout: str | tuple[str, ...] | None = None
    image_column: str = "image"
    label_column: str = "label"
    size: int = Field(default=32, ge=1, description="images are resized to size x size")
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("every std must be positive")
        return value


class ImageFolderData(ImageParquetData):
    """A folder with one sub-folder of image files a class (class ids in sorted order)."""

    type: Literal["image_folder"] = "image_folder"  # pyright: ignore[reportIncompatibleVariableOverride]


DataConfig = Annotated[
    TextData | PythonStdlibData | DigitsData | ImageParquetData | ImageFolderData, Field(discriminator="type")
]
