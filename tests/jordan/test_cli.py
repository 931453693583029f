"""The command jordan-dist as a user meets it: results on one and two ranks, bad input, failures that must not hang."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from terminal import on_a_terminal

from jordan_dist import io
from jordan_dist.cli import main, parser

MPIRUN = ["mpirun", "--oversubscribe", "-n", "2"]
KEYS = {
    "n",
    "ranks",
    "eigenvalue",
    "parameters",
    "subspace_residual",
    "chain_residuals",
    "backward_error",
    "singular_values",
    "verdict",
    "factorizations",
    "solves",
    "seconds",
    "peak_memory_bytes",
    "name",
    "versions",
}


def environment(**more):
    """Of a new process: without what a launcher may have set for this one."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "PRTE"))}
    # ranks that wait leave the cores to others
    allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    return own | allow | {"OMP_NUM_THREADS": "1"} | more


def run(*words, launcher=(), code=None, **more):
    start = ["-c", code] if code else ["-m", "jordan_dist.cli"]
    return subprocess.run(
        [*launcher, sys.executable, *start, *map(str, words)], capture_output=True, text=True, timeout=500, env=environment(**more)
    )


def has_petsc():
    try:
        import mpi4py
        import petsc4py
    except ImportError:
        return False
    return bool(mpi4py and petsc4py)


petsc = pytest.mark.skipif(not has_petsc(), reason="needs petsc4py and mpi4py")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "waveguides"
    done = run("example", "waveguides", "--ep", "--out", folder, "--json")
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together") / "waveguides"
    done = run("example", "waveguides", "--ep", "--out", folder, "--json", launcher=MPIRUN)
    assert done.returncode == 0, done.stderr
    return folder, done


def complex_of(pair):
    return complex(*pair)


@petsc
@pytest.mark.parametrize("ranks", [1, 2])
def test_exceptional_point(ranks, alone, together):
    folder, done = (alone, together)[ranks - 1]
    result = json.loads((folder / "result.json").read_text())
    assert result.keys() >= KEYS
    assert (result["n"], result["ranks"], result["backend"]) == (44944, ranks, "petsc")
    assert result["parameters"][0] == pytest.approx(0.0051183567223, abs=1e-12)
    assert abs(complex_of(result["eigenvalue"]) - 35.331376319721) < 1e-11
    assert result["verdict"] == "block"
    assert result["factorizations"] == 1
    assert 20 <= result["solves"] <= 175
    assert result["subspace_residual"] < 1e-10
    assert max(result["chain_residuals"]) < 1e-10
    assert result["seconds"].keys() >= {"assembly", "factor", "solve", "total"}
    assert result["peak_memory_bytes"] > 44944 * 16 * 4
    assert result["versions"].keys() >= {"petsc", "petsc4py", "numpy", "python"}
    lines = done.stdout.splitlines()
    assert lines[0] == str(folder / "result.json")
    assert json.loads(lines[-1]) == result
    assert len(lines) == 2  # one rank speaks
    assert done.stderr.count("step 0") == 1
    assert (folder / "report.html").stat().st_size > 10_000
    assert not list(folder.glob(".*"))  # nothing unfinished


@petsc
def test_two_ranks_find_what_one_finds(alone, together):
    (one, first), (two, second) = io.load_chain(alone[0]), io.load_chain(together[0])
    assert first.shape == (44944, 2)
    assert first.dtype == np.complex128
    assert one["parameters"] == pytest.approx(two["parameters"], abs=1e-13)
    assert abs(complex_of(one["eigenvalue"]) - complex_of(two["eigenvalue"])) < 1e-12
    assert np.linalg.norm(first - second, axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert one["vector_norms"] == pytest.approx(np.linalg.norm(first, axis=0), rel=1e-12)


@petsc
def test_chain_near_the_point_is_second_order(tmp_path):
    """From 1e-4 beside the exceptional point, its eigenvalue to about the square of that."""
    done = run("example", "resonators", "--out", tmp_path / "r", "--parameters", "-0.1243+0.2748i")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert (result["mode"], result["order"]) == ("chain", 2)
    assert abs(complex_of(result["eigenvalue"]) - (7.604797839043 - 0.208653421906j)) < 1e-8
    assert complex_of(result["parameters"][0]) == -0.1243 + 0.2748j
    there = complex_of(result["parameters"][0]) + complex_of(result["step"][0])
    assert abs(there - (-0.1242688633583 + 0.2747672294421j)) < 1e-8


def test_without_petsc_one_process_uses_scipy(tmp_path):
    code = "import sys; sys.modules['petsc4py'] = None; from jordan_dist.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run("example", "waveguides", "--ep", "--out", tmp_path / "w", code=code)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    assert result["backend"] == "scipy"
    assert result["parameters"][0] == pytest.approx(0.0051183567223, abs=1e-12)
    assert np.load(tmp_path / "w" / "chain.npy").shape == (44944, 2)


@pytest.mark.parametrize(("rank", "speaks"), [(0, True), (1, False)])
def test_without_petsc_several_processes_are_refused(tmp_path, rank, speaks):
    code = "import sys; sys.modules['petsc4py'] = None; from jordan_dist.cli import main; sys.exit(main(sys.argv[1:]))"
    launched = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank)}
    done = run("example", "waveguides", "--out", tmp_path / "w", code=code, **launched)
    assert done.returncode == 2
    assert ('pip install "dynamo-jordan[petsc]"' in done.stderr) == speaks
    assert speaks or done.stderr == ""
    assert not (tmp_path / "w").exists()


