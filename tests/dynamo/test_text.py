"""Text data: from the official archive's layout to token ids, and what is wrong with data folders."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamo_dist import InputError
from dynamo_dist.data.imdb import import_imdb
from dynamo_dist.data.text import PADDING, UNKNOWN, TextTask, build_vocabulary, make_text, words

REVIEWS = {
    ("train", "neg"): ["Bad, bad film.", "Awful<br /><br />plot!", "It's BAD"],
    ("train", "pos"): ["A good film.", "Good good plot", "great"],
    ("test", "neg"): ["bad"],
    ("test", "pos"): ["good \u00e9t\u00e9"],
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "aclImdb"
    for (part, label), texts in REVIEWS.items():
        (root / part / label).mkdir(parents=True)
        for number, text in enumerate(texts):
            (root / part / label / f"{number}_{number + 1}.txt").write_text(text, encoding="utf-8")
    (root / "train" / "unsup").mkdir()
    (root / "train" / "unsup" / "0_0.txt").write_text("no label")
    (root / "README").write_text("readme")
    return root


def data_folder(path, train, test=(("a", 0), ("b", 1))):
    path.mkdir()
    for name, rows in (("train", train), ("test", test)):
        pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path / f"{name}.parquet")
    return path


def test_archive_and_folder_import_alike(folder, tmp_path):
    with tarfile.open(tmp_path / "aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname="aclImdb")
    assert import_imdb(tmp_path / "aclImdb_v1.tar.gz", tmp_path / "a") == {"train": 6, "test": 2}
    assert import_imdb(folder, tmp_path / "b") == {"train": 6, "test": 2}
    for part in ("train", "test"):
        a, b = (pq.read_table(tmp_path / name / f"{part}.parquet") for name in "ab")
        assert a.equals(b) and a.column_names == ["text", "label"]
    table = pq.read_table(tmp_path / "a" / "train.parquet")
    assert table["label"].to_pylist() == [0, 0, 0, 1, 1, 1] and table["text"][0].as_py() == "Bad, bad film."


def test_links_in_an_archive_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        link = tarfile.TarInfo("aclImdb/train/pos/0_9.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        plain = tarfile.TarInfo("aclImdb/train/neg/0_1.txt")
        plain.size = 3
        archive.addfile(plain, io.BytesIO(b"bad"))
    with pytest.raises(InputError, match="holds no test reviews"):
        import_imdb(tmp_path / "evil.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_truncated_archive_leaves_nothing(folder, tmp_path):
    whole = tmp_path / "whole.tar.gz"
    with tarfile.open(whole, "w:gz") as archive:
        archive.add(folder, arcname="aclImdb")
    (tmp_path / "half.tar.gz").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=r"half.tar.gz is not a readable archive"):
        import_imdb(tmp_path / "half.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="does not exist"):
        import_imdb(tmp_path / "none.tar.gz", tmp_path / "out")


def test_words_are_lower_case_without_markup():
    assert words("It's <br />GREAT, really-good 10/10") == ["it's", "great", "really", "good", "10", "10"]


def test_vocabulary_is_the_most_frequent_words_whatever_the_order():
    texts = [["b", "a", "a"], ["c", "b", "d"]]
    assert build_vocabulary(texts, 5) == build_vocabulary(texts[::-1], 5) == {"a": 2, "b": 3, "c": 4}


def test_reviews_become_ids_of_the_labelled_half(tmp_path):
    train = [(f"good word{i}", 1) for i in range(4)] + [(f"bad word{i}", 0) for i in range(4)]
    data = make_text(
        TextTask(folder=str(data_folder(tmp_path / "d", train, [("good unseen bad " * 3, 1), ("", 0)])), vocabulary=50, length=4)
    )
    assert len(data.base) == len(data.meta) == 4
    for part in (data.base, data.meta):
        assert part.targets["label"].double().mean() == 0.5  # each half has the same share of each label
    ids = data.test.inputs
    assert data.test.lengths_N.tolist() == [4, 1]  # the last words; an empty text is one unknown word
    assert ids[1].tolist() == [UNKNOWN, PADDING, PADDING, PADDING]
    assert ids[0, 2] == UNKNOWN and ids[0, 0] == ids[0, 3] != ids[0, 1]
    # No row of the training part is in both halves.
    rows = [tuple(row) for part in (data.base, data.meta) for row in part.inputs.tolist()]
    assert len(rows) == 8 and data.vocabulary <= 50


def test_the_split_is_a_function_of_the_seed(tmp_path):
    folder = str(data_folder(tmp_path / "d", [(f"w{i}", i % 2) for i in range(40)]))
    one, same, other = (make_text(TextTask(folder=folder, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.base.inputs, same.base.inputs)
    assert not np.array_equal(one.base.targets["label"], other.base.targets["label"])


def test_wrong_data_folders_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; it must hold train.parquet"):
        make_text(TextTask(folder=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"train.parquet does not exist: --data must name a folder"):
        make_text(TextTask(folder=str(tmp_path / "empty")))
    with pytest.raises(InputError, match=r"train.parquet, row 1: label 7: expected 0 or 1"):
        make_text(TextTask(folder=str(data_folder(tmp_path / "labels", [("a", 0), ("b", 7)]))))
    with pytest.raises(InputError, match=r"1 texts have the label 1"):
        make_text(TextTask(folder=str(data_folder(tmp_path / "few", [("a", 0), ("b", 0), ("c", 1)]))))
    cut = data_folder(tmp_path / "cut", [("a", 0), ("b", 1)] * 50)
    content = (cut / "test.parquet").read_bytes()
    (cut / "test.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"test.parquet is not a readable Parquet file \(truncated or damaged"):
        make_text(TextTask(folder=str(cut)))
    pq.write_table(pa.table({"review": ["a"], "label": [0]}), cut / "train.parquet")
    with pytest.raises(InputError, match="has no column text: its columns are review, label"):
        make_text(TextTask(folder=str(cut)))
