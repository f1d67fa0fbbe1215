"""Several stores opened as one: rows of all, labels mixed while they are read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from kdcore.config.mix import MixConfig, VotesConfig
from kdcore.errors import MissingLabels
from kdcore.labels import ApartLabels, Codec, SoftLabels, TopKCodec, label_seeds
from kdcore.labels.mixing import (
    Form,
    common_form,
    cut_classes,
    decide,
    epsilon,
    in_form,
    mixed,
    mixed_log_probs,
    random_teacher,
    side_by_side,
    target_log_probs,
    votes,
)
from kdcore.store.mix.checks import check_alike, check_covered, check_each_once, check_rule, forms_of, shared_classes
from kdcore.store.mix.joined import Group, JoinedStores, by_value
from kdcore.store.mix.routes import Routes
from kdcore.store.reader import Indices, LabelStore, open_store

__all__ = ["LabelMix"]


@dataclass(frozen=True)
class _Asked:
    """Slices of rows of the mix, int64 [n] each."""

    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray


class LabelMix(JoinedStores):
    """Random access to the mixed labels of several stores; rows are those of the first store, then what others add."""

    def __init__(self, stores: Sequence[LabelStore], config: MixConfig) -> None:
        """Stores that are open, in the order of `config.stores`.

        IdentityMismatch for stores of other inputs, MissingLabels for samples that one lacks, where these are to be
        refused, and ConfigError for a rule that needs what the labels do not know.
        """
        check_each_once(stores)
        check_alike(stores)
        super().__init__(stores)
        self.config = config
        self.apart = config.rule == "apart"
        self._forms = [] if self.apart else forms_of(self.stores)
        if not self.apart:
            check_rule(self.stores, self._forms, config)
        self.num_classes, self.notes = shared_classes([store for store in self.stores if store.num_classes])
        refuse = config.missing == "refuse"
        if refuse and config.rule != "routed":
            check_covered(self.stores, self.rows, config.rule)
        self._routes = Routes(self.stores, self.rows, [store.names for store in config.stores], not refuse)
        self._weights = np.array(config.weights)
        if config.votes is not None:
            self.notes = (*self.notes, self._given_away(config.votes))

    @classmethod
    def of(cls, config: MixConfig) -> "LabelMix":
        """The mix of a recipe's settings."""
        return cls([open_store(store.path) for store in config.stores], config)

    def _given_away(self, config: VotesConfig) -> str:
        asked = int(self.num_labels_per_row().sum())
        return (
            f"{asked:,} labels by the votes of {len(self.stores)} teachers with {config.noise} noise of scale "
            f"{config.scale:g}: epsilon {epsilon(config, asked):.4g} at delta {config.delta:g}, of what each teacher "
            "alone was trained on, if no two of them share data, and as long as labels.mix.seed is a secret"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return LabelMix, (self.stores, self.config)

    def __repr__(self) -> str:
        return f"LabelMix({self.described!r}, {self.kind}, rows={self.num_rows})"

    @property
    def described(self) -> str:
        """What it is a mix of, in words."""
        return f"the {self.config.rule} mix of {', '.join(store.path for store in self.stores)}"

    @property
    def form(self) -> Form:
        """How the mixed labels say a distribution."""
        return "weights" if self.config.votes is not None else common_form(self._forms)

    @property
    def kinds(self) -> set[Form]:
        """How a loss must take the labels: in the form that they come in, and where some are drawn, as weights too."""
        return {self.form, *(form for form in self._forms if form == "weights")}

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """Of each store whose labels are kept apart; none of stores that are mixed."""
        return tuple(store.codec for store in self.stores) if self.apart else ()

    @property
    def changes(self) -> bool:
        """Whether the label of a sample differs from epoch to epoch."""
        return self.config.rule == "random"

    def rows_of(self, keys: Iterable[bytes]) -> np.ndarray:
        """The row of each key, int64; MissingLabels if no store has one, or -1 where the hard label stands in."""
        listed = list(keys)
        rows = self.rows.table.find_all(listed)
        missing = np.flatnonzero(rows < 0)
        if len(missing) and self.config.missing != "hard":
            raise MissingLabels(
                f"sample {listed[int(missing[0])].hex()} has no label in {self.described} ({len(missing)} of "
                f"{len(listed)} have none): the data are not what was labelled. Set the data back, or label them for "
                "one of the stores"
            )
        return rows

    def bring(self, rows: Indices) -> None:
        """Copies the shards that the labels of rows are in to this machine, several at once.

        Of rule routed those of the one store, after that of the first, which knows the name.
        """
        chosen = np.unique(np.asarray(rows, np.int64))
        if self.config.rule != "routed":
            self._bring(chosen, self.rows.rows[:, chosen] >= 0)
            return
        places = np.arange(len(self.stores))[:, None]
        self._bring(chosen, places == self.rows.first[chosen])
        self._bring(chosen, places == self._routes.of(chosen))

    def _bring(self, rows: np.ndarray, wanted: np.ndarray) -> None:
        """Of each store those of the rows int64 [n] that are `wanted` of it, bool [M, n]."""
        for store, inner, those in zip(self.stores, self.rows.rows[:, rows], wanted, strict=True):
            if store.elsewhere and those.any():
                store.bring(inner[those])

    def labels_of(self, rows: Indices, starts: Indices, stops: Indices, epochs: Indices | None = None) -> SoftLabels:
        """Labels of several row slices, one after the other, each mixed by the rule.

        `epochs` int64 [n] are those that the slices are read for (default: 0), which rule random hangs on.
        """
        chosen, begins, ends = (np.asarray(each, np.int64) for each in (rows, starts, stops))
        when = np.zeros_like(chosen) if epochs is None else np.asarray(epochs, np.int64)
        groups = list(self._groups(chosen, when)) or [(np.arange(0), (0,))]
        if len(groups) == 1:
            return self._of_form(self._mixed(groups[0][1], _Asked(chosen, begins, ends)))
        parts = [self._mixed(stores, _Asked(chosen[here], begins[here], ends[here])) for here, stores in groups]
        counts = ends - begins
        first = np.cumsum(counts) - counts
        order = np.concatenate([_ranges(first[here], counts[here]) for here, _ in groups])
        return self._of_form(side_by_side(parts, self.top, torch.from_numpy(np.argsort(order, kind="stable"))))

    def _groups(self, rows: np.ndarray, epochs: np.ndarray) -> Iterator[Group]:
        """Places of the rows that the same stores answer for; no row is one group of all stores."""
        if self.config.rule == "routed":
            yield from by_value(self._routes.of(rows))
            return
        has = self.rows.rows[:, rows] >= 0
        alike = [(np.arange(len(rows)), np.arange(len(self.stores)))]
        if not has.all():
            patterns, number = np.unique(has, axis=1, return_inverse=True)
            number = number.reshape(-1)
            alike = [
                (np.flatnonzero(number == place), np.flatnonzero(patterns[:, place]))
                for place in range(patterns.shape[1])
            ]
        for here, stores in alike:
            if self.config.rule != "random" or not len(here):
                yield here, tuple(stores.tolist())
                continue
            keys = self.rows.keys[rows[here]]
            chosen = random_teacher(keys, self._weights[stores].tolist(), self.config.seed, epochs[here])
            for inner, (place,) in by_value(chosen):
                yield here[inner], (int(stores[place]),)

    def labels(self, row: int) -> SoftLabels:
        """All labels of a row, as the first epoch sees them."""
        return self.labels_of([row], [0], [self._count(row)])

    def token_log_probs(self, row: int) -> np.ndarray:
        """The log-probability of the actual next tokens of a text in the mix, float32 [N]; LabelError see the rule."""
        stop = np.array([self._count(row)])
        asked = _Asked(np.array([row]), np.zeros_like(stop), stop)
        ((_, stores),) = self._groups(asked.rows, np.zeros(1, np.int64))
        alone = self._target_log_probs(stores, (), asked)
        if len(stores) == 1:
            return alone[0].numpy()
        labels = self._read(stores, asked)
        targets = torch.from_numpy(self.tokens(row)[1 + self.label_positions(row)])
        decision = self._decide(stores, labels, asked)
        rule = self.config.rule
        return mixed_log_probs(rule, mixed(rule, labels, decision, self.top), targets, alone, decision).numpy()

    def _count(self, row: int) -> int:
        return int(self._counts[row])

    @cached_property
    def _counts(self) -> np.ndarray:
        return self.num_labels_per_row()

    def _mixed(self, stores: tuple[int, ...], asked: _Asked) -> SoftLabels:
        """Labels of slices that all of `stores` have, by the rule."""
        labels = self._read(stores, asked)
        if self.apart:
            return ApartLabels(tuple(labels))
        if self.config.votes is not None:
            return votes(labels, self.config.votes, self._seeds(asked))
        if len(labels) == 1:
            return labels[0]
        return mixed(self.config.rule, labels, self._decide(stores, labels, asked), self.top)

    def _seeds(self, asked: _Asked) -> np.ndarray:
        """One for each label, which hangs on its sample and place alone."""
        slices = zip(asked.rows.tolist(), asked.starts.tolist(), asked.stops.tolist(), strict=True)
        parts = [label_seeds(self.key(row), stop, self.config.seed)[start:] for row, start, stop in slices]
        return np.concatenate([np.empty(0, np.uint64), *parts])

    def _read(self, stores: tuple[int, ...], asked: _Asked) -> list[SoftLabels]:
        """What each of the stores says, of the classes that all have."""

        def read(place: int) -> SoftLabels:
            found = self.stores[place].labels_of(self.rows.rows[place, asked.rows], asked.starts, asked.stops)
            return cut_classes(found, self.num_classes) if found.num_classes else found

        # One after the other: a codec that is worth threads decodes by several itself.
        return [read(place) for place in stores]

    def _decide(self, stores: tuple[int, ...], labels: Sequence[SoftLabels], asked: _Asked) -> torch.Tensor:
        weights = self._weights[list(stores)]
        shares = torch.from_numpy(weights / weights.sum())
        return decide(self.config.rule, labels, shares, lambda: self._target_log_probs(stores, labels, asked))

    def _target_log_probs(self, stores: tuple[int, ...], labels: Sequence[SoftLabels], asked: _Asked) -> torch.Tensor:
        """ln p(target) of each teacher, float32 [M, N]: as a store of text keeps it, else of dense labels."""
        if self.kind != "text":
            targets = np.repeat(self.targets_of(asked.rows), asked.stops - asked.starts)
            return target_log_probs(labels, torch.from_numpy(targets))
        found = []
        for place in stores:
            slices = zip(self.rows.rows[place, asked.rows].tolist(), asked.starts, asked.stops, strict=True)
            parts = [self.stores[place].token_log_probs(*each) for each in slices]
            found.append(np.concatenate([np.empty(0, np.float32), *parts]))
        return torch.from_numpy(np.stack(found))

    @cached_property
    def top(self) -> int:
        """How many classes of a dense label are kept beside top-k ones: as many as the largest of these has, if any."""
        codecs = (store.codec for store in self.stores)
        return max((codec.k for codec in codecs if isinstance(codec, TopKCodec)), default=0)

    def _of_form(self, labels: SoftLabels) -> SoftLabels:
        return labels if self.apart else in_form(labels, self.form, self.top)


def _ranges(firsts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first, first + 1, ... of each pair, one range after the other."""
    starts = np.cumsum(counts) - counts
    return np.repeat(firsts - starts, counts) + np.arange(int(counts.sum()))