def test_without_matplotlib_there_is_no_page_and_a_word_about_it(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; from jordan_dist.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run("example", "waveguides", "--out", tmp_path / "w", code=code)
    assert done.returncode == 0, done.stderr
    assert 'pip install "dynamo-jordan[report]"' in done.stderr
    assert (tmp_path / "w" / "result.json").exists()
    assert not (tmp_path / "w" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["example", "lasers", "--out", "{out}"], "unknown example 'lasers': the examples are waveguides, resonators, three-waveguides"),
        (["example", "waveguides"], "--out"),
        (["example", "waveguides", "--out", "{out}", "--parameters", "fast"], "--parameters 'fast': numbers separated by commas"),
        (["example", "waveguides", "--out", "{out}", "--parameters", "1,2"], "waveguides has 1 finite parameter(s): gamma"),
        (["example", "waveguides", "--out", "{out}", "--parameters", "nan"], "waveguides has 1 finite parameter(s)"),
        (["example", "waveguides", "--out", "{out}", "--grid", "0"], "a grid has at least 2 cells per side, not 0"),
        (
            ["example", "resonators", "--out", "{out}", "--grid", "1000"],
            "1000 cells per side would change the geometry of resonators, which needs a multiple of 212: the nearest is 1060 (--grid 1060,",
        ),
        (["example", "waveguides", "--out", "{out}", "--fast"], "unrecognized arguments: --fast"),
        (["example", "waveguides", "--out", "/dev/null/run"], "--out /dev/null/run"),
        (["report", "{out}"], "holds no jordan-dist run"),
        (["solve"], "invalid choice: 'solve'"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(words, message, tmp_path, capsys):
    out = tmp_path / "run"
    status = main([w.format(out=out) for w in words])
    captured = capsys.readouterr()
    assert status == 2
    assert message in captured.err
    assert captured.err.startswith("jordan-dist: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not out.exists()


@petsc
def test_bad_input_under_mpirun_is_said_once(tmp_path):
    done = run("example", "lasers", "--out", tmp_path / "x", launcher=MPIRUN)
    assert done.returncode == 2
    assert done.stderr.count("unknown example") == 1
    done = run("report", tmp_path, launcher=MPIRUN)  # which only one rank reads
    assert done.returncode == 2
    assert done.stderr.count("holds no jordan-dist run") == 1


@petsc
def test_real_scalars_are_refused(tmp_path, capsys, monkeypatch):
    from jordan_dist.backends import petsc as backend

    monkeypatch.setattr(backend.PETSc, "ScalarType", np.float64)
    assert main(["example", "waveguides", "--out", str(tmp_path / "x")]) == 2
    assert "built with real scalars" in capsys.readouterr().err


def test_size_and_bounds_of_a_chain(tmp_path, capsys):
    from jordan_dist.planted import planted_pencil

    planted = planted_pencil(3, n=40, generalized=False)
    np.save(tmp_path / "A.npy", planted.A0 + 1e-7 * np.eye(40))
    words = ["chain", str(tmp_path / "A.npy"), "--target", "0.8+0.2i", "--out"]
    assert main([*words, str(tmp_path / "a"), "--size", "auto", "--known", "1e-7"]) == 0
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert len(result["singular_values"]) == 3
    bounds = result["forward_bounds"]
    assert bounds["perturbation"] == pytest.approx(1e-7, rel=1e-3)
    error = abs(complex_of(result["eigenvalue"]) - planted.eigenvalue)
    assert 0.99e-7 < error < bounds["eigenvalue"] < 1e-5
    assert len(bounds["vectors"]) == 3
    assert "bound of the error, matrices known to 1.0e-07" in (tmp_path / "a" / "report.html").read_text()
    capsys.readouterr()
    for more, message in ((["--size", "two"], "a whole number is needed, or auto"), (["--known", "1", "--dA", "none"], "leave out --dA")):
        assert main([*words, str(tmp_path / "b"), *more]) == 2
        assert message in capsys.readouterr().err


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_run_is_kept_unless_overwrite(alone, capsys, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for path in alone[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    assert main(["example", "waveguides", "--out", str(folder)]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert main(["example", "waveguides", "--out", str(folder), "--overwrite", "--parameters", "x"]) == 2
    assert contents(folder) == before
    assert main(["example", "waveguides", "--out", str(folder), "--overwrite"]) == 0
    assert json.loads((folder / "result.json").read_text())["mode"] == "chain"
    assert (folder / "notes.txt").read_text() == "mine"
    assert set(contents(folder)) == set(before)


@pytest.mark.parametrize("name", ["result.json", "chain.npy"])
def test_files_of_others_are_never_replaced(name, capsys, tmp_path):
    (tmp_path / name).write_text("{}")
    assert main(["example", "waveguides", "--out", str(tmp_path), "--overwrite"]) == 2
    assert f"holds {name} that no jordan-dist run wrote" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "{}"


def test_no_convergence_is_status_3_with_the_reason(tmp_path, capsys, monkeypatch):
    from jordan_dist import cli, subspace

    monkeypatch.setattr(subspace, "EPS", 1e-40)  # an accuracy that no iteration reaches
    assert cli.main(["example", "waveguides", "--out", str(tmp_path / "w")]) == 3
    assert "not converged: the subspace of the 2 eigenvalues" in capsys.readouterr().err
    assert not (tmp_path / "w" / "result.json").exists()


@petsc
def test_a_rank_that_fails_ends_all_ranks(tmp_path):
    code = """
import sys
from mpi4py import MPI
from jordan_dist import cli, io
if MPI.COMM_WORLD.rank == 1:
    def broken(*_, **__):
        raise OSError("the disk of rank 1 is full")
    io.write_chain = broken
sys.exit(cli.main(sys.argv[1:]))
"""
    done = run("example", "waveguides", "--out", tmp_path / "w", launcher=MPIRUN, code=code)
    assert done.returncode != 0
    assert "rank 1 failed" in done.stderr
    assert "the disk of rank 1 is full" in done.stderr
    assert not (tmp_path / "w" / "result.json").exists()


ALONE = """
import sys
from mpi4py import MPI
from jordan_dist import NotConvergedError, cli
if MPI.COMM_WORLD.rank == 1:
    def broken(*_, **__):
        raise {error}
    cli.jordan_chain = broken
sys.exit(cli.main(sys.argv[1:]))
"""


@petsc
@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("NotConvergedError('only here')", "rank 1 failed: not converged: only here"),
        ("ValueError('only here')", "rank 1 failed: only here"),
        ("MemoryError('only here')", "rank 1 failed: not enough memory: only here"),
    ],
)
def test_a_rank_that_is_alone_in_its_failure_ends_all(error, message, tmp_path):
    """The others wait for it in a collective call."""
    code = ALONE.format(error=error)
    done = run("example", "planted-block", "--out", tmp_path / "w", launcher=MPIRUN, code=code)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "w" / "result.json").exists()


KILLED = """
import os, signal, sys
from mpi4py import MPI
from jordan_dist import checkpoint, cli
save = checkpoint.Checkpoint.save
def killed(self, *pair, **more):
    save(self, *pair, **more)
    if self.number == 2 and MPI.COMM_WORLD.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.Checkpoint.save = killed
sys.exit(cli.main(sys.argv[1:]))
"""


@petsc
def test_killed_rank_ends_all_and_other_numbers_of_ranks_go_on(tmp_path, capsys):
    words = ["example", "planted-block", "--ep", "--out"]
    killed = run(*words, tmp_path / "k", launcher=MPIRUN, code=KILLED)
    assert killed.returncode != 0
    assert "signal 9" in killed.stderr
    assert not (tmp_path / "k" / "result.json").exists()
    shutil.copytree(tmp_path / "k", tmp_path / "k2")
    assert main([*words, str(tmp_path / "k")]) == 2
    assert "holds an unfinished run: go on with --resume, or replace it with --overwrite" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "k"), "--resume", "--parameters", "0.21"]) == 2
    assert "holds the steps of another solve: its start was" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "k"), "--resume"]) == 0
    assert "going on from" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "k"), "--resume"]) == 2
    assert "holds a finished run: there is nothing to resume" in capsys.readouterr().err
    done = run(*words, tmp_path / "k2", "--resume", launcher=MPIRUN)
    assert done.returncode == 0, done.stderr
    for folder in (tmp_path / "k", tmp_path / "k2"):
        assert not (folder / "checkpoint").exists()
        result = json.loads((folder / "result.json").read_text())
        assert abs(complex(*result["parameters"][0]) - (0.2 - 0.1j)) < 1e-11
        assert abs(complex(*result["eigenvalue"]) - (0.7 + 0.3j)) < 1e-11
        assert result["factorizations"] == 2


