"""Populations on a storage that is given by a URI: a real S3 server on loopback, through pyarrow's S3 filesystem."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import pytest
import torch
from pyarrow import fs
from small_population import make_specs
from test_faults import weights

from dynamo_dist import InputError, MetaModel, MetaModelConfig, Population, storage, train_meta_model, train_population
from dynamo_dist.analysis import reparameterized
from dynamo_dist.cli import main
from dynamo_dist.commit import Corrupted, read_lines
from dynamo_dist.metamodel import checkpoint, folder
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard
from dynamo_dist.pipeline import train_meta_models
from dynamo_dist.population import scheduling
from dynamo_dist.population.reuse import reuse
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.population.work import train_and_commit
from dynamo_dist.progress import leave
from dynamo_dist.runfolder import claim
from dynamo_dist.runtime import LocalRuntime, open_runtime

with warnings.catch_warnings():  # moto's own imports
    warnings.simplefilter("ignore")
    ThreadedMotoServer = pytest.importorskip("moto.server", reason="moto[server] is not installed").ThreadedMotoServer


class Server:
    """An S3 server with one bucket. All of a process have the same objects."""

    def __init__(self) -> None:
        self.start(port=0)
        self.port = self.server.get_host_and_port()[1]
        self.query = f"scheme=http&endpoint_override=localhost:{self.port}"
        self.files = fs.S3FileSystem(allow_bucket_creation=True, scheme="http", endpoint_override=f"localhost:{self.port}")
        self.files.create_dir("bucket")

    def start(self, port):
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        self.server.start()

    def stop(self):
        self.server.stop()

    def uri(self, name, bucket="bucket"):
        return f"s3://{bucket}/{name}?{self.query}"

    def names(self, folder):
        found = self.files.get_file_info(fs.FileSelector(f"bucket/{folder}", recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"bucket/{folder}/") for info in found if info.type == fs.FileType.File)

    def read(self, name):
        with self.files.open_input_stream(f"bucket/{name}") as file:
            return file.read()

    def write(self, name, content):
        with self.files.open_output_stream(f"bucket/{name}") as file:
            file.write(content)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Credentials, and a mirror of the test's own."""
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    another_machine(monkeypatch, tmp_path, "mirrors")


