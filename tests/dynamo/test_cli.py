"""The command as users meet it: results, wrong input, interrupts."""

import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dynamo_dist import MetaModel, Population, recipes
from dynamo_dist.cli import main, parser

COMMAND = str(Path(sys.executable).parent / "dynamo-dist")
RESULT_KEYS = (
    "population.networks population.accuracy meta.hidden_r2_min meta.hidden_r2_median meta.agreement_min meta.agreement_median "
    "meta.disputed_agreement_median control.disputed_agreement_median clustering.adjusted_rand clustering.adjusted_rand_architecture "
    "averaging.within averaging.across averaging.random_theta seconds.population seconds.meta seconds.analysis seconds.total"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run in one process."""
    out = tmp_path_factory.mktemp("runs") / "valence"
    assert main(["run", "valence", "--size", "tiny", "--workers", "0", "--out", str(out)]) == 0
    return out


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(capsys, *arguments):
    """Exit status 2 and one sentence, which is returned."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("[")]
    assert len(lines) == 1 and lines[0].startswith("dynamo-dist")
    return lines[0]


def test_result_has_the_promised_keys_and_the_page_shows_them(run):
    result = json.loads((run / "result.json").read_text())
    for key in RESULT_KEYS:
        value = result
        for part in key.split("."):
            value = value[part]
    assert result["population"]["networks"] == 8
    page = (run / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and f"{result['meta']['hidden_r2_median']:.4f}" in page
    shown = json.loads(re.search(r'<script type="application/json" id="numbers">(.*?)</script>', page, re.DOTALL)[1])
    assert shown["result"] == result and len(shown["networks"]["theta"]) == 8
    for name in ("embedding", "disputed", "training"):
        assert all((run / "figures" / f"{name}.{kind}").stat().st_size > 1000 for kind in ("png", "svg", "pdf"))


def test_a_meta_model_has_a_page_of_its_own(run, tmp_path, capsys):
    out = tmp_path / "meta"
    command = ["embed", str(run / "population"), "--out", str(out), "--workers", "0", "--set", "steps=4", "--set", "dimensions=2"]
    assert main(command) == 0 and main(["report", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report.html")
    page = (out / "report.html").read_text()
    assert "Map of the networks" in page and "Emulation" not in page.partition("<script")[0]


def test_population_and_meta_model_open_from_the_run(run):
    population, meta = Population.open(run / "population"), MetaModel.open(run / "meta-0")
    assert meta.network_ids == population.network_ids
    assert np.array_equal(np.load(run / "embedding.npz")["embedding"], meta.embedding)
    table = pq.read_table(run / "networks.parquet")
    assert table["id"].to_pylist() == list(meta.network_ids)


def test_the_result_is_one_line_of_json_on_request(run, capsys):
    assert main(["run", "valence", "--size", "tiny", "--workers", "0", "--out", str(run), "--resume", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(run / "result.json")
    assert json.loads(lines[-1]) == json.loads((run / "result.json").read_text())


def test_an_existing_run_is_neither_mixed_nor_lost(run, capsys):
    before = snapshot(run)
    message = refused(capsys, "run", "valence", "--size", "tiny", "--workers", "0", "--out", run)
    assert "already holds a run of valence: continue it with --resume, or replace it with --overwrite" in message
    assert "holds another run" in refused(capsys, "run", "valence", "--workers", "0", "--out", run, "--resume")
    assert "exclude each other" in refused(
        capsys, "run", "valence", "--size", "tiny", "--out", run, "--resume", "--overwrite", "--workers", "0"
    )
    assert snapshot(run) == before


def test_a_folder_of_something_else_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years")
    message = refused(capsys, "run", "valence", "--size", "tiny", "--workers", "0", "--out", tmp_path, "--overwrite")
    assert "is not empty and holds no run" in message
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_wrong_input_is_one_sentence_and_touches_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    known = ", ".join(recipes.RECIPES)
    assert f"unknown recipe 'valance': the recipes are {known}" in refused(capsys, "run", "valance", "--out", out)
    assert "unknown size 'huge': the sizes are tiny, small" in refused(capsys, "run", "valence", "--size", "huge", "--out", out)
    assert "needs --data DIR" in refused(capsys, "run", "imdb-amount", "--out", out)
    assert "nowhere: no such folder" in refused(capsys, "run", "imdb-amount", "--data", tmp_path / "nowhere", "--out", out)
    assert "expected at least 0 workers" in refused(capsys, "run", "valence", "--workers", "-1", "--out", out)
    assert "--workers 999: this machine has" in refused(capsys, "run", "valence", "--workers", "999", "--out", out)
    assert "required: --out" in refused(capsys, "run", "valence")
    assert "holds no finished run" in refused(capsys, "report", tmp_path)
    assert not out.exists()


def test_data_with_other_labels_is_refused_before_anything_starts(tmp_path, capsys):
    for name in ("train", "test"):
        pq.write_table(pa.table({"text": ["a", "b"], "label": [1, 2]}), tmp_path / f"{name}.parquet")
    message = refused(capsys, "run", "imdb-amount", "--data", tmp_path, "--out", tmp_path / "out")
    assert "train.parquet, row 1: label 2: expected 0 or 1" in message and not (tmp_path / "out").exists()


def test_flags_are_the_documented_ones_and_every_command_has_an_example():
    commands = parser()._subparsers._group_actions[0].choices
    flags = {name: sorted(f for action in p._actions for f in action.option_strings if f.startswith("--")) for name, p in commands.items()}
    assert flags == {
        "run": ["--address", "--data", "--help", "--json", "--out", "--overwrite", "--quiet", "--resume", "--reuse", "--seeds", "--size", "--workers"],
        "train-population": ["--address", "--data", "--help", "--out", "--overwrite", "--quiet", "--resume", "--seed", "--workers"],
        "import": ["--data", "--help", "--out"],
        "embed": [
            "--activations", "--address", "--fully-shard", "--help", "--json", "--mlflow", "--out", "--overwrite", "--precision", "--quiet", "--resume",
            "--set", "--skip-failed", "--sweep", "--tensorboard", "--workers",
        ],
        "import-data": ["--help", "--out"],
        "analyze": ["--address", "--all", "--help", "--json", "--quiet", "--workers"],
        "report": ["--help"],
        "claims": ["--help", "--out"],
        "recipes": ["--help"],
    }  # fmt: skip
    assert all("example" in command.format_help() for command in commands.values())


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in recipes.RECIPES)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of labelled texts."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    for name, rows in (("train", 128), ("test", 40)):
        labels = np.arange(rows) % 2
        texts = [" ".join(rng.choice(["good", "fine", "film"] if y else ["bad", "poor", "film"], size=rng.integers(3, 30))) for y in labels]
        pq.write_table(pa.table({"text": texts, "label": labels}), folder / f"{name}.parquet")
    return folder


def run_tiny(recipe, data, out):
    """The result of a tiny run, and its population."""
    assert main(["run", recipe, "--size", "tiny", "--data", str(data), "--workers", "0", "--out", str(out)]) == 0
    return json.loads((out / "result.json").read_text()), Population.open(out / "population")


def test_recipe_of_amounts_of_text(texts, tmp_path):
    result, population = run_tiny("imdb-amount", texts, tmp_path / "out")
    assert set(result["population"]["accuracy"]) == {"100 %", "50 %", "25 %"}
    assert population.table()["samples"].to_pylist() == [64, 32, 16]


def test_recipe_of_two_languages(texts, tmp_path):
    result, population = run_tiny("imdb-piglatin", texts, tmp_path / "out")
    assert set(population.datasets) == {"english", "piglatin"} and set(result["population"]["accuracy"]) == {"english", "piglatin"}
    english, latin = (population.datasets[name].test.inputs for name in ("english", "piglatin"))
    assert english.shape == latin.shape and not set(english[english > 0].tolist()) & set(latin[latin > 0].tolist())
    assert result["analyses"]["similarity"]["measures"]["theta"]


def test_recipe_of_a_path_along_training(texts, tmp_path):
    result, population = run_tiny("imdb-trajectory", texts, tmp_path / "out")
    table = population.table()
    assert table["epochs"].to_pylist() == [1, 2, 3, 4] and table["seed"].to_pylist() == [0] * 4
    assert result["analyses"]["trajectory"]["paths"] == 1 and result["analyses"]["trajectory"]["points"] == [4]


@pytest.mark.parametrize("recipe", ["imdb-architecture", "sst2-architecture"])
def test_recipe_of_architectures_on_texts(recipe, texts, tmp_path):
    result, _ = run_tiny(recipe, texts, tmp_path / "out")
    assert set(result["population"]["accuracy"]) == {f"{cell}-{width}" for cell in ("gru", "lstm", "rnn") for width in (6, 8)}


def test_recipe_of_policies_on_images(tmp_path):
    rng = np.random.default_rng(0)
    for name, rows in (("train", 160), ("test", 40)):
        images = []
        for _ in range(rows):
            content = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(content, "PNG")
            images.append(content.getvalue())
        pq.write_table(pa.table({"image": images, "label": np.arange(rows) % 4}), tmp_path / f"{name}.parquet")
    result, population = run_tiny("cifar-policies", tmp_path, tmp_path / "out")
    table = population.table().to_pylist()
    assert [(row["group"], row["samples"], row["augmentation"]) for row in table[::2]] == [
        ("100 %", 80, "none"), ("50 %", 40, "none"), ("25 %", 20, "none"),
        ("crop_flip", 80, "crop_flip"), ("cutout", 80, "cutout"), ("mixup", 80, "mixup"),
    ]  # fmt: skip
    assert len({row["epochs"] * row["samples"] for row in table}) == 1
    assert result["analyses"]["similarity"]["measures"]["theta"]


def test_package_imports_without_ray_and_petsc():
    code = "import sys; sys.modules.update(ray=None, petsc4py=None, mpi4py=None); import dynamo_dist, jordan_dist; print('ok')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout == "ok\n"
    code = "import sys; sys.modules.update(ray=None); from dynamo_dist.cli import main; sys.exit(main(['run', 'valence', '--out', 'x']))"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert failed.returncode == 2 and "pip install 'dynamo-jordan[ray]', or use --workers 0" in failed.stderr


def ray_processes():
    """Process ids of Ray daemons on this machine."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = status.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "raylet" in command or "gcs_server" in command:
            found.add(int(status.parent.name))
    return found


def listen_to_interrupts():
    """A shell starts what runs in the background deaf to interrupts, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["8 of 8 networks to train", "meta-models: workers are starting", "): step"])
def test_interrupt_stops_workers_and_ray_and_the_run_can_be_resumed(tmp_path, when):
    before = ray_processes()
    out = tmp_path / "out"
    # Many meta-models: training must still be going on when its progress has been seen.
    arguments = [COMMAND, "run", "valence", "--size", "tiny", "--workers", "2", "--seeds", "30", "--out", str(out)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listen_to_interrupts) as process:
        for line in process.stderr:
            if when in line:
                break
        time.sleep(1)
        os.kill(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted; what was committed is kept, continue with --resume" in rest and "Traceback" not in rest
    deadline = time.monotonic() + 30
    while ray_processes() - before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not ray_processes() - before
    assert main(["run", "valence", "--size", "tiny", "--workers", "0", "--out", str(out), "--resume"]) == 0
    assert torch.isfinite(torch.from_numpy(MetaModel.open(out / "meta-0").embedding)).all()


@pytest.mark.slow
def test_a_running_cluster_is_used_by_its_address(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    head = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={port}"]
    head += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
    arguments = [COMMAND, "run", "valence", "--size", "tiny", "--workers", "2", "--address", f"127.0.0.1:{port}"]
    with subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cluster:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.5)
            done = subprocess.run(
                [*arguments, "--out", str(tmp_path / "out")], env=environment, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, done.stderr
            assert "starting Ray" not in done.stderr and cluster.poll() is None  # it was used, and left running
            arguments[arguments.index("--workers") + 1] = "3"
            many = subprocess.run(
                [*arguments, "--out", str(tmp_path / "many")], env=environment, capture_output=True, text=True, timeout=120
            )
            assert many.returncode == 2 and "has 2 CPU cores; use at most 2" in many.stderr and not (tmp_path / "many").exists()
        finally:
            cluster.terminate()
            cluster.wait(timeout=60)
    arguments[arguments.index("--workers") + 1] = "2"
    gone = subprocess.run([*arguments, "--out", str(tmp_path / "gone")], env=environment, capture_output=True, text=True, timeout=120)
    assert gone.returncode == 2 and "no Ray cluster answers there" in gone.stderr and "Traceback" not in gone.stderr
