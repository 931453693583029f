"""Text classification from a folder with `train.parquet` and `test.parquet`, columns `text` and `label` (0 or 1).

Half of the training part, with labels, trains base networks; the other half, without, trains the meta-model; the test part only
measures. The vocabulary is the most frequent words of the labelled half.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dynamo_dist.data.dataset import Dataset, Examples, Output
from dynamo_dist.errors import InputError

PADDING, UNKNOWN = 0, 1
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_TAG = re.compile(r"<[^>]{1,20}>")


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """Which texts, and how they become token sequences."""

    # Folder with train.parquet and test.parquet.
    folder: str
    # Token ids: padding, unknown, and the most frequent words.
    vocabulary: int = 5_000
    # Longer texts keep their last `length` words: reviews end with their verdict.
    length: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocabulary < 3 or self.length < 1:
            raise InputError(f"TextTask: vocabulary={self.vocabulary}, length={self.length}: expected at least 3 ids and 1 word")


def words(text: str) -> list[str]:
    """Lower-case words; mark-up such as `<br />` is dropped."""
    return _WORD.findall(_TAG.sub(" ", text.lower()))


def read_labelled(path: Path) -> tuple[list[str], np.ndarray]:
    """Texts and labels (int64, 0 or 1) of one Parquet file. Raises `InputError` when it is missing, damaged, or has other labels."""
    if not path.exists():
        raise InputError(
            f"{path} does not exist: --data must name a folder with train.parquet and test.parquet (columns text, label); "
            "`dynamo-dist import-data imdb aclImdb_v1.tar.gz --out DIR` makes one from the official IMDB archive"
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} is not a readable Parquet file (truncated or damaged: {str(error).splitlines()[0]}); copy or import it again"
        ) from None
    missing = {"text", "label"} - set(table.column_names)
    if missing:
        raise InputError(
            f"{path} has no column {' and '.join(sorted(missing))}: its columns are {', '.join(table.column_names)}; expected text and label"
        )
    labels = table["label"].to_pylist()
    bad = next((row for row, label in enumerate(labels) if label not in (0, 1)), None)
    if bad is not None:
        raise InputError(f"{path}, row {bad}: label {labels[bad]!r}: expected 0 or 1")
    texts = table["text"].to_pylist()
    bad = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if bad is not None:
        raise InputError(f"{path}, row {bad}: text is {texts[bad]!r}: expected a string")
    if not texts:
        raise InputError(f"{path} has no rows")
    return texts, np.array(labels, dtype=np.int64)


def build_vocabulary(tokenized: Iterable[list[str]], size: int) -> dict[str, int]:
    """Ids of the most frequent words from 2 on; ties in alphabetical order, so that the ids do not depend on the order of texts."""
    counts = Counter(word for text in tokenized for word in text)
    kept = sorted(counts, key=lambda word: (-counts[word], word))[: size - 2]
    return {word: index for index, word in enumerate(kept, start=2)}


def _encode(tokenized: list[list[str]], vocabulary: dict[str, int], length: int, labels: np.ndarray) -> Examples:
    tokens = np.zeros((len(tokenized), length), dtype=np.int64)
    lengths = np.ones(len(tokenized), dtype=np.int64)  # an empty text is one unknown word
    tokens[:, 0] = UNKNOWN
    for row, text in enumerate(tokenized):
        ids = [vocabulary.get(word, UNKNOWN) for word in text[-length:]]
        if ids:
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids)
    return Examples(inputs=torch.from_numpy(tokens), lengths_N=torch.from_numpy(lengths), targets={"label": torch.from_numpy(labels)})


def make_text(task: TextTask) -> Dataset:
    """Read, split and encode. The split is drawn from the seed, each half with the same share of each label."""
    folder = Path(task.folder)
    if not folder.is_dir():
        raise InputError(f"--data {folder}: no such folder; it must hold train.parquet and test.parquet with columns text and label")
    train_texts, train_labels = read_labelled(folder / "train.parquet")
    test_texts, test_labels = read_labelled(folder / "test.parquet")
    rng = np.random.default_rng(task.seed)
    base, meta = [], []
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(train_labels == label))
        if len(rows) < 2:
            raise InputError(
                f"{folder / 'train.parquet'}: {len(rows)} texts have the label {label}; both labels are needed, at least twice"
            )
        base.append(rows[: (len(rows) + 1) // 2])
        meta.append(rows[(len(rows) + 1) // 2 :])
    train_words = [words(text) for text in train_texts]
    halves = {"base": rng.permutation(np.concatenate(base)), "meta": rng.permutation(np.concatenate(meta))}
    vocabulary = build_vocabulary((train_words[row] for row in halves["base"]), task.vocabulary)
    parts = {
        part: _encode([train_words[row] for row in rows], vocabulary, task.length, train_labels[rows]) for part, rows in halves.items()
    }
    test = _encode([words(text) for text in test_texts], vocabulary, task.length, test_labels)
    return Dataset(**parts, test=test, vocabulary=2 + len(vocabulary), outputs={"label": Output(kind="classes", size=2)})
