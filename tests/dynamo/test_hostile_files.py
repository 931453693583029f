"""Files from elsewhere that were made to do harm: pickles under other names, absurd lengths, places outside of the folder. Each is refused in
one sentence that names the file, and nothing in it runs."""

import json
import pickle
import shutil
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamo_dist import InputError, MetaModel, Population
from dynamo_dist.commit import sha256
from dynamo_dist.data.folder import open_folder
from dynamo_dist.population.groups import read_groups, specs_of


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was loaded')",))


PICKLE = pickle.dumps(Trap())
NESTED = b"[" * 200_000


def safetensors(header, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


TENSORS = {
    "pickle": PICKLE,
    "header longer than the file": safetensors({}, length=2**63),
    "no JSON": safetensors(NESTED),
    "offsets beyond the end": safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**62]}}),
    "offsets that go backwards": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
    "a shape of more than there is": safetensors({"a": {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 0]}}),
    "other tensors": safetensors({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    "empty": b"",
}
PARQUET = {
    "pickle": PICKLE,
    "a footer longer than the file": b"PAR1" + struct.pack("<I", 2**31 - 1) + b"PAR1",
    "no footer": b"PAR1",
    "noise": b"PAR1" + bytes(range(256)) * 4 + struct.pack("<I", 512) + b"PAR1",
    "empty": b"",
}
TEXTS = {"pickle": PICKLE, "nested": NESTED, "a list": b"[]", "a number": b"1e400", "no text": b"\xff\xfe\x00", "empty": b"{}"}


def table(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def cases(name, kinds):
    return [pytest.param(name, content, id=f"{name}-{kind}") for kind, content in kinds.items()]


POPULATION = [
    *cases("population.json", TEXTS | {"data elsewhere": json.dumps({"format": 2, "networks": 6, "data": {"../x": "0"}}).encode()}),
    *cases("specs.parquet", PARQUET | {"other columns": table(a=[1])}),
    *cases(
        "plan.parquet",
        PARQUET
        | {
            "other columns": table(a=[1]),
            "rows beyond": table(row=[10**12] * 6, chunk=[0] * 6, cost=[1.0] * 6),
            "a row twice": table(row=[0, 0, 1, 2, 3, 4], chunk=[0] * 6, cost=[1.0] * 6),
            "none": table(row=np.zeros(0, int), chunk=np.zeros(0, int), cost=np.zeros(0)),
        },
    ),
    *cases(
        "journal.jsonl",
        {
            "elsewhere": b'{"chunk":"../../etc","first":0,"networks":6}\n',
            "negative": b'{"chunk":"a","first":-6,"networks":6}\n',
            "absurd": b'{"chunk":"a","first":0,"networks":1000000000000000000000}\n',
            "a list": b"[1, 2]\n",
            "pickle": PICKLE + b"\n{}\n",
            "nested": NESTED + b"\n{}\n",
        },
    ),
    *cases("data/data.safetensors", TENSORS),
    *cases("weights.safetensors", TENSORS),
    *cases("results.parquet", PARQUET | {"other columns": table(a=[1])}),
    *cases("manifest.json", TEXTS | {"elsewhere": json.dumps({"files": {"../../population.json": {"bytes": 1, "sha256": ""}}}).encode()}),
]


def seal_again(folder):
    """The manifest of what is there now: whoever made the files made it too."""
    files = [file for file in folder.iterdir() if file.name != "manifest.json"]
    entries = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}
    (folder / "manifest.json").write_text(json.dumps({"files": entries}))


def read_everything(path):
    population = Population.open(path)
    assert len(population.data.base) > 0
    population.table()
    list(population.stacks())


def assert_refused(read, file):
    with pytest.raises(InputError) as caught:
        read()
    told = str(caught.value)
    assert file in told and "\n" not in told and len(told) < 600, told


@pytest.mark.parametrize(("name", "content"), POPULATION)
def test_a_population(population, tmp_path, name, content):
    path = tmp_path / "p"
    shutil.copytree(population.path, path)
    chunk = next((path / "chunks").iterdir())
    inside = (chunk / name).exists()
    (chunk if inside else path).joinpath(name).write_bytes(content)
    if inside and name != "manifest.json":
        seal_again(chunk)
    assert_refused(lambda: read_everything(path), name)


META = [
    *cases("meta.json", TEXTS),
    *cases("state.json", TEXTS),
    *cases("shared.safetensors", TENSORS),
    *cases("networks-00000.safetensors", TENSORS),
    *cases("manifest.json", {kind: TEXTS[kind] for kind in ("pickle", "nested", "a list")}),
]


@pytest.mark.parametrize(("name", "content"), META)
def test_a_meta_model(sequence_meta, tmp_path, name, content):
    shutil.copytree(sequence_meta.path, tmp_path / "meta")
    header = json.loads((tmp_path / "meta" / "meta.json").read_text())
    header["population"] = str(sequence_meta.population.path.resolve())
    (tmp_path / "meta" / "meta.json").write_text(json.dumps(header))
    if name == "meta.json":
        (tmp_path / "meta" / name).write_bytes(content)
    for step in (tmp_path / "meta").glob("step-*"):
        if (step / name).exists():
            (step / name).write_bytes(content)
            if name != "manifest.json":
                seal_again(step)
    assert_refused(lambda: MetaModel.open(tmp_path / "meta").embedding, "meta")


@pytest.mark.parametrize("content", [PICKLE, *PARQUET.values()], ids=["code", *PARQUET])
def test_data(tmp_path, content):
    (tmp_path / "train.parquet").write_bytes(content)
    (tmp_path / "test.parquet").write_bytes(content)
    assert_refused(lambda: open_folder(tmp_path), "train.parquet")


@pytest.mark.parametrize(
    "architecture",
    [
        '{family = "os:system"}',
        '{family = "recurrent", cell = "__import__", hidden = 3}',
        '{family = "recurrent", cell = "gru", hidden = "3"}',
    ],
)
def test_groups_with_code_in_them(tmp_path, population, architecture):
    file = tmp_path / "groups.toml"
    file.write_text(f'[[group]]\nname = "a"\nnetworks = 2\narchitecture = {architecture}\nepochs = 1\n')
    assert_refused(lambda: list(specs_of(read_groups(file), population.data)), "a")


@pytest.mark.parametrize("content", [PICKLE, NESTED, b"[[group]]\nname = {{7*7}}", b"\x00"], ids=["pickle", "nested", "template", "zero"])
def test_groups_that_are_no_toml(tmp_path, content):
    (tmp_path / "groups.toml").write_bytes(content)
    assert_refused(lambda: read_groups(tmp_path / "groups.toml"), "groups.toml")
