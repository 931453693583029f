"""Matrices from files of every kind, and one sentence for every file that holds none."""

import gzip
import json

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from jordan_dist import cli, io
from jordan_dist.matrices import read_matrix
from jordan_dist.planted import planted_pencil

PETSC_MATRIX = 1211216


def petsc_bytes(A, integer=">i4", number=">c16", dense=False):
    """PETSc's documented layout, written here by hand: header, row lengths, column indices, values; or values by rows."""
    if dense:
        return np.array([PETSC_MATRIX, *A.shape, -1], integer).tobytes() + A.astype(number).tobytes()
    C = scipy.sparse.csr_array(A)
    C.sort_indices()
    parts = [[PETSC_MATRIX, *C.shape, C.nnz], np.diff(C.indptr), C.indices]
    return b"".join(np.asarray(part).astype(integer).tobytes() for part in parts) + C.data.astype(number).tobytes()


def example(n=12, real=False):
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, n)) + (0 if real else 1j * rng.standard_normal((n, n)))
    A[rng.random((n, n)) < 0.6] = 0
    A[3] = 0  # a row without entries
    return A


def write(path, A):
    """A file of the kind that its name says."""
    if path.name.endswith(".mtx"):
        scipy.io.mmwrite(path, scipy.sparse.coo_array(A))
    elif path.name.endswith(".mtx.gz"):
        with gzip.open(path, "wb") as file:
            scipy.io.mmwrite(file, scipy.sparse.coo_array(A))
    elif path.name.endswith(".npz"):
        scipy.sparse.save_npz(path, scipy.sparse.csc_array(A))
    elif path.name.endswith(".npy"):
        np.save(path, A)
    else:
        path.write_bytes(petsc_bytes(A))
    return path


NAMES = ["A.mtx", "A.mtx.gz", "A.npz", "A.npy", "A.petsc", "A"]


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_matrix_is_read(name, real, tmp_path):
    A = example(real=real)
    found = read_matrix(write(tmp_path / name, A))
    assert np.array_equal(found.toarray() if scipy.sparse.issparse(found) else found, A)
    assert scipy.sparse.issparse(found) == (name != "A.npy")


@pytest.mark.parametrize("integer", [">i4", ">i8"])
@pytest.mark.parametrize("number", [">f8", ">c16"])
@pytest.mark.parametrize("dense", [False, True])
def test_petsc_files_of_other_builds(integer, number, dense, tmp_path):
    A = example(real=number == ">f8")
    (tmp_path / "A").write_bytes(petsc_bytes(A, integer, number, dense))
    found = read_matrix(tmp_path / "A")
    assert np.array_equal(found if dense else found.toarray(), A)


@pytest.mark.parametrize("name", ["A.mtx", "A.mtx.gz"])
@pytest.mark.parametrize("kind", ["real symmetric", "complex symmetric", "complex hermitian", "pattern general", "integer general"])
def test_matrix_market_kinds(kind, name, tmp_path):
    entry = {"real": "2.5", "complex": "2.5 1.0", "pattern": "", "integer": "2"}[kind.split()[0]]
    value = {"real": 2.5, "complex": 2.5 + 1j, "pattern": 1.0, "integer": 2.0}[kind.split()[0]]
    text = f"%%MatrixMarket matrix coordinate {kind}\n3 3 1\n2 1 {entry}\n"
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    expected = np.zeros((3, 3), dtype=type(value))
    expected[1, 0] = value
    if "symmetric" in kind:
        expected[0, 1] = value
    if "hermitian" in kind:
        expected[0, 1] = np.conj(value)
    assert np.array_equal(read_matrix(tmp_path / name).toarray(), expected)


def whole(name, A):
    def make(folder):
        return write(folder / name, A)

    return make