@petsc
def test_what_petsc_refuses_is_a_sentence(tmp_path):
    done = run("example", "planted-block", "--out", tmp_path / "w", PETSC_OPTIONS="-jordan_pc_factor_mat_solver_type nothing")
    assert done.returncode == 2
    assert "jordan-dist: PETSc failed: " in done.stderr
    assert "Could not locate solver type nothing" in done.stderr
    assert "Traceback" not in done.stderr


@petsc
@pytest.mark.slow
@pytest.mark.timeout(1100)  # ranks that wait for each other are slow on a busy machine
def test_verify_and_scan_on_two_ranks(tmp_path):
    """One rank speaks and writes, and both find what one finds."""
    done = run("verify", "--out", tmp_path / "v", "--json", launcher=MPIRUN)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "v" / "verify.json").read_text())
    assert result["passed"]
    assert result["ranks"] == 2
    assert done.stdout.count("slopes of the errors") == 1
    assert json.loads(done.stdout.splitlines()[-1]) == result
    rng = np.random.default_rng(0)
    for name in ("A0", "A1"):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3)))
    words = ["scan", tmp_path / "A0.npy", "--dA", tmp_path / "A1.npy", "--window=-100-100i:100+101i"]
    done = run(*words, "--out", tmp_path / "s", launcher=MPIRUN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("swap around it") == 6
    assert json.loads((tmp_path / "s" / "scan.json").read_text())["complete"]


def test_interrupt_is_status_130(tmp_path):
    words = [sys.executable, "-m", "jordan_dist.cli", "example", "resonators", "--grid", "424", "--ep", "--out", str(tmp_path / "r")]

    def listen():  # a shell starts what runs in the background deaf to interrupts, and that is inherited
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=listen) as process:
        for line in process.stderr:
            if "assembled" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "jordan-dist: interrupted" in rest
    assert not (tmp_path / "r" / "result.json").exists()