def another_machine(monkeypatch, tmp_path, name):
    """From here on, this process has the mirrors of another machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


@pytest.fixture(scope="module")
def s3():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = Server()
    yield server
    server.stop()


@pytest.fixture(params=["s3", "file"])
def where(request, s3, tmp_path):
    """The URI of a folder that is not there yet."""
    return s3.uri(f"{tmp_path.name}/run") if request.param == "s3" else f"file://{tmp_path}/run"


def assert_same(where, reference):
    ours, theirs = weights(where), weights(reference)
    assert ours.keys() == theirs.keys()
    for id, tensors in theirs.items():
        assert all(torch.equal(ours[id][name], tensor) for name, tensor in tensors.items()), id


def test_a_population_on_a_storage_is_that_of_a_folder(where, valence, population, tmp_path, monkeypatch):
    store = train_population(Population.create(where, make_specs(valence), valence))
    assert_same(where, population.path)
    another_machine(monkeypatch, tmp_path, "reader")
    assert_same(where, population.path)
    again = Population.open(where)
    drop = ["curve"]
    assert again.table().drop_columns(drop).equals(population.table().drop_columns(drop))
    assert again.remaining() == [] and again.committed() == store.committed()
    assert torch.equal(again.data.test.inputs, valence.test.inputs)
    # The same one is found again, another one is refused.
    assert Population.create(where, make_specs(valence), valence).remaining() == []
    with pytest.raises(InputError, match="holds a population of other networks"):
        Population.create(where, make_specs(valence, networks=1), valence)


def test_a_path_and_a_file_uri_are_the_folder_itself(tmp_path):
    assert storage.local(tmp_path) == storage.local(str(tmp_path)) == storage.local(f"file://{tmp_path}") == tmp_path
    assert storage.address(tmp_path) == str(tmp_path) and not storage.mirrored(tmp_path)


def test_a_uri_and_the_mirror_of_its_folder_lead_to_each_other(tmp_path):
    for uri in ("s3://bucket", "s3://bucket/a/b%20c", "s3://bucket/run?region=eu-north-1", "gs://bucket/run"):
        mirror = storage.local(uri)
        assert mirror.is_relative_to(tmp_path) and storage.address(mirror) == uri and not mirror.exists()
    assert storage.local("s3://bucket/run?region=eu-north-1") != storage.local("s3://bucket/run")
    assert storage.address(storage.local("s3://bucket/run/?region=x") / "population") == "s3://bucket/run/population?region=x"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("s3://user:geheim@bucket/run", r"^s3://bucket/run: no credentials in a URI, .*: give them in the environment$"),
        ("s3://bucket/run?access_key=geheim", "^s3://bucket/run: no credentials in a URI"),
        ("abfs://box@account/run?sas_token=geheim", "no credentials in a URI"),
        ("s3://bucket/../run", "expected s3://BUCKET/FOLDER, without"),
        ("s3://bucket/.hidden/run", "names that are empty or begin with a dot"),
        ("s3://bucket/a//b", "expected s3://BUCKET/FOLDER"),
        ("s3:///run", "expected s3://BUCKET/FOLDER"),
        ("S3://bucket/../run", "expected s3://BUCKET/FOLDER"),
        ("s3://[bucket/run", "this is no URI .*: expected one such as s3://BUCKET/FOLDER"),
        ("file://host/run", "expected file:///FOLDER"),
        (Path("s3://bucket/run"), "give a URI as text: a Path loses its second slash"),
        ("nothing://bucket/run", "no URI that pyarrow reads .*: expected one such as s3://BUCKET/FOLDER"),
        ("s3://bucket/run?nothing=1", "no URI that pyarrow reads"),
    ],
)
def test_a_wrong_uri_is_one_sentence_and_tells_no_secret(wrong, message):
    with pytest.raises(InputError, match=message) as error:
        Population.open(wrong)
    assert "geheim" not in str(error.value) and "\n" not in str(error.value)


def test_a_mirror_that_cannot_be_made_is_one_sentence(s3, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    another_machine(monkeypatch, tmp_path, "file")
    with pytest.raises(InputError, match=r"the mirror, cannot be made \(Not a directory\): let XDG_CACHE_HOME name a local folder$"):
        Population.open(s3.uri("run"))


def test_the_manifest_is_the_last_object_of_each_chunk_and_the_header_of_all(s3, valence, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "werkzeug"):
        train_population(Population.create(s3.uri(f"{tmp_path.name}/run"), make_specs(valence), valence))
    requests = [re.search(r'"(\w+) /bucket/[^/ ]*/run/([^ ?]*)(\S*) HTTP', record.getMessage()) for record in caplog.records]
    written = [found[2] for found in requests if found and found[1] == "PUT"]
    base = ["data/data.safetensors", "specs.parquet", "plan.parquet", "population.json"]
    assert written[:4] == base
    # Signs of life come and go; what remains is written once.
    signs = [name for name in written if name.startswith("progress/")]
    done = [name for name in written[4:] if name not in signs]
    assert sum(name.endswith(".json") for name in signs) == 2 and not [
        n for n in s3.names(f"{tmp_path.name}/run") if n.startswith("progress/")
    ]
    assert len(done) == 8
    for chunk in (done[:4], done[4:]):
        name = chunk[2].split("/")[1]
        assert set(chunk[:2]) == {f"chunks/{name}/weights.safetensors", f"chunks/{name}/results.parquet"}
        assert chunk[2] == f"chunks/{name}/manifest.json"
        assert re.fullmatch(rf"journal/[04]-[24]-{name}\.json", chunk[3])


def test_chunks_without_a_manifest_are_trained_again(s3, valence, population, tmp_path):
    """A worker that was killed while it wrote left some of the files."""
    name = f"{tmp_path.name}/run"
    store = Population.create(s3.uri(name), make_specs(valence), valence)
    for chunk in store.committed() or store.remaining():
        s3.write(f"{name}/chunks/{store.chunk_name(store.chunk_specs(chunk))}/weights.safetensors", b"half")
    assert store.table().num_rows == 0
    train_population(store)
    assert_same(s3.uri(name), population.path)


def test_two_writers_of_a_chunk_are_harmless(s3, valence, population, tmp_path, monkeypatch):
    uri = s3.uri(f"{tmp_path.name}/run")
    store = Population.create(uri, make_specs(valence), valence)
    chunks = store.remaining()
    for chunk in chunks:
        train_and_commit(uri, chunk)
    objects = s3.names(f"{tmp_path.name}/run")
    # The one that was taken for lost writes too, on another machine, as it has not seen the other's.
    another_machine(monkeypatch, tmp_path, "lost")
    with monkeypatch.context() as patched:
        patched.setattr(Population, "is_committed", lambda *_: False)
        for chunk in chunks:
            train_and_commit(uri, chunk)
    assert s3.names(f"{tmp_path.name}/run") == objects
    # One that comes later does nothing: what is not recorded is not trained again if it is there.
    monkeypatch.setattr("dynamo_dist.population.work.train_chunk", None)
    another_machine(monkeypatch, tmp_path, "late")
    train_population(Population(uri))
    assert_same(uri, population.path)


def test_networks_of_a_storage_are_reused(s3, valence, population, tmp_path, monkeypatch):
    """Of a run there for another one there, and of a folder for one there."""
    uri = s3.uri(f"{tmp_path.name}/one/population")
    train_population(Population.create(uri, make_specs(valence), valence))
    another_machine(monkeypatch, tmp_path, "other")
    monkeypatch.setattr("dynamo_dist.population.work.train_chunk", None)
    for number, source in enumerate((storage.local(s3.uri(f"{tmp_path.name}/one")), population.path)):
        store = Population.create(s3.uri(f"{tmp_path.name}/another-{number}"), make_specs(valence), valence)
        assert reuse(store, [source]) == {source: 6}
        assert_same(store.path, population.path)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_object_is_named_and_its_chunk_trained_again(s3, valence, population, tmp_path, monkeypatch, capsys, damage):
    uri, folder = s3.uri(f"{tmp_path.name}/run"), f"{tmp_path.name}/run"
    train_population(Population.create(uri, make_specs(valence), valence))
    file = next(name for name in s3.names(folder) if name.endswith("manifest.json" if damage == "manifest" else "weights.safetensors"))
    content = s3.read(f"{folder}/{file}")
    if damage in ("remove", "manifest"):
        s3.files.delete_file(f"bucket/{folder}/{file}")
    else:
        middle = len(content) // 2
        s3.write(
            f"{folder}/{file}",
            content[:-1] if damage == "truncate" else content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        )
    another_machine(monkeypatch, tmp_path, "other")
    named = re.escape(f"s3://bucket/{folder}/{Path(file).parent if damage == 'manifest' else file}?{s3.query}")
    with pytest.raises(Corrupted, match=f"^{named} .*; continue the run with --resume to make it again$"):
        Population.open(uri)
    if damage != "manifest":  # readers of some of it see it too
        with pytest.raises(Corrupted, match=f"^{named} "):
            list(Population(uri).stacks())
    train_population(Population(uri))
    assert re.search(f"{named} .*; its networks are trained again", capsys.readouterr().err)
    assert_same(uri, population.path)
    assert s3.read(f"{folder}/{file}")[:64] == content[:64]
    # A machine that had seen it before finds the new one.
    another_machine(monkeypatch, tmp_path, "mirrors")
    assert_same(uri, population.path)


def test_signs_of_life_reach_the_command_on_another_machine(s3, valence, tmp_path, monkeypatch):
    uri = s3.uri(f"{tmp_path.name}/run")
    store = Population.create(uri, make_specs(valence), valence)
    note = store.path / "progress" / "0.json"
    note.parent.mkdir()
    leave(note, label="4 gru-7", networks=4, step=7, steps=48, loss=0.5, rate=100.0)
    storage.publish(note)
    another_machine(monkeypatch, tmp_path, "command")
    store, count = Population(uri), scheduling._Count(total=6, done=0, cost=6.0)
    assert scheduling._progress(store, count) == "population: 0/6 done; workers are starting"
    count.fetched -= scheduling.FETCH
    assert "4 gru-7 step 7/48 loss 0.500; 100 examples/s" in scheduling._progress(store, count)
    # What a command that was killed left is no sign of anyone's life.
    train_population(store)
    assert not [name for name in s3.names(f"{tmp_path.name}/run") if name.startswith("progress/")]


def test_no_object_is_written_outside_of_the_mirror(s3, valence, tmp_path):
    store = Population.create(s3.uri(f"{tmp_path.name}/run"), make_specs(valence), valence)
    for key in (f"{tmp_path.name}/run/chunks/../../../evil", f"{tmp_path.name}/run/chunks/.hidden/evil"):
        request = urllib.request.Request(f"http://localhost:{s3.port}/bucket/{key}", b"evil", {"Authorization": "AWS x:y"}, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
    storage.fetch(store.path / "chunks")
    storage.fetch(store.path)
    assert not list(tmp_path.rglob("evil"))


def test_a_mirror_follows_what_others_do_to_the_storage(s3, valence, population, tmp_path, monkeypatch):
    uri = s3.uri(f"{tmp_path.name}/run")
    train_population(Population.create(uri, make_specs(valence), valence))
    another_machine(monkeypatch, tmp_path, "other")
    storage.remove(storage.local(uri))
    assert s3.names(f"{tmp_path.name}/run") == []
    train_population(Population.create(uri, make_specs(valence, networks=1), valence))
    another_machine(monkeypatch, tmp_path, "mirrors")
    assert len(Population.open(uri)) == 3
    storage.remove(storage.local(uri))
    with pytest.raises(InputError, match=f"^{re.escape(uri)} holds no population"):
        Population.open(uri)


def test_a_bucket_that_is_not_there_is_named(s3, valence):
    for function in (Population.open, lambda uri: Population.create(uri, make_specs(valence), valence)):
        with pytest.raises(
            InputError, match=r"^s3://nowhere/run/population.json\?\S*: there is no bucket 'nowhere': make it first, or correct the URI$"
        ):
            function(s3.uri("run", bucket="nowhere"))


@pytest.mark.parametrize("wrong", ["missing", "unknown"])
def test_wrong_credentials_are_one_sentence(s3, valence, monkeypatch, tmp_path, wrong):
    def know_everybody(after):
        """0: only users of its own from now on; inf: everyone who signs."""
        request = urllib.request.Request(f"http://localhost:{s3.port}/moto-api/reset-auth", after.encode(), {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=10).close()

    if wrong == "missing":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
    know_everybody("inf" if wrong == "missing" else "0")
    try:
        with pytest.raises(
            InputError, match=r"^s3://bucket/refused/\S+: access is refused: credentials come from the environment, for S3 .*role$"
        ):
            Population.create(s3.uri("refused"), make_specs(valence), valence)
    finally:
        know_everybody("inf")


def test_when_the_server_goes_the_run_ends_with_one_sentence_and_goes_on_later(valence, population, tmp_path):
    """It stops between two chunks and comes back: what was committed is not made again."""
    server = Server()
    uri = server.uri("run")
    store = Population.create(uri, make_specs(valence), valence)
    done = []

    def work(path, chunk):
        if done:
            server.stop()
        done.append(train_and_commit(path, chunk))
        return done[-1]

    with pytest.raises(
        InputError, match=r"^s3://bucket/run/\S*: the storage failed \(.*\); what was committed there stays: continue with --resume$"
    ):
        train_remaining(store, LocalRuntime(), work=work)
    server.start(server.port)
    assert [name for name in store.committed()] == done
    manifest = server.read(f"run/chunks/{done[0]}/manifest.json")
    train_population(Population(uri))
    assert_same(uri, population.path)
    assert server.read(f"run/chunks/{done[0]}/manifest.json") == manifest
    server.stop()


CONFIG = MetaModelConfig(dimensions=3, hidden=10, embedding=4, steps=30, batch=16, checkpoint_every=10)


def assert_same_meta_model(where, reference, step=30):
    """Parameters, vectors and moments of the newest checkpoint, bit for bit."""
    ours, theirs = (
        {**checkpoint.read_shared(folder), **checkpoint.read_private(folder)}
        for folder in (checkpoint.step_path(MetaModel.open(path).path, step) for path in (where, reference))
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.fixture(scope="module")
def meta(population, tmp_path_factory):
    """A meta-model in a folder."""
    return train_meta_model(population, tmp_path_factory.mktemp("meta"), config=CONFIG, activations="recompute").path


def test_a_meta_model_on_a_storage_is_that_of_a_folder(s3, valence, population, meta, tmp_path, monkeypatch):
    uri, folder = s3.uri(f"{tmp_path.name}/run/meta"), f"{tmp_path.name}/run/meta"
    of = train_population(Population.create(s3.uri(f"{tmp_path.name}/run/population"), make_specs(valence), valence))
    train_meta_model(of, uri, config=CONFIG, activations="cache")
    names = s3.names(folder)
    assert {name.split("/")[0] for name in names} == {
        "activations.json", "meta.json", "metrics.parquet", "notes.json", "progress.jsonl", "step-00000020", "step-00000030",
    }  # fmt: skip
    assert json.loads(s3.read(f"{folder}/meta.json"))["population"] == "../population"
    assert not list(tmp_path.rglob("*.arrow"))
    another_machine(monkeypatch, tmp_path, "reader")
    opened, reference = MetaModel.open(uri), MetaModel.open(meta)
    assert opened.population_path == storage.local(s3.uri(f"{tmp_path.name}/run/population"))
    assert opened.network_ids == reference.network_ids and opened.population.network_ids == population.network_ids
    # It is trained already.
    monkeypatch.setattr("dynamo_dist.runtime.local.train_shard", None)
    again = train_meta_model(Population.open(opened.population_path), uri, config=CONFIG, activations="cache")
    assert (again.embedding == opened.embedding).all() and s3.names(folder) == names


def test_a_meta_model_goes_on_from_the_newest_checkpoint_on_another_machine(s3, population, meta, tmp_path, monkeypatch):
    """Stopped after step 24, with lines of the record that no checkpoint has; the newest checkpoint is damaged or half uploaded."""
    uri, folder_name = s3.uri(f"{tmp_path.name}/meta"), f"{tmp_path.name}/meta"
    job = TrainingJob(population=str(population.path), out=uri, config=CONFIG, activations="recompute", cache=uri)
    folder.prepare(storage.local(uri), population, CONFIG)

    def stop(step):
        if step == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_shard(job, group=Alone(), after_step=stop)
    assert json.loads(s3.read(f"{folder_name}/meta.json"))["population"] == str(population.path)
    s3.write(f"{folder_name}/step-00000020/shared.safetensors", s3.read(f"{folder_name}/step-00000020/shared.safetensors")[:-1])
    s3.write(f"{folder_name}/step-00000030/networks-00007.safetensors", b"of another attempt")
    another_machine(monkeypatch, tmp_path, "resumed")
    begun = []
    train_shard(job, group=Alone(), after_step=begun.append)
    assert begun[0] == 11
    assert_same_meta_model(uri, meta)
    lines = [json.loads(line)["step"] for line in s3.read(f"{folder_name}/progress.jsonl").splitlines()]
    assert lines == [10, 20, 25, 30]
    # The machine where it was stopped finds what the other one did.
    another_machine(monkeypatch, tmp_path, "mirrors")
    assert_same_meta_model(uri, meta)
    assert [line["step"] for line in read_lines(MetaModel.open(uri).path / folder.PROGRESS)] == lines


def test_the_manifest_is_the_last_object_of_each_checkpoint(s3, population, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "werkzeug"):
        train_meta_model(population, s3.uri(f"{tmp_path.name}/meta"), config=CONFIG, activations="recompute")
    requests = [re.search(r'"(\w+) /bucket/[^/ ]*/meta/([^ ?]*)(\S*) HTTP', record.getMessage()) for record in caplog.records]
    written = [
        found[2] for found in requests if found and found[1] == "PUT" and found[2].startswith("step-") and not found[2].endswith("/")
    ]
    for number, step in enumerate((10, 20, 30)):
        own = written[4 * number : 4 * number + 4]
        assert {name.split("/")[0] for name in own} == {f"step-{step:08d}"} and own[-1].endswith("/manifest.json")
        assert {name.split("/")[1] for name in own[:-1]} == {"shared.safetensors", "networks-00000.safetensors", "state.json"}


def test_when_the_server_goes_a_meta_model_ends_with_one_sentence_and_goes_on_later(population, meta, tmp_path):
    server = Server()
    uri = server.uri(f"{tmp_path.name}/meta")
    job = TrainingJob(population=str(population.path), out=uri, config=CONFIG, activations="recompute", cache=uri)
    folder.prepare(storage.local(uri), population, CONFIG)
    with pytest.raises(
        InputError, match=r"^s3://bucket/\S*: the storage failed \(.*\); what was committed there stays: continue with --resume$"
    ):
        train_shard(job, group=Alone(), after_step=lambda step: server.stop() if step == 15 else None)
    server.start(server.port)
    begun = []
    train_shard(job, group=Alone(), after_step=begun.append)
    assert begun[0] == 11
    assert_same_meta_model(uri, meta)
    server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_ray_workers_fill_a_storage_as_they_fill_folders(s3, valence, population, tmp_path, monkeypatch):
    uri = s3.uri(f"{tmp_path.name}/population")
    store = Population.create(uri, make_specs(valence), valence)
    metas = {tmp_path / "meta": population, storage.local(s3.uri(f"{tmp_path.name}/meta")): store}
    with open_runtime(2) as runtime:
        train_remaining(store, runtime)
        for path, of in metas.items():
            train_meta_models(Population.open(of.path), {path: CONFIG}, runtime, activations="recompute")
    another_machine(monkeypatch, tmp_path, "reader")
    assert_same(uri, population.path)
    assert_same_meta_model(s3.uri(f"{tmp_path.name}/meta"), tmp_path / "meta")
    assert not [name for name in s3.names(tmp_path.name) if "ray-train" in name]


WORKER = """
import os
import signal
import sys

