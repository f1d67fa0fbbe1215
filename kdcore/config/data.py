"""Where samples come from, and which of them are held out for evaluation."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from kdcore.config.base import IsPath, Settings
from kdcore.config.urls import is_url, readable_places
from kdcore.config.views import ViewPolicy

_Paths = str | tuple[str, ...]


class _Source(Settings):
    heldout_fraction: float = Field(default=0.05, ge=0.0, lt=1.0, description="share of samples kept for evaluation")
    on_unreadable: Literal["error", "skip"] = Field(
        default="error", description="a bad sample: stop, or count and go on"
    )
    max_samples: int | None = Field(default=None, ge=1, description="read no more than this many samples of each split")


OnConflict = Literal["error", "first"]


class _Classified(Settings):
    on_conflict: OnConflict = Field(
        default="error", description="identical samples of several classes: stop, or all have the class of the first"
    )


Mask = Literal["all", "completion", "assistant"]
"""Which tokens are labelled and trained: all, those of the completion, or those of the assistant's turns."""

_MASKS: dict[str, tuple[Mask, ...]] = {
    "field": ("all",),
    "prompt_field": ("completion", "all"),
    "messages_field": ("assistant", "all"),
}
"""The masks of each shape of a row; the first is the default."""


class RowData(_Source):
    """Rows with keys: a text, a prompt and its completion, or the messages of a conversation."""

    field: str = Field(default="text", description="the key of a row's text")
    prompt_field: str | None = Field(default=None, description="the key of a prompt, with completion_field")
    completion_field: str | None = Field(default=None, description="the key of what follows the prompt")
    messages_field: str | None = Field(default=None, description="the key of a list of {role, content}")
    mask: Mask | None = Field(
        default=None, description="tokens that are labelled; default: all of a text, the completion, the assistant's"
    )
    chat_template: Annotated[str | None, IsPath()] = Field(
        default=None, description="a Jinja file instead of the tokenizer's own template"
    )
    template_arguments: dict[str, JsonValue] = Field(default={}, description="variables for the chat template")

    @model_validator(mode="after")
    def _one_shape(self) -> "RowData":
        if (self.prompt_field is None) != (self.completion_field is None):
            raise ValueError("prompt_field and completion_field come together: give both, or neither")
        shapes = [name for name in ("prompt_field", "messages_field") if getattr(self, name) is not None]
        shapes += ["field"] if self.field != "text" else []
        if len(shapes) > 1:
            raise ValueError(
                "a row has one shape: give `field`, prompt_field and completion_field, or messages_field, not "
                f"{' and '.join(shapes)}"
            )
        if self.mask is not None and self.mask not in _MASKS[self.shape]:
            valid = " or ".join(_MASKS[self.shape])
            needs = {"completion": "prompt_field and completion_field", "assistant": "messages_field"}.get(self.mask)
            raise ValueError(f"mask '{self.mask}' needs {needs}; rows with {self.shape} take {valid}")
        if self.messages_field is None and (self.chat_template is not None or self.template_arguments):
            raise ValueError(
                "chat_template and template_arguments render messages: set messages_field, or leave them out"
            )
        return self

    @property
    def shape(self) -> str:
        """Which of the keys a row is read by: field, prompt_field (with completion_field) or messages_field."""
        return next((name for name in ("prompt_field", "messages_field") if getattr(self, name) is not None), "field")

    @property
    def labelled(self) -> Mask:
        """The mask, by default the one of the rows' shape."""
        return self.mask or _MASKS[self.shape][0]


class TextData(RowData):
    """Text files (one document each), or rows of JSON lines, Parquet or Arrow, by path, URL or glob."""

    type: Literal["text"] = "text"
    path: Annotated[_Paths, IsPath(url=True)] = Field(description="files, folders, patterns or URLs, one or a list")
    heldout: Annotated[_Paths | None, IsPath(url=True)] = Field(
        default=None, description="evaluation files; replaces heldout_fraction"
    )
    max_document_bytes: int = Field(
        default=256 << 20, ge=1, description="a longer line or plain text is an unreadable sample"
    )

    _places = field_validator("path", "heldout")(readable_places)


