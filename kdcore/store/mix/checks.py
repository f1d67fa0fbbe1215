"""What must hold of stores that are opened as one."""

from collections.abc import Sequence

from kdcore.config.mix import MixConfig, Rule
from kdcore.errors import ConfigError, IdentityMismatch, MissingLabels
from kdcore.identity import differences
from kdcore.labels.mixing import Form
from kdcore.store.mix.rows import MixedRows
from kdcore.store.reader import LabelStore

__all__ = ["check_alike", "check_covered", "check_each_once", "check_rule", "forms_of", "shared_classes"]

_OF_TEACHER = ("codec", "format", "input", "numerics", "synthesis", "teacher", "versions", "vocabulary")
"""What may differ of two stores: who made the labels (or the samples too), how they are kept, and of how many."""
_FORMS: dict[str, Form] = {"threshold": "weights", "sampled": "weights", "topk": "topk", "dense": "dense"}


def check_alike(stores: Sequence[LabelStore]) -> None:
    """IdentityMismatch unless all stores have labels of the same kind of inputs: tokenizer, mask, template, views.

    The tokenizer of texts with classes is the teacher's own affair, and one that a store does not know is not compared.
    """
    for other in stores[1:]:
        _check_pair(stores[0], other, (*_OF_TEACHER, "tokenizer"))
    knowing = [store for store in stores if store.kind == "text" and store.identity.get("tokenizer") is not None]
    for other in knowing[1:]:
        _check_pair(knowing[0], other, _OF_TEACHER)


def _check_pair(first: LabelStore, other: LabelStore, ignored: Sequence[str]) -> None:
    found = differences(first.identity, other.identity, ignored)
    if found:
        lines = "\n".join(f"  {path}: {left!r} and {right!r}" for path, left, right in found)
        raise IdentityMismatch(
            f"the stores of a mix must have labels of the same inputs, but {first.path} and {other.path} differ "
            f"in:\n{lines}\nLabel one of them again as the other was"
        )


def check_each_once(stores: Sequence[LabelStore]) -> None:
    """ConfigError where two are one store, under another path or as a copy."""
    for place, store in enumerate(stores):
        # The index has a name of its own in every store that was made.
        twin = next((other for other in stores[:place] if other.manifest.index == store.manifest.index), None)
        if twin is not None:
            raise ConfigError(
                f"{store.path} is {twin.path} again (one index): give each store of labels.mix once, with its whole "
                "weight"
            )


def forms_of(stores: Sequence[LabelStore]) -> list[Form]:
    """How the labels of each store say a distribution; ConfigError for features."""
    for store in stores:
        if store.codec.name not in _FORMS:
            raise ConfigError(
                f"a mix is of distributions, but {store.path} holds labels of codec '{store.codec.name}': leave it out "
                "of labels.mix.stores"
            )
    return [_FORMS[store.codec.name] for store in stores]


def check_rule(stores: Sequence[LabelStore], forms: Sequence[Form], config: MixConfig) -> None:
    """ConfigError for a rule that needs what the labels of a store do not know."""
    drawn = ("geometric", "entropy", "agreement", "max_confidence", "votes")
    if config.missing == "hard" and stores[0].kind == "text":
        raise ConfigError("labels.mix.missing 'hard' is of images and texts with classes, not tokens: set it to rest")
    if config.rule == "votes" and stores[0].kind == "text":
        raise ConfigError("labels.mix.rule 'votes' is of classes of images and texts, not of tokens: set another rule")
    for store, form in zip(stores, forms, strict=True):
        if config.rule in drawn and form == "weights":
            raise ConfigError(
                f"labels.mix.rule '{config.rule}' looks at each teacher's probabilities, but {store.path} holds draws "
                f"(codec '{store.codec.name}'), of which it would be biased by chance: set the rule to arithmetic or "
                "min_ce, or label with labels.codec.type topk or dense"
            )
        if config.rule == "min_ce" and form != "dense" and store.kind != "text":
            raise ConfigError(
                f"labels.mix.rule 'min_ce' needs what each teacher gives to the hard label, which {store.path} (codec "
                f"'{store.codec.name}') does not hold: set another rule, or label with labels.codec.type dense"
            )
        if config.rule == "min_ce" and store.kind != "text":
            _check_hard_labels(store)


def _check_hard_labels(store: LabelStore) -> None:
    """ConfigError unless every sample has one class."""
    views, without = store.view_spec, int((store.targets() < 0).sum())
    if views is not None and views.policy.mix is not None:
        raise ConfigError(
            f"labels.mix.rule 'min_ce' needs one hard label a picture, and views in {store.path} are mixed of two "
            "images (data.views.mix): set another rule"
        )
    if without:
        raise ConfigError(
            f"labels.mix.rule 'min_ce' needs a hard label of every sample, and {without:,} of {store.num_rows:,} in "
            f"{store.path} have none: set another rule, or label data with classes"
        )


def shared_classes(stores: Sequence[LabelStore]) -> tuple[int, tuple[str, ...]]:
    """The classes that all stores have, and what to say where some have more.

    A teacher has at least the classes of its tokenizer, so that of one tokenizer whatever lies beyond the fewest is
    padding. IdentityMismatch where the tokenizer is not known to be one, or labels are of other things than tokens.
    """
    classes = [store.num_classes for store in stores]
    fewest = min(classes, default=0)
    if max(classes, default=0) == fewest:
        return fewest, ()
    counts = ", ".join(f"{count:,} in {store.path}" for count, store in zip(classes, stores, strict=True))
    if stores[0].kind != "text" or any(store.identity.get("tokenizer") is None for store in stores):
        raise IdentityMismatch(
            f"the stores of a mix must have labels of the same classes, but there are {counts}"
            + (", and not all of them name their tokenizer" if stores[0].kind == "text" else "")
            + ": leave one out"
        )
    return fewest, (
        f"labels of one tokenizer and differently padded vocabularies: {counts}; classes from {fewest:,} on are "
        "padding, and their mass is left out",
    )


def check_covered(stores: Sequence[LabelStore], rows: MixedRows, rule: Rule) -> None:
    """MissingLabels unless every store has every sample."""
    shared = ", or set labels.mix.missing: rest, so that the stores that have one share it"
    remedy = "label the same data" + ("" if rule in ("apart", "votes") else shared)
    for store, places in zip(stores, rows.rows, strict=True):
        missing = (places < 0).nonzero()[0]
        if not len(missing):
            continue
        other = stores[int(rows.first[missing[0]])]
        inputs = [each.identity.get("input") for each in (store, other)]
        raise MissingLabels(
            f"{store.path} has no label for {len(missing):,} of the {places.size:,} samples of the mix, such as "
            f"{rows.keys[missing[0]].tobytes().hex()}, which is in {other.path} (inputs {inputs[0]} and {inputs[1]}): "
            f"{remedy}"
        )
