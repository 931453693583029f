"""What the readers of labelled files share: Parquet that may be damaged, labels, and the split of the training part."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dynamo_dist.errors import InputError

WHOLE = re.compile(r"[+-]?\d{1,18}")


def read_parquet(path: Path) -> pa.Table:
    """A table with at least one row. Raises `InputError` where the file is damaged."""
    with _readable(path):
        table = pq.read_table(path)
    if not table.num_rows:
        raise InputError(f"{path} has no rows")
    return table


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Names of the columns, without reading them."""
    with _readable(path):
        return tuple(pq.read_schema(path).names)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} is not a readable Parquet file (truncated or damaged: {str(error).splitlines()[0]}); copy or import it again"
        ) from None


class Labels:
    """The classes of a labelled training file: whole numbers 0 to C - 1, or C strings in sorted order."""

    def __init__(self, path: Path, labels: Sequence[object], classes: int | None = None) -> None:
        """From the labels of the training part; with `classes`, only 0 to classes - 1 are accepted."""
        self.names: tuple[str, ...] | None = None
        if classes is not None:
            self.count = classes
        elif all(isinstance(label, str) for label in labels):
            self.names = tuple(sorted({str(label) for label in labels}))
            self.count = len(self.names)
            if self.count < 2:
                raise InputError(f"{path}: every row has the label {labels[0]!r}; at least two labels are needed")
        else:
            self.count = max([1, *(int(label) for label in labels if isinstance(label, (int, float)) and label % 1 == 0)]) + 1
        rows = Counter(self.encode(path, labels).tolist())
        rare = next((label for label in range(self.count) if rows[label] < 2), None)
        if rare is not None:
            needed = "both labels are needed" if self.count == 2 else f"each of the {self.count} labels is needed"
            raise InputError(
                f"{path}: {rows[rare]} rows have the label {self.names[rare] if self.names else rare}; {needed}, at least twice"
            )

    def encode(self, path: Path, labels: Sequence[object]) -> np.ndarray:
        """Class numbers, int64 (N,). Raises `InputError` that names the row of a label that is no class."""
        known: dict[object, int] | range = {name: number for number, name in enumerate(self.names)} if self.names else range(self.count)
        encoded = np.empty(len(labels), dtype=np.int64)
        for row, label in enumerate(labels):
            # A column of a TSV file in which a single label is no number comes as strings.
            value = int(label) if not self.names and isinstance(label, str) and WHOLE.fullmatch(label) else label
            if not isinstance(value, str if self.names else (int, float)) or value not in known:
                expected = "one of " + ", ".join(self.names) if self.names else "0 or 1" if self.count == 2 else f"0 to {self.count - 1}"
                raise InputError(f"{path}, row {row}: label {label!r}: expected {expected}")
            encoded[row] = known[value] if isinstance(known, dict) else value
        return encoded


def stratified_halves(labels_N: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the rows, each in random order and with the same share of each class; of an odd class the first has one more."""
    first, second = [], []
    for label in range(int(labels_N.max()) + 1):
        rows = rng.permutation(np.flatnonzero(labels_N == label))
        first.append(rows[: (len(rows) + 1) // 2])
        second.append(rows[(len(rows) + 1) // 2 :])
    return rng.permutation(np.concatenate(first)), rng.permutation(np.concatenate(second))
