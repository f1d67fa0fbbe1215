"""`python -m jobs.cast_model`: an exported language model in another number format, for shipping."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.common import command, run_alone, say

__all__ = ["cast_model"]


@command
def cast_model(
    source: Annotated[str, typer.Argument(help="Directory of an exported language model.")],
    target: Annotated[str, typer.Argument(help="Directory to write.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
) -> None:
    """Write weights, configuration and tokenizer of SOURCE to TARGET with the weights in `dtype`."""
    import torch

    from kdcore.data.tokenizer import load_tokenizer
    from kdcore.errors import ConfigError
    from kdcore.students.export import load_student

    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}.get(dtype)
    if kind is None:
        raise ConfigError(f"--dtype is bfloat16, float16 or float32, got '{dtype}'")
    model: torch.nn.Module = load_student(Path(source)).to(kind)
    model.save_pretrained(target)  # pyright: ignore[reportCallIssue]
    load_tokenizer(source, None).save_pretrained(target)
    say(f"{target}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters as {dtype}")


if __name__ == "__main__":
    run_alone(cast_model)