_MODULES = (
    "_pydecimal",
    "argparse",
    "asyncio",
    "doctest",
    "email",
    "http",
    "importlib",
    "inspect",
    "ipaddress",
    "logging",
    "multiprocessing",
    "tarfile",
    "typing",
    "unittest",
    "urllib",
    "xml",
)
"""Large ones that every Python since 3.11 has."""


class PythonStdlibData(_Source):
    """The Python standard library's own source on this machine, tests excluded; whole modules are held out."""

    type: Literal["python_stdlib"] = "python_stdlib"


class _Viewed(Settings):
    views: ViewPolicy | None = Field(
        default=None, description="augmented views that are labelled and trained on; none: images as they are"
    )


class DigitsData(_Source, _Viewed, _Classified):
    """scikit-learn's 1,797 digits of 8 x 8 pixels."""

    type: Literal["digits"] = "digits"
    heldout_fraction: float = Field(
        default=0.25, ge=0.0, lt=1.0, description="share of samples kept for evaluation: large, as they are few"
    )


class ImageData(_Source, _Viewed, _Classified):
    """How images are read: from which columns of a table, and what they become."""

    image_column: str = Field(default="image", description="the column of encoded images")
    label_column: str = Field(default="label", description="the column of class ids: whole numbers from 0")
    size: int = Field(default=32, ge=1, description="images are resized to size x size")
    channels: Literal[1, 3] = Field(default=3, description="1 makes them grey, 3 makes them RGB")
    mean: tuple[float, ...] = Field(
        default=(0.485, 0.456, 0.406), description="taken from pixels in 0 .. 1, by channel; default: ImageNet's"
    )
    std: tuple[float, ...] = Field(
        default=(0.229, 0.224, 0.225), description="divides them then, by channel; default: ImageNet's"
    )

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("every std must be positive")
        return value


class ImageParquetData(ImageData):
    """Parquet files with encoded images (a bytes column, or a struct with `bytes`) and integer labels."""

    type: Literal["image_parquet"] = "image_parquet"
    path: Annotated[_Paths, IsPath(url=True)] = Field(description="files, folders, patterns or URLs, one or a list")
    heldout: Annotated[_Paths | None, IsPath(url=True)] = Field(
        default=None, description="evaluation images; replaces heldout_fraction"
    )

    _places = field_validator("path", "heldout")(readable_places)


class ImageFolderData(ImageParquetData):
    """A folder with one sub-folder of image files a class (class ids in sorted order)."""

    type: Literal["image_folder"] = "image_folder"  # pyright: ignore[reportIncompatibleVariableOverride]


class ClassifiedTextData(_Source, _Classified):
    """Rows of JSON lines, Parquet or Arrow with a text, or a pair of texts, and its class: what encoders classify."""

    type: Literal["classified_text"] = "classified_text"
    path: Annotated[_Paths, IsPath(url=True)] = Field(description="files, folders, patterns or URLs, one or a list")
    heldout: Annotated[_Paths | None, IsPath(url=True)] = Field(
        default=None, description="evaluation files; replaces heldout_fraction"
    )
    field: str = Field(default="text", description="the key of a row's text")
    pair_field: str | None = Field(default=None, description="the key of a second text that goes with it")
    label_field: str = Field(default="label", description="the key of class ids: whole numbers from 0")
    num_classes: int = Field(ge=2, description="how many classes there are")
    max_document_bytes: int = Field(default=1 << 20, ge=1, description="a longer line is an unreadable sample")

    _places = field_validator("path", "heldout")(readable_places)


class StdlibPassagesData(_Source):
    """Passages of the Python standard library on this machine; the class of each is the module that it is from."""

    type: Literal["stdlib_passages"] = "stdlib_passages"
    heldout_fraction: float = Field(
        default=0.25, ge=0.0, lt=1.0, description="share of passages kept for evaluation, from all modules"
    )
    modules: tuple[str, ...] = Field(default=_MODULES, min_length=2, description="modules or packages, a class each")
    lines: int = Field(default=4, ge=1, description="lines of a passage, empty ones left out")
    per_module: int = Field(default=300, ge=1, description="passages of each module, at most")

    @field_validator("modules")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"each module is one class, got one of them twice: {list(value)}")
        return value


