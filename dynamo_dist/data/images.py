"""Image classification: the 8x8 digits that scikit-learn ships, CIFAR-10, and any folder of encoded images in Parquet.

Half of the training part, with labels, trains base networks; the other half, without, trains the meta-model; the test part only
measures. The split is drawn from the seed, each half with the same share of each class.

Legend: N images, C channels, Y rows, X columns.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image, UnidentifiedImageError

from dynamo_dist.data.dataset import Dataset, Examples, Output
from dynamo_dist.data.files import Labels, read_parquet, stratified_halves
from dynamo_dist.errors import InputError

CIFAR_SHAPE = (3, 32, 32)
CIFAR_CLASSES = 10
CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST = "test_batch.bin"
# Kinds of pixels in Pillow that have 8 bits per channel; any alpha is dropped.
GREY = ("1", "L")
COLOUR = ("RGB", "RGBA", "P", "PA", "LA", "CMYK", "YCbCr")
_ROW = 1 + int(np.prod(CIFAR_SHAPE))
_PICKLED = re.compile(r"(data_batch_\d|test_batch|batches\.meta)")


@dataclass(frozen=True, kw_only=True)
class DigitsTask:
    """The 1,797 digits of scikit-learn, 8x8 pixels of 17 levels: a fifth measures, half of the rest is base, half meta."""

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """Labelled images on disk."""

    # The official archive cifar-10-binary.tar.gz, the folder that it unpacks to, or a folder with train.parquet and test.parquet
    # (a column of encoded images `image` or `img`, and the column `label`).
    source: str
    seed: int = 0


def make_digits(task: DigitsTask) -> Dataset:
    """Images float32 (N, 1, 8, 8) in 0..1; target `label`, ten classes."""
    from sklearn.datasets import load_digits  # here: it takes a second, and few need it

    digits = load_digits()
    images, labels = (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)
    rng = np.random.default_rng(task.seed)
    test = np.concatenate([rows[: len(rows) // 5] for rows in (rng.permutation(np.flatnonzero(labels == label)) for label in range(10))])
    train = np.setdiff1d(np.arange(len(labels)), test)
    return _dataset((images[train], labels[train]), (images[test], labels[test]), 10, rng)


def make_images(task: ImageTask) -> Dataset:
    """Images uint8 (N, C, Y, X), of CIFAR-10 (N, 3, 32, 32); target `label`. Nothing is unpacked to disk.

    Raises `InputError` that names the file, and the row of an image that is damaged or has another shape than the first.
    """
    source = Path(task.source)
    rng = np.random.default_rng(task.seed)
    if not source.exists():
        raise InputError(f"{source} does not exist: give cifar-10-binary.tar.gz, the folder it unpacks to, or a folder with train.parquet")
    if not (source / "train.parquet").exists():
        batches = _cifar_batches(source)
        parts = [_cifar_rows(source, name, batches[name]) for name in CIFAR_TRAIN]
        return _dataset(
            (np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])),
            _cifar_rows(source, CIFAR_TEST, batches[CIFAR_TEST]),
            CIFAR_CLASSES,
            rng,
        )
    path, test_path = source / "train.parquet", source / "test.parquet"
    if not test_path.exists():
        raise InputError(f"{test_path} does not exist: it must hold the images to measure on")
    images, train_labels = _encoded(path)
    test_images, test_labels = _encoded(test_path)
    labels = Labels(path, train_labels)
    train = _decode(path, images), labels.encode(path, train_labels)
    test = _decode(test_path, test_images, train[0].shape[1:]), labels.encode(test_path, test_labels)
    return _dataset(train, test, labels.count, rng)


def _dataset(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], classes: int, rng: np.random.Generator) -> Dataset:
    """From (images, labels) of the training and of the test part."""

    def examples(images: np.ndarray, labels: np.ndarray) -> Examples:
        return Examples(inputs=torch.from_numpy(images), targets={"label": torch.from_numpy(labels)})

    images, labels = train
    base, meta = (examples(images[rows], labels[rows]) for rows in stratified_halves(labels, rng))
    return Dataset(base=base, meta=meta, test=examples(*test), outputs={"label": Output(kind="classes", size=classes)})


def _cifar_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every CIFAR-10 file of the folder or archive; content only of the binary ones."""

    def wanted(name: str) -> bool:
        return name in (*CIFAR_TRAIN, CIFAR_TEST)

    if source.is_dir():
        for path in sorted([*source.glob("*"), *source.glob("cifar-10-batches-*/*")]):
            if path.is_file():
                yield path.name, path.read_bytes() if wanted(path.name) else b""
        return
    try:
        with tarfile.open(source, "r|*") as archive:
            for member in archive:
                if member.isreg():
                    name = Path(member.name).name
                    content = archive.extractfile(member) if wanted(name) else None
                    yield name, content.read() if content else b""
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"{source} is not a readable archive (truncated or damaged: {error}); download cifar-10-binary.tar.gz again"
        ) from None


