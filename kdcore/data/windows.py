"""Documents longer than the teacher's context, cut into overlapping windows."""

from dataclasses import dataclass

from kdcore.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """A forward pass over tokens[start:stop], of which labels first_label..last_label-1 are kept (half open).

    Label j is the distribution after tokens[:j+1]; its hard target is tokens[j+1].
    """

    start: int
    stop: int
    first_label: int
    last_label: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward pass."""
        return self.stop - self.start

    @property
    def kept(self) -> slice:
        """The rows of this window's logits that are kept."""
        return slice(self.first_label - self.start, self.last_label - self.start)


def windows(num_tokens: int, context: int, overlap: int) -> list[Window]:
    """Windows of at most `context` tokens in which every label 0..num_tokens-2 is kept exactly once.

    A kept label has at least `overlap` tokens to its left in its window, or all that the document has.
    The last token is never an input: nothing follows it.
    """
    if not 0 <= overlap < context:
        raise ConfigError(f"overlap must be at least 0 and smaller than context, got {overlap} and {context}")
    num_labels = num_tokens - 1
    found: list[Window] = []
    first = 0
    while first < num_labels:
        start = max(0, first - overlap)
        stop = min(start + context, num_labels)
        found.append(Window(start, stop, first, stop))
        first = stop
    return found
