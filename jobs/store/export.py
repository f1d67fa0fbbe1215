"""`kd store export`: plain columns for other trainers."""

from enum import StrEnum
from typing import Annotated

import typer

from jobs.common import command, say
from jobs.store.shown import StorePath, progress_of

__all__ = ["export"]


class Layout(StrEnum):
    """The columns."""

    plain = "plain"
    distillkit = "distillkit"


@command
def export(
    store: StorePath,
    out: Annotated[
        str, typer.Argument(help="A file that ends in .parquet, or a directory or URL for several.", metavar="OUT")
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="Entries a label, the most probable ones.")] = 50,
    renormalise: Annotated[
        bool, typer.Option("--renormalise", help="Let the entries of each label sum to one (biased).")
    ] = False,
    layout: Annotated[
        Layout, typer.Option("--format", help="plain, or distillkit: arcee-ai/DistillKit's columns, float32 exact.")
    ] = Layout.plain,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Samples a file, in a directory.")] = 4096,
) -> None:
    """Write token ids and the most probable classes of each label as Parquet.

    Columns of a text: key, name, occurrences, input_ids list<int32> [T], and for each of its T - 1 labels
    target_token_ids list<list<int32>>, target_logprobs list<list<float32>> (natural logarithms) and target_mask
    list<list<int8>>, --top entries each by falling probability. Label j is the distribution after input_ids[0..j], of
    the token input_ids[j + 1]: a trainer that wants T lines puts an empty one in front. In a store with a mask there
    are fewer, and label_positions list<int32> has the j of each. Images have target instead of input_ids, and one
    label, or one of each view: views list<string> has their parameters in the same order, JSON of those that are not
    zero (FORMAT.md says what each means).

    Of codec span the columns of a label are token_log_probs, boundary_log_probs, byte_begins and byte_ends instead,
    lists of [T - 1] each.

    A label with fewer entries is filled up with id 0, log-probability -1e9 and mask 0: exp(-1e9) is zero, and no
    trainer makes a NaN of it, as it does of zero times -inf. What the entries leave of the probability is not in the
    file; for threshold and sampled the log-probabilities are those of the unbiased weights. A sample is one row however
    often it occurs: see occurrences.

    A file appears when it is whole. In a directory, a killed export continues; export.json says of what it is.
    """
    from kdcore.store import ExportSettings, export_store, open_store

    settings = ExportSettings(top, layout.value, renormalise, rows)
    with progress_of("exporting") as progress:
        report = export_store(open_store(store), out, settings, progress)
    if report.skipped:
        say(f"{report.skipped} files were there already")
    if report.files:
        held = f"; the entries hold {report.mass:.1%} of the probability" if report.mass else ""
        say(f"{out}: {report.rows:,} rows, {report.labels:,} labels in {len(report.files)} files{held}")
