"""`kd store import`: label stores of other tools' files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.common import command
from jobs.store.shown import OutPath, progress_of, say_made

if TYPE_CHECKING:
    from kdcore.store import DistillKitConfig

__all__ = ["app"]

app = typer.Typer(help="Make a label store of another tool's files.", no_args_is_help=True, add_completion=False)


@app.command()
@command
def distillkit(
    folder: Annotated[str, typer.Argument(help="Directory or URL with its data_*.parquet.", metavar="PARQUET_DIR")],
    out: OutPath,
    teacher: Annotated[str, typer.Option("--teacher", help="The name of the model that was captured.")],
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="Its tokenizer, a directory or hub name.")],
    config: Annotated[
        str | None,
        typer.Option("--config", help="The capture's configuration, YAML; default: compression_config.yaml there."),
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option("--vocabulary", min=1, help="Classes of the teacher, where it has more than its tokenizer."),
    ] = None,
) -> None:
    """Import the Parquet files of arcee-ai/DistillKit as a store of codec topk.

    What the stored classes leave of the probability becomes the tail. The files have no texts: the key of a sample is
    the digest of its token ids, and identical rows are kept once with their occurrences. Rows of packed files are cut
    into their documents where attention_mask changes. The legacy layout (centred logits) is refused.
    """
    from kdcore.identity import digest_tokenizer
    from kdcore.models.tokenizer import load_tokenizer, valid_vocabulary
    from kdcore.store import import_distillkit

    settings = _config(folder, config)
    loaded = load_tokenizer(tokenizer)
    classes = vocabulary or valid_vocabulary(loaded)
    with progress_of("importing") as progress:
        made = import_distillkit(folder, out, settings, teacher, digest_tokenizer(loaded), classes, progress)
    say_made(out, made)


def _config(folder: str, config: str | None) -> "DistillKitConfig":
    import yaml

    from kdcore.errors import StoreError
    from kdcore.store import open_place
    from kdcore.store.distillkit.columns import parse_config

    place = open_place(folder)
    where = config or place.where("compression_config.yaml")
    try:
        content = place.read("compression_config.yaml") if config is None else Path(config).read_bytes()
        return parse_config(yaml.safe_load(content), where)
    except (OSError, yaml.YAMLError) as error:
        raise StoreError(
            f"the configuration of the capture is needed to read it, but {where} cannot be read ({error}): give it "
            f"with --config"
        ) from error
