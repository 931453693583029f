"""Text data: from the official archive's layout to token ids, and what is wrong with data folders."""

import io
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dynamo_dist import InputError
from dynamo_dist.data.imdb import import_imdb
from dynamo_dist.data.text import PADDING, UNKNOWN, TextTask, build_vocabulary, make_piglatin, make_text, pig_latin, words

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
        make_text(TextTask(folder=str(data_folder(tmp_path / "labels", [("a", 0), ("b", 7)])), classes=2))
    with pytest.raises(InputError, match=r"train.parquet: 0 rows have the label 1; each of the 8 labels is needed, at least twice"):
        make_text(TextTask(folder=str(data_folder(tmp_path / "gap", [("a", 0), ("b", 0), ("c", 7)]))))
    with pytest.raises(InputError, match=r"1 rows have the label 1; both labels are needed"):
        make_text(TextTask(folder=str(data_folder(tmp_path / "few", [("a", 0), ("b", 0), ("c", 1)]))))
    cut = data_folder(tmp_path / "cut", [("a", 0), ("b", 1)] * 50)
    content = (cut / "test.parquet").read_bytes()
    (cut / "test.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"test.parquet is not a readable Parquet file \(truncated or damaged"):
        make_text(TextTask(folder=str(cut)))
    pq.write_table(pa.table({"review": ["a"], "title": ["b"], "label": [0]}), cut / "train.parquet")
    shutil.copy(cut / "train.parquet", cut / "test.parquet")
    with pytest.raises(InputError, match="its columns are review, title, label, and which is the text and which the label is not clear"):
        make_text(TextTask(folder=str(cut)))
    (cut / "train.tsv").write_text("a\t0\n")
    with pytest.raises(InputError, match=r"holds train.parquet and train.tsv: keep one of them"):
        make_text(TextTask(folder=str(cut)))


GOOD = [("a good film", 1), ('"fine it is', 1), ("bad", 0), ("so bad", 0)]


def write_rows(path, rows, separator="\t"):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(separator.join(str(value) for value in row) + "\n" for row in rows), encoding="utf-8")


def same(a, b):
    return a.vocabulary == b.vocabulary and all(
        torch.equal(getattr(a, part).inputs, getattr(b, part).inputs)
        and torch.equal(getattr(a, part).targets["label"], getattr(b, part).targets["label"])
        for part in a.PARTS
    )


def test_parquet_tsv_and_csv_with_names_or_without_are_the_same_data(tmp_path):
    expected = make_text(TextTask(folder=str(data_folder(tmp_path / "parquet", GOOD, GOOD[1:3]))))
    quoted = [('"' + text.replace('"', '""') + '"', label) for text, label in GOOD]
    layouts = {
        "bare": ("tsv", "\t", GOOD),
        "glue": ("tsv", "\t", [("sentence", "label"), *GOOD]),
        "other names": ("tsv", "\t", [("comment", "stars"), *GOOD]),
        "label first": ("tsv", "\t", [("label", "note", "text"), *((label, "x", text) for text, label in GOOD)]),
        "csv": ("csv", ",", [("text", "label"), *quoted]),
        "bare csv": ("csv", ",", quoted),
    }
    for name, (suffix, separator, rows) in layouts.items():
        header = rows[: len(rows) - 4]
        write_rows(tmp_path / name / f"train.{suffix}", rows, separator)
        write_rows(tmp_path / name / f"test.{suffix}", [*header, *rows[-3:-1]], separator)
        assert same(make_text(TextTask(folder=str(tmp_path / name))), expected), name
    table = pa.table({"mood": [1, 1, 0, 0], "review": [text for text, _ in GOOD]})
    (tmp_path / "found").mkdir()
    pq.write_table(table, tmp_path / "found" / "train.parquet")
    pq.write_table(table.slice(1, 2), tmp_path / "found" / "test.parquet")
    assert same(make_text(TextTask(folder=str(tmp_path / "found"))), expected)


def test_windows_line_ends_and_a_byte_order_mark_are_no_text(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_bytes(b"\xef\xbb\xbfsentence\tlabel\r\n" + b"good\t1\r\nbad\t0\r\n" * 2 + b"\r\n")
    data = make_text(TextTask(folder=str(tmp_path), length=3))
    assert data.test.targets["label"].tolist() == [1, 0, 1, 0] and data.outputs["label"].size == 2


def test_where_the_test_file_has_no_labels_dev_measures(tmp_path):
    glue = tmp_path / "glue"
    write_rows(glue / "train.tsv", [("sentence", "label"), *GOOD])
    write_rows(glue / "test.tsv", [("index", "sentence"), (0, "good"), (1, "good")])
    with pytest.raises(InputError, match=r"test.tsv has no labels \(its columns are index, sentence; .* no labelled file dev"):
        make_text(TextTask(folder=str(glue)))
    write_rows(glue / "dev.tsv", [("sentence", "label"), ("good", 1), ("bad", 0), ("bad", 0)])
    assert make_text(TextTask(folder=str(glue))).test.targets["label"].tolist() == [1, 0, 0]
    hidden = data_folder(tmp_path / "hidden", GOOD, [("good", -1), ("bad", -1)])
    shutil.copy(hidden / "train.parquet", hidden / "validation.parquet")
    assert make_text(TextTask(folder=str(hidden))).test.targets["label"].tolist() == [1, 1, 0, 0]
    # A test file with labels is the test part, whatever else there is.
    write_rows(glue / "test.tsv", [("sentence", "label"), ("good", 1)])
    assert len(make_text(TextTask(folder=str(glue))).test) == 1


def test_labels_are_whole_numbers_or_names(tmp_path):
    three = [("good", 2), ("so so", 1), ("bad", 0)] * 2
    data = make_text(TextTask(folder=str(data_folder(tmp_path / "numbers", three, three[:3]))))
    assert data.outputs["label"].size == 3 and data.test.targets["label"].tolist() == [2, 1, 0]
    names = ["bad", "fair", "good"]
    named = [(text, names[label]) for text, label in three]
    for folder in (data_folder(tmp_path / "names", named, named[:3]), tmp_path / "tsv"):
        if folder.name == "tsv":
            write_rows(folder / "train.tsv", [("text", "mood"), *named])
            write_rows(folder / "test.tsv", [("text", "mood"), *named[:3]])
        assert same(make_text(TextTask(folder=str(folder))), data)
    for rows, match in (
        ([("a", "ugly")], r"test.parquet, row 0: label 'ugly': expected one of bad, fair, good"),
        ([("a", "good"), ("a", None)], r"test.parquet, row 1: label None: expected one of"),
    ):
        with pytest.raises(InputError, match=match):
            make_text(TextTask(folder=str(data_folder(tmp_path / match[-9:-3].strip("(:"), named, rows))))
    with pytest.raises(InputError, match=r"test.parquet, row 1: label 3: expected 0 to 2"):
        make_text(TextTask(folder=str(data_folder(tmp_path / "high", three, [("a", 1), ("b", 3)]))))
    with pytest.raises(InputError, match=r"every row has the label 'x'; at least two labels are needed"):
        make_text(TextTask(folder=str(data_folder(tmp_path / "one", [("a", "x"), ("b", "x")], named))))
    write_rows(tmp_path / "typo" / "train.tsv", [("text", "label"), *GOOD, ("bad", "O")])
    write_rows(tmp_path / "typo" / "test.tsv", [("text", "label"), *GOOD])
    with pytest.raises(InputError, match=r"train.tsv, row 4: label 'O': expected 0 or 1"):
        make_text(TextTask(folder=str(tmp_path / "typo"), classes=2))


def test_damaged_rows_of_text_files_are_one_sentence(tmp_path):
    write_rows(tmp_path / "test.tsv", GOOD)
    for content, match in (
        (b"good\t1\nbad\n", r"train.tsv, line 2 .*: 1 columns, but the first has 2"),
        (b"\n\n", r"train.tsv has no rows"),
        (b"text\tlabel\n", r"train.tsv has no rows"),
        (b"caf\xe9\t1\n", r"train.tsv is not UTF-8 text \(byte 3\)"),
        (b"good\tpos\nbad\tneg\n", r"its columns are 1, 2, and which is the text and which the label is not clear; name them"),
    ):
        (tmp_path / "train.tsv").write_bytes(content)
        with pytest.raises(InputError, match=match):
            make_text(TextTask(folder=str(tmp_path)))


def test_pig_latin_of_words():
    known = {
        "string": "ingstray", "apple": "appleway", "queen": "eenquay", "square": "aresquay", "yes": "esyay", "my": "ymay",
        "rhythm": "ythmrhay", "it's": "it'sway", "don't": "on'tday", "10": "10way", "3d": "3dway", "hmm": "hmmay", "a": "away",
    }  # fmt: skip
    assert {word: pig_latin(word) for word in known} == known


def test_both_languages_are_the_same_texts_in_disjoint_ids(tmp_path):
    rng = np.random.default_rng(0)
    vocabulary = ["good", "bad", "apple", "string", "queen", "the", "film"]
    train, test = ([(" ".join(rng.choice(vocabulary, size=rng.integers(1, 9))), i % 2) for i in range(size)] for size in (40, 12))
    task = TextTask(folder=str(data_folder(tmp_path / "d", train, [*test, ("unseen good", 0), ("", 1)])), length=5, vocabulary=7)
    english, latin = make_piglatin(task)
    plain = make_text(task)
    assert english.vocabulary == latin.vocabulary == 1 + 6 + 6 and plain.vocabulary == 7  # 5 of the 7 words, unknown, padding
    for part in plain.PARTS:
        a, b, c = (getattr(data, part) for data in (plain, english, latin))
        assert torch.equal(a.inputs, b.inputs) and torch.equal(b.lengths_N, c.lengths_N)
        assert torch.equal(a.targets["label"], b.targets["label"]) and torch.equal(b.targets["label"], c.targets["label"])
        assert set(b.inputs.unique().tolist()) <= {0, *range(1, 7)} and set(c.inputs.unique().tolist()) <= {0, *range(7, 13)}
        assert torch.equal(b.inputs == PADDING, c.inputs == PADDING)
    assert english.test.inputs[-1].tolist() == [1, 0, 0, 0, 0] and latin.test.inputs[-1].tolist() == [7, 0, 0, 0, 0]  # an empty text
    # With every word in the vocabulary, and no two words of one form here, the same place holds the same word: one to one.
    english, latin = make_piglatin(TextTask(folder=task.folder))
    assert english.vocabulary == 1 + 8 + 8
    pairs = {
        pair for part in plain.PARTS for pair in zip(*(getattr(d, part).inputs.ravel().tolist() for d in (english, latin)), strict=True)
    }
    assert len(pairs) == 9 and len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 9 and {(0, 0), (1, 9)} <= pairs
