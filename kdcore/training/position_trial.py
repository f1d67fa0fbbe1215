"""Whether a student has a position for every token of the longest sequence, tried before training."""

from typing import Any

import torch

from kdcore.errors import ConfigError
from kdcore.training.attention import tried

__all__ = ["check_positions"]


def check_positions(student: Any, longest: int) -> None:
    """ConfigError where a causal LM on the CPU has a table of positions with fewer rows than `longest`.

    Rotary positions have no end. A GPU would end at the first such sequence with an assertion of its own, which says
    neither what nor where. Decoders that take no `position_ids` are not tried.
    """
    last = torch.full((1, 1), longest - 1)
    try:
        with torch.no_grad(), tried(student):
            student.get_decoder()(input_ids=torch.zeros_like(last), position_ids=last, use_cache=False)
    except TypeError:
        return
    except (IndexError, RuntimeError) as error:  # of an embedding, and of what is gathered from a table
        stated = getattr(student.config.get_text_config(), "max_position_embeddings", None)
        raise ConfigError(
            f"every token of a sequence needs a position of the student's: the longest sequence has {longest} tokens, "
            f"{type(student).__name__} {stated} positions ({error}). Set training.sequence_length to at most that, and "
            "training.long_documents to cut or drop; or choose another student"
        ) from error