def test_help_has_an_example(capsys):
    for words in (["--help"], ["example", "--help"], ["report", "--help"], *([c, "--help"] for c in ("verify", "chain", "ep", "scan"))):
        assert main(words) == 0
        assert "jordan-dist example waveguides --ep --out" in capsys.readouterr().out


def test_all_flags():
    commands = next(a for a in parser()._actions if a.dest == "command").choices
    flags = {name: sorted(f for a in p._actions for f in a.option_strings) for name, p in commands.items()}
    of_files = "--B --dA --dB --format --help --json --out --overwrite --quiet --resume --size --target -h".split()
    assert flags == {
        "bench": ["--grid", "--help", "--methods", "--repeat", "-h"],
        "chain": sorted([*of_files, "--known"]),
        "ep": sorted([*of_files, "--start", "--window"]),
        "example": ["--ep", "--grid", "--help", "--json", "--out", "--overwrite", "--parameters", "--quiet", "--resume", "--round", "-h"],
        "plan": ["--calibration", "--dim", "--help", "--json", "--n", "--quiet", "--ranks", "-h"],
        "report": ["--help", "-h"],
        "scan": ["--B", "--dA", "--dB", "--group", "--help", "--json", "--out", "--overwrite", "--quiet", "--target", "--window", "-h"],
        "verify": ["--help", "--json", "--out", "--overwrite", "--quiet", "-h"],
    }


def test_residuals_on_a_terminal_and_in_a_pipe(tmp_path, capsys):
    words = ["example", "planted-block", "--ep", "--out"]
    command = [sys.executable, "-m", "jordan_dist.cli", *words, str(tmp_path / "a")]
    shown, out, status = on_a_terminal(command, environment())
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert status == 0 and out == f"{tmp_path / 'a' / 'result.json'}\n"
    assert plain != shown and "\u2501" in plain and re.search(r"step 1: \|delta\| \S+, residual", plain)
    assert main([*words, str(tmp_path / "b")]) == 0
    told = capsys.readouterr().err
    assert "\x1b" not in told and "\r" not in told and told.isascii()
    assert len(re.findall(r"^step \d+: \|delta\|", told, flags=re.M)) == len(re.findall(r"step \d+: \|delta\|", plain))
    # One screen at the end: what was found, where it lies, what to do next.
    end = told[told.rindex("\n\n") :]
    assert "0.2 - 0.1" in end and "0.7 + 0.3" in end and "one Jordan block" in end
    assert "next" in end and f"jordan_dist.io.load_chain('{tmp_path / 'b'}')" in end
    assert main([*words, str(tmp_path / "c"), "--quiet", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and json.loads(captured.out.splitlines()[-1])["verdict"] == "block"


def test_page_is_written_again(alone, tmp_path, capsys):
    folder = alone[0]
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(folder / "report.html")
    assert f"figures for papers: 15 files in {folder / 'figures'}" in captured.err
    assert len((folder / "report.html").read_bytes()) == pytest.approx(len(before), rel=0.01)
