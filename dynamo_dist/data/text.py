"""Text classification from a folder of labelled texts: `train` and `test`, each a `.parquet`, `.tsv` or `.csv` file.

Half of the training part, with labels, trains base networks; the other half, without, trains the meta-model; the test part only
measures. The vocabulary is the most frequent words of the labelled half.

Columns. The text is the column `text` or `sentence`, the label the column `label`; in other files they are found where only one
column holds text, or only one holds whole numbers. TSV and CSV files may lack the line of names. Labels are whole numbers 0 to C - 1,
or strings, which become classes in sorted order.
Where the test file has no labels (GLUE), the file `dev` or `validation` is the test part.
"""

import csv
import functools
import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from dynamo_dist.data.dataset import Dataset, Examples, Output
from dynamo_dist.data.files import WHOLE, Labels, read_parquet, stratified_halves
from dynamo_dist.errors import InputError

PADDING, UNKNOWN = 0, 1
SUFFIXES = (".parquet", ".tsv", ".csv")
TEXT_NAMES, LABEL_NAME = ("text", "sentence"), "label"
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_TAG = re.compile(r"<[^>]{1,20}>")
# A leading y is a consonant, any later one a vowel; the u of qu goes with its q.
_ONSET = re.compile(r"y?(?:qu|[bcdfghjklmnpqrstvwxz])*")


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """Which texts, and how they become token sequences."""

    # Folder with train and test, each .parquet, .tsv or .csv.
    folder: str
    # Token ids: padding, unknown, and the most frequent words.
    vocabulary: int = 5_000
    # Longer texts keep their last `length` words: reviews end with their verdict.
    length: int = 160
    # Labels must be 0 to classes - 1; None: the classes are what the training file has.
    classes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocabulary < 3 or self.length < 1:
            raise InputError(f"TextTask: vocabulary={self.vocabulary}, length={self.length}: expected at least 3 ids and 1 word")
        if self.classes is not None and self.classes < 2:
            raise InputError(f"TextTask.classes={self.classes}: expected at least 2")


LANGUAGES = ("english", "piglatin")


@dataclass(frozen=True, kw_only=True)
class BilingualTask(TextTask):
    """The same, in one of the two languages of `make_piglatin`."""

    # "english" or "piglatin".
    language: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language not in LANGUAGES:
            raise InputError(f"BilingualTask.language={self.language!r}: expected one of {', '.join(LANGUAGES)}")


def words(text: str) -> list[str]:
    """Lower-case words; mark-up such as `<br />` is dropped."""
    return _WORD.findall(_TAG.sub(" ", text.lower()))


def pig_latin(word: str) -> str:
    """The Pig Latin form of a lower-case word: `string` -> `ingstray`, `apple` -> `appleway`, `queen` -> `eenquay`, `10` -> `10way`.

    Not one-to-one: `at` and `wat` are both `atway`.
    """
    found = _ONSET.match(word)
    onset = found.end() if found else 0
    return f"{word[onset:]}{word[:onset] or 'w'}ay"