def _cifar_batches(source: Path) -> dict[str, bytes]:
    """The six binary files by name."""
    batches = dict(_cifar_files(source))
    missing = [name for name in (*CIFAR_TRAIN, CIFAR_TEST) if name not in batches]
    if missing and any(_PICKLED.fullmatch(name) for name in batches):
        raise InputError(
            f"{source} holds CIFAR-10 for Python, which is pickled and never loaded here: use the binary version, cifar-10-binary.tar.gz"
        )
    if missing:
        raise InputError(
            f"{source} holds no {', '.join(missing)} (CIFAR-10, binary version) and no train.parquet: is it the right folder or archive?"
        )
    return batches


def _cifar_rows(source: Path, name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,): a row is one byte of label, then the red, green and blue planes."""
    if not content or len(content) % _ROW:
        raise InputError(f"{source}, {name}: {len(content)} bytes are not a number of rows of {_ROW}: the file is cut or of another kind")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, _ROW)
    labels = rows[:, 0].astype(np.int64)
    if labels.max() >= CIFAR_CLASSES:
        row = int(np.argmax(labels >= CIFAR_CLASSES))
        raise InputError(f"{source}, {name}, row {row}: label {labels[row]}: expected 0 to {CIFAR_CLASSES - 1}")
    return rows[:, 1:].reshape(-1, *CIFAR_SHAPE).copy(), labels


def _encoded(path: Path) -> tuple[list[bytes | None], list[object]]:
    """Encoded images and labels of one Parquet file."""
    table = read_parquet(path)
    names = [name for name in ("image", "img") if name in table.column_names]
    if len(names) != 1 or "label" not in table.column_names:
        raise InputError(f"{path}: its columns are {', '.join(table.column_names)}; expected image (or img) and label")
    column = table[names[0]]
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise InputError(f"{path}: column {names[0]} is {column.type}: expected encoded images (binary, or a struct with the field bytes)")
    return column.to_pylist(), table["label"].to_pylist()


def _decode(path: Path, encoded: list[bytes | None], shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """uint8 (N, C, Y, X); grey images have one channel, all others become RGB. Without `shape`, the first image's is everyone's."""
    images: np.ndarray | None = None
    for row, content in enumerate(encoded):
        try:
            if content is None:
                raise ValueError("it is null")
            with Image.open(io.BytesIO(content)) as image:
                if image.mode not in (*GREY, *COLOUR):
                    raise ValueError(f"its pixels are of kind {image.mode}, expected 8-bit grey or colour")
                channels = 1 if image.mode in GREY else 3
                found = (channels, image.height, image.width)
                # Before the pixels are decoded: a wrong size may be a huge one.
                if shape is not None and found != tuple(shape):
                    raise ValueError(f"its channels, rows and columns are {found}, others have {tuple(shape)}")
                pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        except UnidentifiedImageError:
            raise InputError(f"{path}, row {row}: the image is damaged or in a format that Pillow does not know") from None
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(f"{path}, row {row}: the image cannot be used: {error}") from None
        if images is None:
            shape = found
            images = np.empty((len(encoded), *found), dtype=np.uint8)
        images[row] = pixels if channels == 1 else pixels.transpose(2, 0, 1)
    assert images is not None, "a file without images is refused before"
    return images
