"""Where the sequences of a micro-batch lie: one a row, several a row, or all of them in one."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Layout", "Places", "arrange", "fill_rows"]

Layout = Literal["padded", "rows", "flat"]
"""One sequence a row; several in rows of at most `training.sequence_length`; one row of all sequences, no padding."""

# What is tried beside the widest rows: the longest sequence and multiples of it; and while few rows would do, of which
# a last one half full is much, a few rows more, a little wider than if they were filled to the last token.
_FEW_ROWS, _MORE_ROWS, _SLACKS, _MULTIPLE = 48, (0, 1, 2), (1.0, 1.01, 1.03), 1.5
# Rows of that many tokens cost twice the time of the narrowest under a mask: attention takes 4 x width x d operations a
# token and layer, the products with weights about 24 x d x d, with d = 4,096.
_TWICE_THE_TIME = 6 * 4096


@dataclass(frozen=True)
class Places:
    """A batch of `shape` = (rows, columns), and its n sequences in the order in which they lie in it.

    `order` int64 [n] names each sequence by its number among the lengths that were arranged; it lies in row `rows[i]`
    from column `columns[i]` on, int64 [n] each. No two overlap.
    """

    shape: tuple[int, int]
    order: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @property
    def num_slots(self) -> int:
        """Tokens of the batch, padding included."""
        return self.shape[0] * self.shape[1]

    def position_ids(self) -> np.ndarray:
        """Position of each token in its sequence, int64 [rows, columns]; padding goes on from the one before it."""
        begins = np.zeros(self.shape, dtype=np.int64)
        begins[self.rows, self.columns] = self.columns
        return np.arange(self.shape[1]) - np.maximum.accumulate(begins, axis=1)


def arrange(lengths: np.ndarray, layout: Layout, longest_row: int) -> Places:
    """Places for sequences of `lengths`, int64 [n > 0]; packed rows have at most `longest_row` tokens."""
    count = np.arange(len(lengths), dtype=np.int64)
    none = np.zeros(len(lengths), dtype=np.int64)
    if layout == "padded":
        return Places((len(lengths), int(lengths.max())), count, count, none)
    if layout == "flat":
        return Places((1, int(lengths.sum())), count, none, np.cumsum(lengths) - lengths)
    widest = _packed(lengths, longest_row)
    most = widest.shape[0] * longest_row  # what was reckoned with when the micro-batch was cut
    others = (_packed(lengths, width) for width in _widths(lengths, longest_row))
    return min((widest, *(places for places in others if places.num_slots <= most)), key=_cost)


def fill_rows(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each sequence, int64 [n] each, in rows of at most `capacity` tokens.

    Best fit, longest first: a sequence goes where the least room is left over; at most 11/9 of the fewest rows and
    one (Johnson, 1973). What lies in a row does not hang on the other rows: the sequences of a few of the rows, packed
    again in the same order, make the same rows.
    """
    rows, columns = np.zeros(len(lengths), dtype=np.int64), np.zeros(len(lengths), dtype=np.int64)
    with_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set where some row has room for just r tokens
    opened = 0
    order = np.argsort(-lengths, kind="stable")
    for place, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row, opened = capacity, opened, opened + 1
        rows[place], columns[place] = row, capacity - room
        if room > length:
            with_room.setdefault(room - length, []).append(row)
            rooms |= 1 << (room - length)
    return rows, columns


def _cost(places: Places) -> tuple[float, int]:
    return places.num_slots * (1 + places.shape[1] / _TWICE_THE_TIME), places.shape[1]


def _widths(lengths: np.ndarray, longest_row: int) -> set[int]:
    """Widths of rows worth trying, narrower than the widest."""
    total, longest = int(lengths.sum()), int(lengths.max())
    fewest = -(-total // longest_row)
    steps = math.ceil(math.log(longest_row / longest, _MULTIPLE))
    tried = {int(longest * _MULTIPLE**step) for step in range(steps)}
    if fewest <= _FEW_ROWS:
        tried |= {math.ceil(slack * total / (fewest + more)) for more in _MORE_ROWS for slack in _SLACKS}
    return {width for width in tried if longest <= width < longest_row}


def _packed(lengths: np.ndarray, width: int) -> Places:
    rows, columns = fill_rows(lengths, width)
    order = np.lexsort((columns, rows))
    used = int((columns + lengths).max())
    return Places((int(rows.max()) + 1, used), order, rows[order], columns[order])