class HfDatasetData(RowData, ImageData):
    """A dataset of Hugging Face `datasets`: a directory (saved, or with files and a card) or a name on the hub."""

    type: Literal["hf_dataset"] = "hf_dataset"
    path: Annotated[str, IsPath()] = Field(description="a directory, or a name on the hub")
    name: str | None = Field(default=None, description="the configuration, for a dataset with several")
    split: str = Field(default="train", description="the split that is labelled and trained on")
    heldout_split: str | None = Field(default=None, description="evaluation samples; replaces heldout_fraction")
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")
    streaming: bool = Field(default=False, description="read file by file, without a copy in the cache")
    kind: Literal["text", "image"] = Field(default="text", description="what its samples are")

    @model_validator(mode="after")
    def _one_kind(self) -> "HfDatasetData":
        if is_url(self.path):
            raise ValueError(
                "path of an hf_dataset is a directory or a name on the hub; files in a bucket are read by data.type "
                "text (s3://bucket/prefix/**/*.parquet) or image_parquet"
            )
        if self.heldout_split == self.split:
            raise ValueError(f"heldout_split must be another split than '{self.split}'")
        other = ImageData if self.kind == "text" else RowData
        ours = {*_Source.model_fields, *HfDatasetData.__annotations__}
        fields = ((name, field) for name, field in other.model_fields.items() if name not in ours)
        set_here = [name for name, field in fields if getattr(self, name) != field.default]
        if set_here:
            raise ValueError(f"{', '.join(set_here)} belongs to another kind of dataset than '{self.kind}': set kind")
        return self


RealImages = DigitsData | ImageParquetData | ImageFolderData | HfDatasetData
"""Images that were there before any was made."""


def image_form(data: RealImages) -> tuple[int, Literal[1, 3], tuple[float, ...], tuple[float, ...]]:
    """The side, the channels, and mean and standard deviation of each, of the images that a network is given."""
    if isinstance(data, DigitsData):
        return 8, 1, (0.5,), (0.5,)
    return data.size, data.channels, data.mean, data.std


class SynthesisedImagesData(_Source, _Viewed, _Classified):
    """Images that a teacher made (`kd synthesize`), to learn from; real ones to be measured on."""

    type: Literal["synthesised_images"] = "synthesised_images"
    path: Annotated[_Paths, IsPath()] = Field(description="the files of samples, or patterns of them")
    real: Annotated[RealImages, Field(discriminator="type")] = Field(
        description="real images: of their held-out part all figures are, and made ones are read as they are"
    )
    real_per_class: int = Field(
        default=0, ge=0, description="images of each class of the real training part that are learnt from, too"
    )
    on_conflict: OnConflict = Field(default="first", description="as of real images")

    @model_validator(mode="after")
    def _images(self) -> "SynthesisedImagesData":
        if isinstance(self.real, HfDatasetData) and self.real.kind != "image":
            raise ValueError("real.kind must be image: these samples are images")
        if self.real.views is not None:
            raise ValueError("views of made images are set beside `real`, not in it")
        return self

    def as_files(self) -> ImageParquetData:
        """The made images as what they are: Parquet files, read like the real ones."""
        size, channels, mean, std = image_form(self.real)
        return ImageParquetData(
            path=self.path,
            views=self.views,
            heldout_fraction=0,
            max_samples=self.max_samples,
            on_unreadable=self.on_unreadable,
            on_conflict=self.on_conflict,
            size=size,
            channels=channels,
            mean=mean,
            std=std,
        )


DataConfig = Annotated[
    TextData
    | PythonStdlibData
    | DigitsData
    | ImageParquetData
    | ImageFolderData
    | SynthesisedImagesData
    | ClassifiedTextData
    | StdlibPassagesData
    | HfDatasetData,
    Field(discriminator="type"),
]
"""Any kind of `data`, told by its `type`."""


Kind = Literal["text", "image", "classified_text"]
"""What a sample is."""


def kind_of(config: DataConfig) -> Kind:
    """What the samples of a recipe's `data` are."""
    if isinstance(config, HfDatasetData):
        return config.kind
    if isinstance(config, ClassifiedTextData | StdlibPassagesData):
        return "classified_text"
    return "text" if isinstance(config, TextData | PythonStdlibData) else "image"


def on_conflict_of(config: DataConfig) -> OnConflict:
    """What is done about identical samples of several classes; `error` where there are no classes."""
    return config.on_conflict if isinstance(config, _Classified) else "error"
