"""Samples as every part of the project sees them: a document, an image, and a reference to either."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from kdcore.errors import UnreadableDocument

Split = Literal["train", "heldout"]
"""The samples that are trained on, or those that are measured on."""

WHOLE_FILE = -1
"""In place of a row's number."""


@dataclass(frozen=True)
class Conversation:
    """Messages ({role, content, ...}), with the tools and the variables that a chat template gets; all of it JSON."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, Any]:
        """All of it as one JSON value, of which its key is a digest; without tools and arguments if it has none."""
        rest = {"tools": self.tools, "chat_template_kwargs": self.arguments}
        return {"messages": self.messages, **{name: value for name, value in rest.items() if value}}


@dataclass(frozen=True)
class TextDocument:
    """One document of text: plain; a prompt and its completion, joined; or a conversation.

    `prompt` is how many characters of `text` are the prompt. The text of a `conversation` is its contents, line by
    line; what a model reads of it is up to a chat template.
    """

    name: str
    text: str
    prompt: int | None = None
    conversation: Conversation | None = None


@dataclass(frozen=True)
class ImageSample:
    """One image: `pixels` float32 [C, H, W], normalised; `target` is its class, None if unknown.

    Where `data.views` are made of the images, `pixels` is the image as decoded: uint8 [H, W, C], of its own size.
    """

    name: str
    pixels: np.ndarray
    target: int | None


@dataclass(frozen=True)
class ClassifiedText:
    """A text, or a pair of texts, that has a class; `target` is None if unknown."""

    name: str
    text: str
    pair: str | None
    target: int | None


Sample = TextDocument | ImageSample | ClassifiedText
"""What a source reads."""


@dataclass(frozen=True, order=True)
class SampleRef:
    """Where one sample is: its file and line or row (-1: the whole file), and about how many bytes it takes.

    `name` does not depend on the folder the corpus lies in, so splits and keys agree between machines, and is valid
    UTF-8 (`kdcore.errors.printable`); `source` is whatever opens the file.
    """

    name: str
    source: str
    index: int
    num_bytes: int


Refs = list[SampleRef]
"""Samples by where they are."""


@dataclass(frozen=True)
class Extent:
    """A slice of a corpus that one process reads in one go: a file, or a range of it in the file's own measure.

    `start` and `stop` are bytes of a file with lines, rows of a table, 0 and 1 of a file that is one sample. `name` is
    the file's below the corpus's root, `num_bytes` about what the slice holds, `heldout` whether its samples were
    held out by hand; None where their names decide. `version` changes when the file does, "" where it is not known.
    """

    name: str
    source: str
    start: int
    stop: int
    num_bytes: int
    heldout: bool | None = None
    version: str = ""


def unreadable(ref: SampleRef, reason: str) -> UnreadableDocument:
    """The error of one sample, naming it, its file and what to set."""
    return UnreadableDocument(
        f"Every sample must be readable; '{ref.name}' ({ref.source}) is not: {reason}. "
        "Repair or remove it, or set data.on_unreadable: skip."
    )
