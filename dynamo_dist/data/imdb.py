"""The IMDB reviews from the official archive `aclImdb_v1.tar.gz`, or from the folder it unpacks to, as two Parquet files.

Nothing is unpacked to disk: members are read one by one, so no member's path or link can do harm.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dynamo_dist.commit import MANIFEST, commit_folder
from dynamo_dist.errors import InputError

LABELS = {"neg": 0, "pos": 1}


def _members(source: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """(part, label, file name, content) of every labelled review, in archive order."""

    def labelled(parts: tuple[str, ...]) -> bool:
        return len(parts) == 4 and parts[1] in ("train", "test") and parts[2] in LABELS and parts[3].endswith(".txt")

    if source.is_dir():
        root = source / "aclImdb" if (source / "aclImdb").is_dir() else source
        for part in ("train", "test"):
            for label in LABELS:
                for path in sorted((root / part / label).glob("*.txt")):
                    yield part, label, path.name, path.read_bytes()
        return
    if not source.exists():
        raise InputError(f"{source} does not exist: give the archive aclImdb_v1.tar.gz or the folder aclImdb that it unpacks to")
    try:
        with tarfile.open(source, "r|*") as archive:
            for member in archive:
                parts = Path(member.name).parts
                if member.isreg() and labelled(parts):
                    content = archive.extractfile(member)
                    assert content is not None, "of a regular file there is one"
                    yield parts[1], parts[2], parts[3], content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{source} is not a readable archive (truncated or damaged: {error}); download aclImdb_v1.tar.gz again") from None


def import_imdb(source: str | Path, out: str | Path) -> dict[str, int]:
    """Write `train.parquet` and `test.parquet` (columns text, label) to the new folder `out`; returns the number of reviews of each.

    Rows are sorted by label and file name, so archive and folder give the same files.
    """
    source, out = Path(source), Path(out)
    if (out / MANIFEST).exists() or (out.exists() and any(out.iterdir())):
        raise InputError(f"{out} is not empty: choose a new folder for the imported data")
    rows: dict[str, list[tuple[int, str, str]]] = {"train": [], "test": []}
    for part, label, name, content in _members(source):
        rows[part].append((LABELS[label], name, content.decode("utf-8", errors="replace")))
    for part, reviews in rows.items():
        if not reviews:
            raise InputError(
                f"{source} holds no {part} reviews (expected {part}/neg/*.txt and {part}/pos/*.txt): is it the official IMDB archive?"
            )

    def write(folder: Path) -> None:
        for part, reviews in rows.items():
            reviews.sort()
            table = pa.table({"text": [text for *_, text in reviews], "label": pa.array([label for label, *_ in reviews], pa.int64())})
            pq.write_table(table, folder / f"{part}.parquet", compression="zstd")

    if out.exists():
        out.rmdir()
    commit_folder(out, write)
    return {part: len(reviews) for part, reviews in rows.items()}
