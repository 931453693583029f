"""The command jordan-dist, alone or under mpirun.

Exit status: 0 done, 1 no trustworthy answer (the reason is on standard error), 2 arguments or set-up that cannot work, 130
Ctrl-C. Under mpirun only rank 0 speaks, except that a rank which fails unexpectedly says why and ends all of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import scipy

from jordan_dist import io, problems
from jordan_dist.backends import MissingExtraError
from jordan_dist.chain import JordanChain, jordan_chain
from jordan_dist.exceptional import ExceptionalPoint, find_exceptional_point
from jordan_dist.subspace import NotConvergedError

log = logging.getLogger("jordan_dist")

EPILOG = """\
examples:
  jordan-dist example waveguides --ep --out runs/waveguides
  mpirun -n 2 jordan-dist example resonators --ep --out runs/resonators
  jordan-dist example resonators --parameters=-0.1243+0.2748i --out runs/chain

The direct solver takes PETSc options with the prefix jordan_ from the environment, for example
PETSC_OPTIONS="-jordan_mat_mumps_icntl_14 200".
"""


class UsageError(ValueError):
    """What the user asked for cannot be done; raised on all ranks alike."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    shared = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    top = _Parser(prog=io.PROGRAM, description="Jordan chains and exceptional points of large sparse pencils.", **shared)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = f"Solves a built-in problem:\n{problems.descriptions()}"
    example = commands.add_parser("example", help="solve a built-in problem", description=about, **shared)
    example.add_argument("name", metavar="NAME", help=", ".join(problems.PROBLEMS))
    example.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for result.json, the chain and the report")
    example.add_argument("--ep", action="store_true", help="search the exceptional point; otherwise the chain near --parameters")
    example.add_argument("--parameters", metavar="P[,P..]", help="where to start or to solve, such as 0.0051 or -0.12+0.27i")
    example.add_argument("--refine", type=int, default=1, metavar="R", help="R times as many cells per side (default 1)")
    example.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    example.add_argument("--json", action="store_true", help="print result.json as the last line of standard output")
    example.set_defaults(run=run_example)
    report = commands.add_parser("report", help="write the page of a run again", description="Writes report.html of a run.", **shared)
    report.add_argument("folder", type=Path, metavar="DIR", help="the --out of an example")
    report.set_defaults(run=run_report)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    comm, rank = None, _launched("RANK") or 0
    progress = logging.StreamHandler(sys.stderr)
    progress.setFormatter(logging.Formatter("%(message)s"))
    try:
        args = parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
        comm = _world()
        rank = comm.rank if comm is not None else 0
        if rank == 0:
            log.addHandler(progress)
            log.setLevel(logging.INFO)
        return args.run(args, comm)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except (UsageError, MissingExtraError) as error:
        if rank == 0:
            print(f"{io.PROGRAM}: {error}", file=sys.stderr)
        return 2
    except NotConvergedError as error:
        if rank == 0:
            print(f"{io.PROGRAM}: not converged: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if comm is not None and comm.size > 1:
            comm.Abort(130)
        print(f"{io.PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BaseException:
        if comm is None or comm.size == 1:
            raise
        print(f"{io.PROGRAM}: rank {rank} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        comm.Abort(1)  # the others wait for this rank in some collective call, and would wait for ever
        raise
    finally:
        log.removeHandler(progress)


def _launched(what: str) -> int | None:
    """Rank or size according to the launcher's environment: needed before MPI is up, and where mpi4py is missing."""
    value = next((os.environ[v] for v in (f"OMPI_COMM_WORLD_{what}", f"PMI_{what}", f"PMIX_{what}") if v in os.environ), None)
    return int(value) if value is not None else None


def _world() -> Any:
    """MPI.COMM_WORLD, or None when PETSc is not installed and there is one process only."""
    try:
        from jordan_dist.backends import petsc
    except MissingExtraError as error:
        if (_launched("SIZE") or 1) > 1:
            raise UsageError(f"several processes were started, and these need PETSc: {error}") from error
        return None
    try:
        petsc.require_complex()
    except ValueError as error:
        raise UsageError(str(error)) from error
    return petsc.MPI.COMM_WORLD


def _joined(argv: Sequence[str]) -> list[str]:
    """`--parameters -0.1+0.3i` as one word: argparse takes a complex number with a sign for an option."""
    words = list(argv)
    for i in reversed([i for i, word in enumerate(words[:-1]) if word == "--parameters"]):
        words[i : i + 2] = [f"--parameters={words[i + 1]}"]
    return words


def _parameters(text: str, problem: problems.Problem) -> tuple[complex, ...]:
    """Real numbers stay real: a search then stays on the real line."""
    try:
        values = [complex(part.strip().replace("i", "j")) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--parameters {text!r}: numbers separated by commas are needed, such as 0.0051 or -0.12+0.27i") from None
    if len(values) != len(problem.parameter_names) or not np.isfinite(values).all():
        names = ", ".join(problem.parameter_names)
        raise UsageError(f"--parameters {text!r}: {problem.name} has {len(problem.parameter_names)} finite parameter(s): {names}")
    return tuple(values) if any(v.imag for v in values) else tuple(v.real for v in values)


def _agreed(comm: Any, check: Any, *arguments: Any) -> None:
    """Runs a check of the file system on rank 0; its ValueError is raised on every rank."""
    message = None
    if comm is None or comm.rank == 0:
        try:
            check(*arguments)
        except ValueError as error:
            message = str(error)
    message = message if comm is None else comm.bcast(message)
    if message is not None:
        raise UsageError(message)


def run_example(args: argparse.Namespace, comm: Any) -> int:
    begun = time.perf_counter()
    try:
        problem = problems.problem(args.name, args.refine)
    except ValueError as error:
        raise UsageError(str(error)) from error
    parameters = _parameters(args.parameters, problem) if args.parameters else (problem.start if args.ep else problem.nearby)
    _agreed(comm, io.check_folder, args.out, args.overwrite)
    ranks = comm.size if comm is not None else 1
    log.info("%s: n = %d, %s on %d process(es)", problem.title, problem.n, "scipy" if comm is None else "PETSc", ranks)

    chain, point, assembly = _solve(problem, parameters, comm, search=args.ep)
    seconds = {
        "assembly": assembly,
        "factor": chain.cost.factor_seconds,
        "solve": chain.cost.solve_seconds,
        "total": time.perf_counter() - begun,
    }
    result = _result(problem, parameters, chain, point, comm) | {"seconds": seconds}
    io.publish(args.out, result, _fields(chain), problem.cells, comm)
    problems.destroy(chain.vectors, chain.left_vectors, chain.original_vectors)
    if comm is None or comm.rank == 0:
        log.info("eigenvalue %s, verdict %s, %.1f s", format(chain.eigenvalue, ".12g"), chain.verdict, seconds["total"])
        _write_page(args.out)
        print(args.out / io.RESULT)
        if args.json:
            print(json.dumps(io.jsonable(result)), flush=True)
    return 0


def _solve(
    problem: problems.Problem, parameters: Sequence[complex], comm: Any, *, search: bool
) -> tuple[JordanChain, ExceptionalPoint | None, float]:
    """The chain, the exceptional point if it was searched, and the seconds that the assembly took."""
    begun = time.perf_counter()
    common = {"target": problem.target, "size": problem.size}
    if search:
        family = problem.family(comm)
        assembly = time.perf_counter() - begun
        log.info("assembled in %.2f s", assembly)
        point = find_exceptional_point(family, parameters, **common)
        problems.destroy(family.A0, *family.dA, family.B0, *family.dB)
        return point.chain, point, assembly
    A, B, dA, dB = problem.pencil(parameters, comm)
    assembly = time.perf_counter() - begun
    log.info("assembled in %.2f s", assembly)
    chain = jordan_chain(A, B, **common, dA=dA, dB=dB)
    problems.destroy(A, B, *dA, *dB)
    return chain, None, assembly


def _fields(chain: JordanChain) -> Any:
    """The chain on the grid: of a quadratic problem in its own variables, which with the eigenvalue determine the others."""
    return chain.vectors if chain.original_vectors is None else chain.original_vectors


def _result(
    problem: problems.Problem, parameters: Sequence[complex], chain: JordanChain, point: ExceptionalPoint | None, comm: Any
) -> dict[str, Any]:
    X = io.local_block(_fields(chain))[0]
    squares = np.sum(np.abs(X) ** 2, axis=0)
    # ru_maxrss is in KiB on Linux, in bytes on macOS
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    if comm is not None:
        from jordan_dist.backends import petsc

        squares, memory = comm.allreduce(squares), comm.allreduce(memory)
        versions |= petsc.versions()
    result = {
        "program": io.PROGRAM,
        "name": problem.name,
        "title": problem.title,
        "mode": "chain" if point is None else "exceptional point",
        "n": problem.n,
        "cells": problem.cells,
        "ranks": 1 if comm is None else comm.size,
        "backend": "scipy" if comm is None else "petsc",
        "target": complex(problem.target),
        "parameter_names": problem.parameter_names,
        "start": parameters,
        "parameters": parameters if point is None else point.parameters,
        "eigenvalue": chain.eigenvalue,
        "verdict": chain.verdict,
        "weyr": chain.weyr,
        "order": chain.order,
        "step": chain.step,
        "subspace_residual": chain.subspace_residual,
        "chain_residuals": chain.chain_residuals,
        "backward_error": chain.backward_error,
        "singular_values": chain.singular_values,
        "vector_norms": np.sqrt(squares),
        "gap": chain.gap,
        "projector_norm": chain.projector_norm,
        "puiseux": chain.puiseux,
        "factorizations": chain.cost.factorizations,
        "solves": chain.cost.solves,
        "peak_memory_bytes": memory,
        "versions": versions,
    }
    if point is not None:
        result["history"] = [vars(step) for step in point.history]
    return result


def _write_page(folder: Path) -> None:
    from jordan_dist import report

    try:
        log.info("report: %s", report.write_page(folder))
    except MissingExtraError as error:
        log.info("no report: %s", error)


def run_report(args: argparse.Namespace, comm: Any) -> int:
    if comm is None or comm.rank == 0:
        from jordan_dist import report

        try:
            print(report.write_page(args.folder))
        except ValueError as error:
            raise UsageError(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