os.environ["XDG_CACHE_HOME"] += os.environ["RANK"]
from dynamo_dist.cli import main
from dynamo_dist.metamodel import checkpoint

if "DIES" in os.environ:
    finish = checkpoint.finish

    def dangerous(temporary, path, state, others):
        if state["step"] == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        finish(temporary, path, state, others)

    checkpoint.finish = dangerous

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_workers_on_several_machines_write_one_checkpoint(s3, valence, population, tmp_path, monkeypatch):
    """Two processes of torchrun, each with a mirror of its own. One is killed when both have written their parts of a checkpoint, and other
    machines go on; against two that share a folder."""
    (tmp_path / "worker.py").write_text(WORKER)
    uri, name = s3.uri(f"{tmp_path.name}/meta"), f"{tmp_path.name}/meta"
    of = train_population(Population.create(s3.uri(f"{tmp_path.name}/population"), make_specs(valence), valence))
    settings = [f"{name}={getattr(CONFIG, name)}" for name in ("dimensions", "hidden", "embedding", "steps", "batch", "checkpoint_every")]
    options = ["--activations", "recompute", *(part for setting in settings for part in ("--set", setting))]

    def embed(population, out, *more, **environment):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "worker.py"), "embed"]
        command += [population, "--out", out, *options, *more]
        return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=400)

    calm = embed(str(population.path), str(tmp_path / "meta"))
    assert calm.returncode == 0, calm.stderr
    assert embed(storage.address(of.path), uri, DIES="yes").returncode != 0
    assert f"step-{10:08d}/manifest.json" in s3.names(name)
    assert [file for file in s3.names(name) if file.startswith(f"step-{20:08d}")] == [f"step-{20:08d}/networks-00001.safetensors"]
    another_machine(monkeypatch, tmp_path, "resumed")
    resumed = embed(storage.address(of.path), uri, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    another_machine(monkeypatch, tmp_path, "reader")
    assert_same_meta_model(uri, tmp_path / "meta")
    files = ["manifest.json", "networks-00000.safetensors", "networks-00001.safetensors", "shared.safetensors", "state.json"]
    assert s3.names(f"{name}/step-{30:08d}") == files
    assert not list(tmp_path.glob("resumed?/**/.step-*"))


DRIVER = """
import sys

from dynamo_dist import Population, train_population

train_population(Population(sys.argv[1]), workers=2)
"""


def _drive(uri, mirror):
    """A command of another machine that trains the population."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(mirror)}
    return subprocess.Popen([sys.executable, "-c", DRIVER, uri], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
def test_a_killed_run_is_resumed_on_another_machine(s3, valence, tmp_path):
    """SIGKILL of the driver of two Ray workers after the first chunk is recorded. Another machine goes on; against a folder, bit for bit."""
    specs, name = make_specs(valence, networks=3, epochs=10), f"{tmp_path.name}/run"
    uri = s3.uri(name)
    size = {"bytes_per_network": lambda *_: 1 << 62}  # a network a chunk
    calm = train_population(Population.create(tmp_path / "calm", specs, valence, workers=2, **size))
    store = Population.create(uri, specs, valence, workers=2, **size)
    assert len(store.remaining()) == len(specs)
    with _drive(uri, tmp_path / "killed") as process:
        deadline = time.monotonic() + 300
        while not store.committed():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.stderr.close()
    time.sleep(1)  # the workers end with the command
    before = store.committed()
    assert 1 <= len(before) < len(specs)
    manifests = {chunk: s3.files.get_file_info(f"bucket/{name}/chunks/{chunk}/manifest.json").mtime_ns for chunk in before}
    with _drive(uri, tmp_path / "resumed") as process:
        told = process.communicate(timeout=400)[1]
    assert process.returncode == 0, told
    assert f"population: {len(specs) - len(before)} of {len(specs)} networks to train in {uri}" in told
    assert_same(uri, calm.path)
    assert store.committed() == calm.committed()
    after = {chunk: s3.files.get_file_info(f"bucket/{name}/chunks/{chunk}/manifest.json").mtime_ns for chunk in before}
    assert after == manifests


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Creating legend")  # matplotlib tells when the machine is busy
def test_a_run_its_analyses_and_its_report_on_a_storage(s3, tmp_path, monkeypatch, capsys):
    """Each command on another machine; the numbers are those of a folder."""
    uri, name = s3.uri(f"{tmp_path.name}/run"), f"{tmp_path.name}/run"
    command = ["run", "valence", "--size", "tiny", "--workers", "0", "--out"]
    assert main([*command, str(tmp_path / "calm")]) == 0
    capsys.readouterr()
    assert main([*command, uri]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == s3.uri(f"{name}/result.json")
    # People are told of the storage, not of the mirror; but the cache of activations is on this machine.
    assert not [line for line in told.err.splitlines() if str(tmp_path / "mirrors") in line and "/.activations" not in line]
    calm = json.loads((tmp_path / "calm" / "result.json").read_text())
    ours = json.loads(s3.read(f"{name}/result.json"))
    for part in ("population", "meta", "control", "clustering", "averaging", "analyses"):
        assert ours[part] == calm[part], part
    files = {path.relative_to(tmp_path / "calm").as_posix() for path in (tmp_path / "calm").rglob("*") if path.is_file()}
    missing = {file for file in files - set(s3.names(name)) if not file.endswith("journal.jsonl")}
    assert missing == set()

    another_machine(monkeypatch, tmp_path, "analyses")
    assert main([*command, uri]) == 2
    assert re.search(r"--out s3://\S+ already holds a run of valence: continue it with --resume", capsys.readouterr().err)
    assert main([*command, uri, "--resume"]) == 0
    assert main(["analyze", uri, "landscape", "--workers", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == s3.uri(f"{name}/analysis/landscape/summary.json")
    assert {"summary.json", "landscape-0.png"} <= {file.rpartition("/")[2] for file in s3.names(f"{name}/analysis/landscape")}

    another_machine(monkeypatch, tmp_path, "report")
    s3.files.delete_file(f"bucket/{name}/report.html")
    assert main(["report", uri]) == 0
    assert s3.read(f"{name}/report.html").startswith(b"<!DOCTYPE html>")
    another_machine(monkeypatch, tmp_path, "overwritten")
    claim(storage.local(uri), {"name": "another"}, resume=False, overwrite=True)
    assert s3.names(name) == ["run.json"]


@pytest.mark.slow
def test_a_population_is_imported_to_a_storage(s3, population, tmp_path, monkeypatch):
    uri = s3.uri(f"{tmp_path.name}/copies")
    made = reparameterized(population, uri, copies=1)
    assert len(made) == 12 and sum(name.startswith("journal/") for name in s3.names(f"{tmp_path.name}/copies")) == len(made.committed())
    another_machine(monkeypatch, tmp_path, "reader")
    assert_same(uri, reparameterized(population, tmp_path / "here", copies=1).path)
    with pytest.raises(InputError, match=r"^s3://bucket/\S+ exists and is not an empty folder: choose another$"):
        reparameterized(population, uri, copies=1)