def bytes_in(name, data):
    def make(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return make


def cut(name, keep):
    def make(folder):
        path = write(folder / name, example())
        data = path.read_bytes()
        path.write_bytes(data[: int(keep * len(data))])
        return path

    return make


BAD = np.eye(4, dtype=complex)
BAD[2, 1] = np.nan
ENDLESS = np.eye(4)
ENDLESS[3, 3] = np.inf
HEADER = np.array([PETSC_MATRIX, 2**31 - 1, 2**31 - 1, 2**31 - 1], ">i4").tobytes()
DAMAGED = bytearray(petsc_bytes(np.eye(4)))
DAMAGED[16 + 16 + 3] = 9  # the column of the first entry
LENGTHS = bytearray(petsc_bytes(np.eye(4)))
LENGTHS[16 + 3] = 2  # the entries of the first row

FILES = [
    *((whole(name, np.ones((3, 4))), "holds no square matrix: its shape is (3, 4)") for name in NAMES),
    *((whole(name, BAD), "infinite or not a number, in row 2") for name in NAMES if "mtx" not in name),
    *((whole(name, ENDLESS), "infinite or not a number, in row 3") for name in NAMES if "mtx" not in name),
    *((bytes_in(name, b""), "is empty") for name in NAMES),
    *((bytes_in(name, b"no matrix at all, but some text\n"), "is no ") for name in NAMES),
    *((cut(name, 0.6), "is no complete") for name in NAMES if "." in name and "petsc" not in name),
    (cut("A.petsc", 0.6), "is cut off or damaged: it has"),
    (cut("A.petsc", 0.001), "is no PETSc binary matrix"),
    (bytes_in("A.petsc", HEADER), "is cut off or damaged: it has 16 bytes, but its header tells of"),
    (bytes_in("A.petsc", bytes(DAMAGED)), "is damaged: its row lengths or column indices do not fit 4 nonzeros of order 4"),
    (bytes_in("A.petsc", bytes(LENGTHS)), "is damaged: its row lengths or column indices"),
    (whole("A.npy", np.array([["a", "b"], ["c", "d"]])), "holds no matrix of numbers"),
    (whole("A.npy", np.ones(4)), "holds no square matrix: its shape is (4,)"),
    (lambda folder: folder / "A.mtx", "cannot be read: No such file or directory"),
    (lambda folder: folder, "cannot be read: Is a directory"),
]


@pytest.mark.parametrize(("make", "message"), FILES, ids=range(len(FILES)))
def test_what_is_no_matrix_is_one_sentence(make, message, tmp_path):
    path = make(tmp_path)
    with pytest.raises(ValueError) as caught:
        read_matrix(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["nan", "inf"])
def test_matrix_market_with_what_is_no_number(text, tmp_path):
    (tmp_path / "A.mtx").write_text(f"%%MatrixMarket matrix coordinate real general\n3 3 2\n1 1 1.0\n2 3 {text}\n")
    with pytest.raises(ValueError, match="infinite or not a number, in row 1"):
        read_matrix(tmp_path / "A.mtx")


@pytest.fixture
def files(tmp_path):
    planted = planted_pencil(2, n=40)
    A, B = planted.at(1e-3)
    mats = {"A.mtx": A, "B.npz": B, "dA.npy": planted.dA[0], "dB.petsc": planted.dB[0], "A0.mtx.gz": planted.A0, "B0": planted.B0}
    return planted, {name: str(write(tmp_path / name, M)) for name, M in mats.items()}


@pytest.mark.parametrize("form", ["npy", "petsc"])
def test_chain_of_files(files, form, tmp_path, capsys):
    planted, at = files
    words = ["chain", at["A.mtx"], "--B", at["B.npz"], "--target", "0.8+0.2i", "--out", str(tmp_path / "run"), "--format", form]
    assert cli.main([*words, "--dA", at["dA.npy"], "--dB", at["dB.petsc"], "--json"]) == 0
    result, vectors = io.load_chain(tmp_path / "run")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert (result["order"], result["verdict"], result["n"]) == (2, "block", 40)
    assert planted.errors(np.asarray(vectors)).max() < 1e-5
    assert complex(*result["step"][0]) == pytest.approx(-1e-3, abs=1e-5)
    assert (tmp_path / "run" / "chain.petsc").exists() == (form == "petsc")
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert cli.main([*words, "--overwrite"]) == 0  # without derivatives
    assert io.read_result(tmp_path / "run")["order"] == 1


def test_point_of_files(files, tmp_path, capsys):
    planted, at = files
    words = ["ep", at["A0.mtx.gz"], "--B", at["B0"], "--dA", at["dA.npy"], "--dB", at["dB.petsc"], "--target", "0.8+0.2i"]
    assert cli.main([*words, "--start", "0.01+0.02i", "--out", str(tmp_path / "run")]) == 0
    result, vectors = io.load_chain(tmp_path / "run")
    assert abs(complex(*result["parameters"][0])) < 1e-11
    assert planted.errors(np.asarray(vectors)).max() < 1e-9
    capsys.readouterr()
    assert cli.main([*words, "--start", "0.01+0.02i", "--window", "0.005-1i:1+1i", "--out", str(tmp_path / "no")]) == 3
    assert "of the search left the window" in capsys.readouterr().err
    words[words.index("--dB") + 1] = "none"
    assert cli.main([*words, "--start", "0.01+0.02i", "--out", str(tmp_path / "other")]) == 0


def test_chain_as_petsc_reads_it(files, tmp_path, world):
    """Written here, read by PETSc itself."""
    from petsc4py import PETSc

    X = np.random.default_rng(0).standard_normal((10, 2)) + 1j
    io.write_chain(tmp_path / "chain.petsc", X, petsc=True)
    mat = PETSc.Mat().create(PETSc.COMM_SELF)
    mat.setType("dense")
    viewer = PETSc.Viewer().createBinary(str(tmp_path / "chain.petsc"), "r", comm=PETSc.COMM_SELF)
    mat.load(viewer)
    assert np.array_equal(mat.getDenseArray(), X)
    mat.destroy()
    viewer.destroy()


@pytest.mark.mpi
def test_every_rank_reads_its_rows(world, shared_folder):
    """Files by PETSc and by scipy, against the matrix itself."""
    from petsc4py import PETSc

    A = example(23)
    names = ["A.mtx", "A.mtx.gz", "A.npz", "A.npy"]
    if world.rank == 0:
        for name in names:
            write(shared_folder / name, A)
        C = scipy.sparse.csr_array(A)
        mat = PETSc.Mat().createAIJ(C.shape, csr=(C.indptr, C.indices, C.data), comm=PETSc.COMM_SELF)
        mat.assemble()
        viewer = PETSc.Viewer().createBinary(str(shared_folder / "A.petsc"), "w", comm=PETSc.COMM_SELF)
        mat.view(viewer)
        viewer.destroy()
        mat.destroy()
    world.Barrier()
    for name in [*names, "A.petsc"]:
        mat = read_matrix(shared_folder / name, world)
        start, stop = mat.getOwnershipRange()
        indptr, indices, data = mat.getValuesCSR()
        mine = scipy.sparse.csr_array((data, indices, indptr), shape=(stop - start, 23)).toarray()
        assert np.array_equal(mine, A[start:stop])
        mat.destroy()


@pytest.mark.mpi
def test_a_bad_row_of_one_rank_is_said_by_all(world, shared_folder):
    A = np.eye(23)
    A[22, 0] = np.nan  # of the last rank
    if world.rank == 0:
        (shared_folder / "A.petsc").write_bytes(petsc_bytes(A))
    world.Barrier()
    with pytest.raises(ValueError, match="infinite or not a number, in row 22"):
        read_matrix(shared_folder / "A.petsc", world)


@pytest.mark.mpi
def test_chain_in_petsc_format_is_written_by_all_ranks(world, shared_folder):
    from jordan_dist.backends.petsc import owned_rows

    n = 31
    X = np.random.default_rng(0).standard_normal((n, 3)) * (1 + 2j)
    start, stop = owned_rows(n, world)

    class Columns:  # what a dense PETSc matrix offers
        def getDenseArray(self):
            return np.asfortranarray(X[start:stop])

        def getOwnershipRange(self):
            return start, stop

        def getSize(self):
            return n, 3

    path = shared_folder / "chain.petsc"
    io.write_chain(path, Columns(), world, petsc=True)
    world.Barrier()
    assert path.read_bytes() == np.array([PETSC_MATRIX, n, 3, -1], ">i4").tobytes() + X.astype(">c16").tobytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chain", "{A}", "--target", "1", "--out", "{out}", "--B", "missing.mtx"], "missing.mtx cannot be read"),
        (["chain", "{A}", "--target", "1", "--out", "{out}", "--B", "{small}"], "B is of s"),
        (["chain", "{A}", "--target", "1", "--out", "{out}", "--size", "99"], "size must be from 2 to the order of the matrices, 40"),
        (["chain", "{A}", "--target", "1,2", "--out", "{out}"], "--target '1,2': one finite number"),
        (["chain", "{A}", "--target", "nan", "--out", "{out}"], "--target 'nan': one finite number"),
        (["ep", "{A}", "--target", "1", "--out", "{out}", "--start", "0"], "the family depends on no parameter"),
        (["ep", "{A}", "--target", "1", "--out", "{out}", "--start", "0,1", "--dA", "{A}"], "start has 2 parameters, the family has 1"),
        (["scan", "waveguides", "--window", "0:1+1i", "--out", "{out}", "--B", "{A}"], "brings its own matrices"),
        (["scan", "{A}", "--window", "0:1", "--out", "{out}", "--dA", "{A}"], "one complex or of two real parameters"),
    ],
)
def test_bad_words_are_one_sentence_and_status_2(words, message, files, tmp_path, capsys):
    small = str(write(tmp_path / "small.npy", np.eye(3)))
    assert cli.main([w.format(A=files[1]["A.mtx"], small=small, out=tmp_path / "out") for w in words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("jordan-dist: ")
    assert not (tmp_path / "out" / "result.json").exists()
