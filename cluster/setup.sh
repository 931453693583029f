#!/usr/bin/env bash
# Sets up one machine in the virtual environment .venv of this checkout. Idempotent: a stamp in .venv says what was installed
# for which pyproject.toml and which PETSc, so the second call returns at once.
#
#   PYTHON=python3.12   the interpreter to use (3.11 or newer)
#   PETSC_DIR=...       your own PETSc (complex scalars) instead of the system's; PETSC_ARCH as PETSc wants it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

started=$SECONDS
say() { printf '[setup %3ds] %s\n' $((SECONDS - started)) "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 2; }

# quietly LABEL COMMAND...: one line while it runs, the whole log only when it fails.
quietly() {
    local label=$1 log; shift
    say "$label"
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "\"$label\" failed (the command was: $*)"
    fi
    rm -f "$log"
}

# ---- the PETSc at hand: PETSC_DIR, else the newest complex one that the system packages installed ----------------------------
system_petsc() { ls -d /usr/lib/petscdir/petsc*/*-complex 2>/dev/null | sort -V | tail -n 1 || true; }
petsc_header() { # petsc_header NAME: path of an include file of the PETSc at hand
    local d
    for d in "$PETSC_DIR/${PETSC_ARCH:-}/include" "$PETSC_DIR/include"; do
        [ -f "$d/$1" ] && { echo "$d/$1"; return; }
    done
    die "no $1 below PETSC_DIR=$PETSC_DIR${PETSC_ARCH:+ (PETSC_ARCH=$PETSC_ARCH)}: point PETSC_DIR at a PETSc installation, or unset it to use the system's"
}
petsc_number() { sed -n "s/^#define *PETSC_VERSION_$1 *\([0-9]*\).*/\1/p" "$(petsc_header petscversion.h)"; }

# ---- system packages ---------------------------------------------------------------------------------------------------------
missing=()
command -v mpirun >/dev/null || missing+=(openmpi-bin)
command -v mpicc >/dev/null || missing+=(libopenmpi-dev)
command -v g++ >/dev/null || missing+=(g++)
[ -n "${PETSC_DIR:-}" ] || [ -n "$(system_petsc)" ] || missing+=(libpetsc-complex-dev)
# Without OpenBLAS Debian's PETSc and MUMPS run on the reference BLAS, several times slower.
[ -n "${PETSC_DIR:-}" ] || ls /usr/lib/*/openblas-pthread/libopenblas.so.0 >/dev/null 2>&1 || missing+=(libopenblas0-pthread)

python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
    [ "$python" = python3 ] || die "PYTHON=$python: no such interpreter; name one that is there, or leave PYTHON out"
    missing+=(python3 python3-venv python3-dev)
fi
if [ "$(command -v "$python" || true)" = /usr/bin/python3 ]; then
    "$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=(python3-dev)
fi
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        quietly "package lists" apt-get update
        quietly "system packages: ${missing[*]}" apt-get install -y --no-install-recommends "${missing[@]}"
    else
        die "missing on this machine: ${missing[*]} (Debian package names). As root: apt-get install ${missing[*]}; on a cluster load the MPI module, a compiler and a PETSc module built with complex scalars and MUMPS, set PETSC_DIR, and run this again"
    fi
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version) is too old: Python 3.11 or newer is needed; name one by PYTHON=/path/to/python3.11"

[ -n "${PETSC_DIR:-}" ] || { PETSC_DIR=$(system_petsc); unset PETSC_ARCH; }
export PETSC_DIR
petsc_version="$(petsc_number MAJOR).$(petsc_number MINOR).$(petsc_number SUBMINOR)"
petscconf=$(petsc_header petscconf.h)
grep -q '^#define PETSC_USE_COMPLEX 1' "$petscconf" ||
    die "the PETSc in $PETSC_DIR was built with real scalars, but resonances are complex: configure one with --with-scalar-type=complex (Debian: libpetsc-complex-dev) and point PETSC_DIR at it"
grep -q '^#define PETSC_HAVE_MUMPS 1' "$petscconf" ||
    die "the PETSc in $PETSC_DIR has no MUMPS, which the parallel solves need: configure it with --download-mumps --download-scalapack, or point PETSC_DIR at one that has it"
[ "$(petsc_number MAJOR)" -gt 3 ] || [ "$(petsc_number MINOR)" -ge 18 ] || die "PETSc $petsc_version in $PETSC_DIR is too old: 3.18 or newer is needed"

# ---- Python packages ---------------------------------------------------------------------------------------------------------
stamp=.venv/setup-stamp
want="$(cat pyproject.toml cluster/setup.sh | sha256sum | cut -c1-16) $PWD $("$python" --version) PETSc $petsc_version in $PETSC_DIR ${PETSC_ARCH:-}"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
    say "ready (.venv is up to date: PETSc $petsc_version)"
    exit 0
fi
rm -f "$stamp"

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
# An interpreter that already has torch (a CUDA build on a GPU machine, an HPC module) keeps it: the environment sees its packages.
site=()
"$python" -c 'import torch' 2>/dev/null && site=(--system-site-packages)
[ -x .venv/bin/python ] || quietly "virtual environment .venv" "$python" -m venv "${site[@]}" .venv
# setuptools < 80: the bindings' build scripts use what later versions removed.
quietly "build tools" pip install "setuptools>=68,<80" wheel "numpy>=2"

# The bindings must be of PETSc's own version, and their age decides which Cython they compile with.
if [ "$(.venv/bin/python -c 'import petsc4py; print(petsc4py.__version__, petsc4py.get_config()["PETSC_DIR"])' 2>/dev/null)" != "$petsc_version $PETSC_DIR" ]; then
    cython="Cython>=3"
    [ "$(petsc_number MINOR)" -ge 20 ] || cython="Cython>=0.29.32,<3"
    quietly "$cython for the PETSc bindings" pip install "$cython"
    # They compile on one core for minutes; torch and Ray come down meanwhile.
    bindings_log=$(mktemp)
    say "petsc4py $petsc_version, compiled against $PETSC_DIR (about 2.5 minutes, in the background)"
    pip install --no-build-isolation --no-deps "petsc4py==$petsc_version" >"$bindings_log" 2>&1 &
    bindings=$!
fi
.venv/bin/python -c 'import torch' 2>/dev/null || quietly "torch" pip install "torch==2.13.0"
# Everything but petsc4py; the editable install itself comes last, when the bindings are there.
mapfile -t packages < <(.venv/bin/python - <<'P'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for requirement in project["dependencies"] + sum(project["optional-dependencies"].values(), []):
    if not requirement.startswith("petsc4py"):
        print(requirement)
P
)
quietly "ray, mpi4py, pyarrow, scikit-learn and the rest" pip install "${packages[@]}"
if [ -n "${bindings:-}" ]; then
    say "waiting for petsc4py"
    wait "$bindings" || { tail -n 40 "$bindings_log" >&2; die "petsc4py $petsc_version did not build against $PETSC_DIR; the log is above and in $bindings_log"; }
    rm -f "$bindings_log"
fi
# The tests of the page drive a browser, and are skipped where there is none: no reason to stop.
if ! command -v chromedriver >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "system packages: chromium chromium-driver"
    { apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 ||
        say "no chromium among the system packages: the tests of the page will be skipped"
fi
quietly "dynamo-jordan itself" pip install --no-build-isolation --no-deps -e .
.venv/bin/python -c 'import mpi4py.MPI, petsc4py.PETSc' || die "the bindings were installed but do not load: see the message above; if MPI was changed, remove .venv and run this again"
echo "$want" >"$stamp"
say "done: PETSc $petsc_version, $(.venv/bin/python -c 'import torch, ray; print("torch", torch.__version__, "ray", ray.__version__)')"
