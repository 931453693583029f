"""A data set from a folder of the user's, by what it holds."""

from pathlib import Path

from dynamo_dist.data.dataset import Dataset
from dynamo_dist.data.files import parquet_columns
from dynamo_dist.data.images import ImageTask, make_images
from dynamo_dist.data.recorded import RecordedTask, make_recorded
from dynamo_dist.data.text import SUFFIXES, TextTask, make_text
from dynamo_dist.errors import InputError


def open_folder(path: str | Path) -> Dataset:
    """Recordings (inputs.npy, or Parquet with a column `inputs`), images (CIFAR-10, or a column `image` or `img`) or texts (train as
    .parquet, .tsv or .csv), each with the settings that its task has by default."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist: give a folder of recordings, images or texts")
    train = path if path.suffix == ".parquet" else path / "train.parquet"
    columns = parquet_columns(train) if train.exists() else ()
    if "inputs" in columns or (path / "inputs.npy").exists():
        return make_recorded(RecordedTask(source=str(path)))
    if {"image", "img"} & set(columns) or path.name.endswith((".tar", ".tar.gz", ".tgz")) or any(path.glob("data_batch_*")):
        return make_images(ImageTask(source=str(path)))
    if any((path / f"train{suffix}").exists() for suffix in SUFFIXES):
        return make_text(TextTask(folder=str(path)))
    raise InputError(
        f"{path} holds no data of a known kind: expected inputs.npy and targets, CIFAR-10, or train and test as .parquet, .tsv or .csv"
    )