def _rows(path: Path) -> pa.Table:
    """A TSV or CSV file as a table; a column of whole numbers is int64, any other is strings.

    The first line holds names where it has one of ours, or where a column is whole numbers from the second line on; otherwise the
    columns are called 1, 2, ... TSV has no quoting (as in GLUE), CSV has.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
        lines = [line.rstrip("\r") for line in content.split("\n")]
        rows = [line.split("\t") for line in lines] if path.suffix == ".tsv" else list(csv.reader(io.StringIO(content, newline="")))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    rows = [row for row in rows if any(row)]
    first = rows[0] if rows else []
    bad = next((number for number, row in enumerate(rows) if len(row) != len(first)), None)
    if bad is not None:
        raise InputError(f"{path}, line {bad + 1} (empty ones not counted): {len(rows[bad])} columns, but the first has {len(first)}")

    def whole(column: tuple[str, ...]) -> bool:
        return all(WHOLE.fullmatch(value) for value in column)

    columns = list(zip(*rows, strict=True))
    names = [str(number) for number in range(1, len(columns) + 1)]
    if {*TEXT_NAMES, LABEL_NAME} & set(first) or any(len(c) > 1 and whole(c[1:]) and not whole(c[:1]) for c in columns):
        names, columns = first, [column[1:] for column in columns]
    if not any(columns):
        raise InputError(f"{path} has no rows")
    arrays = [pa.array([int(v) for v in c], pa.int64()) if whole(c) else pa.array(c, pa.string()) for c in columns]
    return pa.Table.from_arrays(arrays, names=names)


def _table(folder: Path, part: str) -> tuple[Path, pa.Table] | None:
    """The one file of a part, if there is one."""
    paths = [path for suffix in SUFFIXES if (path := folder / f"{part}{suffix}").exists()]
    if len(paths) > 1:
        raise InputError(f"{folder} holds {' and '.join(path.name for path in paths)}: keep one of them")
    return next(((path, read_parquet(path) if path.suffix == ".parquet" else _rows(path)) for path in paths), None)


def _find_columns(path: Path, table: pa.Table) -> tuple[str, str]:
    """The names of the text column and of the label column."""
    names = table.column_names
    strings = [name for name in names if pa.types.is_string(table[name].type) or pa.types.is_large_string(table[name].type)]
    numbers = [name for name in names if pa.types.is_integer(table[name].type)]
    text = [name for name in TEXT_NAMES if name in names] or [name for name in strings if name != LABEL_NAME]
    if LABEL_NAME in names:
        label = [LABEL_NAME]
    else:
        # A second column of strings is the label only beside a text column that has its name.
        label = numbers or [name for name in strings if len(names) == 2 and text != [name] and len(text) == 1]
    if len(text) != 1 or len(label) != 1 or len(set(names)) < len(names):
        raise InputError(
            f"{path}: its columns are {', '.join(names)}, and which is the text and which the label is not clear; name them text and label"
        )
    return text[0], label[0]


def _texts(path: Path, table: pa.Table, column: str) -> list[str]:
    texts: list[str] = table[column].to_pylist()
    bad = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if bad is not None:
        raise InputError(f"{path}, row {bad}: text is {texts[bad]!r}: expected a string")
    return texts


def _has_labels(table: pa.Table, label: str) -> bool:
    """-1 throughout is how GLUE says in Parquet that labels are withheld."""
    return label in table.column_names and table[label].unique().to_pylist() != [-1]


def read_texts(task: TextTask) -> tuple[dict[str, tuple[list[list[str]], np.ndarray]], int]:
    """The words and the class of every text, by part (base, meta, test), and the number of classes.

    The split of the training part is drawn from the seed, each half with the same share of each class.
    """
    folder = Path(task.folder)
    if not folder.is_dir():
        raise InputError(f"--data {folder}: no such folder; it must hold train.parquet and test.parquet with columns text and label")
    found = {}
    for part in ("train", "test"):
        table = _table(folder, part)
        if table is None:
            raise InputError(
                f"{folder / part}.parquet does not exist: --data must name a folder with train and test as .parquet, .tsv or .csv files "
                "(columns text, label); "
                "`dynamo-dist import-data imdb aclImdb_v1.tar.gz --out DIR` makes one from the official IMDB archive"
            )
        found[part] = table
    (train_path, train), (test_path, test) = found["train"], found["test"]
    text, label = _find_columns(train_path, train)
    if not _has_labels(test, label):
        dev = _table(folder, "dev") or _table(folder, "validation")
        if dev is None or not _has_labels(dev[1], label):
            raise InputError(
                f"{test_path} has no labels (its columns are {', '.join(test.column_names)}; expected {text} and {label}), and there is no "
                "labelled file dev or validation to measure on"
            )
        test_path, test = dev
    if text not in test.column_names:
        raise InputError(f"{test_path} has no column {text}, as {train_path.name} has: its columns are {', '.join(test.column_names)}")
    train_labels = train[label].to_pylist()
    labels = Labels(train_path, train_labels, task.classes)
    train_classes = labels.encode(train_path, train_labels)
    test_classes = labels.encode(test_path, test[label].to_pylist())
    train_words = [words(content) for content in _texts(train_path, train, text)]
    test_words = [words(content) for content in _texts(test_path, test, text)]
    base, meta = stratified_halves(train_classes, np.random.default_rng(task.seed))
    halves = {part: ([train_words[row] for row in rows], train_classes[rows]) for part, rows in (("base", base), ("meta", meta))}
    return {**halves, "test": (test_words, test_classes)}, labels.count


def build_vocabulary(tokenized: Iterable[list[str]], size: int, *, first: int = UNKNOWN + 1) -> dict[str, int]:
    """Ids of the most frequent words from `first` on, at most size - 2 (padding and unknown have ids too).

    Ties in alphabetical order, so that the ids do not depend on the order of texts.
    """
    counts = Counter(word for text in tokenized for word in text)
    kept = sorted(counts, key=lambda word: (-counts[word], word))[: size - 2]
    return {word: index for index, word in enumerate(kept, start=first)}


def _encode(tokenized: list[list[str]], vocabulary: dict[str, int], unknown: int, length: int, classes: np.ndarray) -> Examples:
    tokens = np.full((len(tokenized), length), PADDING, dtype=np.int64)
    lengths = np.ones(len(tokenized), dtype=np.int64)  # an empty text is one unknown word
    tokens[:, 0] = unknown
    for row, text in enumerate(tokenized):
        ids = [vocabulary.get(word, unknown) for word in text[-length:]]
        if ids:
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids)
    return Examples(inputs=torch.from_numpy(tokens), lengths_N=torch.from_numpy(lengths), targets={"label": torch.from_numpy(classes)})


def make_text(task: TextTask) -> Dataset:
    """Read, split and encode; the target is `label`. Ids: 0 padding, 1 unknown, then words from the most frequent on."""
    parts, classes = read_texts(task)
    vocabulary = build_vocabulary(parts["base"][0], task.vocabulary)
    encoded = {part: _encode(texts, vocabulary, UNKNOWN, task.length, labels) for part, (texts, labels) in parts.items()}
    return Dataset(**encoded, vocabulary=2 + len(vocabulary), outputs={"label": Output(kind="classes", size=classes)})


def make_piglatin(task: TextTask) -> tuple[Dataset, Dataset]:
    """The same texts twice, example by example: in English as `make_text` gives them, and with every word in its Pig Latin form.

    One id space and no word in common: ids 1 to E are English (1 unknown, then words), E + 1 to E + P Pig Latin (E + 1 unknown, then
    words); only padding, 0, is shared. `vocabulary` of both is 1 + E + P.
    """
    parts, classes = read_texts(task)
    english = build_vocabulary(parts["base"][0], task.vocabulary)
    unknown = UNKNOWN + 1 + len(english)
    # One string per word of the language, not per word of the texts, of which IMDB has 12 million.
    form = functools.cache(pig_latin)
    forms = {part: ([[form(word) for word in text] for text in texts], labels) for part, (texts, labels) in parts.items()}
    latin = build_vocabulary(forms["base"][0], task.vocabulary, first=unknown + 1)

    def dataset(parts: dict[str, tuple[list[list[str]], np.ndarray]], vocabulary: dict[str, int], unknown: int) -> Dataset:
        encoded = {part: _encode(texts, vocabulary, unknown, task.length, labels) for part, (texts, labels) in parts.items()}
        return Dataset(**encoded, vocabulary=3 + len(english) + len(latin), outputs={"label": Output(kind="classes", size=classes)})

    return dataset(parts, english, UNKNOWN), dataset(forms, latin, unknown)


def make_bilingual(task: BilingualTask) -> Dataset:
    """The one of `make_piglatin` that is in the language of the task."""
    return make_piglatin(task)[LANGUAGES.index(task.language)]
