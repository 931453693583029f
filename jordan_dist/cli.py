"""The command jordan-dist, alone or under mpirun.

Exit status: 0 done, 1 `verify` measured something else than it must, 2 arguments, input or set-up that cannot work, 3 no
trustworthy answer (the reason is on standard error), 130 Ctrl-C. Under mpirun only rank 0 speaks, except that a rank which fails
unexpectedly says why and ends all of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from jordan_dist import arguments, bench, io, memory, plan, problems, verify
from jordan_dist.arguments import UsageError, parser
from jordan_dist.backends import MissingExtraError
from jordan_dist.chain import JordanChain, jordan_chain
from jordan_dist.checkpoint import is_folder_of_steps
from jordan_dist.exceptional import ExceptionalPoint, find_exceptional_point
from jordan_dist.figures import FOLDER as FIGURES
from jordan_dist.figures import write_figures
from jordan_dist.matrices import read_matrix
from jordan_dist.pencil import AffineFamily
from jordan_dist.report import VERDICTS, number, write_page
from jordan_dist.scan import scan_exceptional_points
from jordan_dist.subspace import NotConvergedError
from jordan_dist.terminal import tell_end, telling

log = logging.getLogger("jordan_dist")

PATIENCE = 5.0  # seconds in which ranks that fail alike come together


def main(argv: Sequence[str] | None = None) -> int:
    comm, rank = None, _launched("RANK") or 0
    try:
        args = parser().parse_args(arguments.joined(sys.argv[1:] if argv is None else argv))
        comm = _world()
        rank = comm.rank if comm is not None else 0
        with telling(rank, quiet=getattr(args, "quiet", False)):
            return RUNS[args.command](args, comm)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except (UsageError, MissingExtraError) as error:
        return _ended(comm, rank, str(error), 2)
    except NotConvergedError as error:
        return _ended(comm, rank, f"not converged: {error}", 3)
    except OSError as error:
        return _ended(comm, rank, str(error), 2)
    except MemoryError as error:
        return _ended(comm, rank, f"not enough memory: {error}", 2)
    except (np.linalg.LinAlgError, ArithmeticError) as error:
        return _ended(comm, rank, f"not converged: numbers beyond double precision: {error}", 3)
    except KeyboardInterrupt:
        if comm is not None and comm.size > 1:
            comm.Abort(130)
        print(f"{io.PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BaseException as error:
        if type(error).__module__.startswith("petsc4py"):
            reason = " ".join(str(error).splitlines()[-1:]) or "without a reason"
            return _ended(comm, rank, f"PETSc failed: {reason}: is there an option of it in the environment that does not fit?", 2)
        if comm is None or comm.size == 1:
            raise
        print(f"{io.PROGRAM}: rank {rank} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        comm.Abort(1)  # the others wait for this rank in some collective call, and would wait for ever
        raise


def _ended(comm: Any, rank: int, message: str, status: int) -> int:
    """Says why, once, and returns the status. A rank that is alone in its failure ends all of them: the others wait for it in some
    collective call, and would wait for ever."""
    alike = True
    if comm is not None and comm.size > 1:
        from jordan_dist.backends.petsc import MPI

        arrived, deadline = MPI.COMM_WORLD.Ibarrier(), time.monotonic() + PATIENCE
        while not (alike := arrived.Test()) and time.monotonic() < deadline:
            time.sleep(0.01)
    if rank == 0 or not alike:
        print(f"{io.PROGRAM}: {message}" if alike else f"{io.PROGRAM}: rank {rank} failed: {message}", file=sys.stderr, flush=True)
    if not alike:
        comm.Abort(status)
    return status


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
    return petsc.MPI.COMM_WORLD.Dup()  # COMM_WORLD is kept for `_ended`, apart from what the others wait for


@contextmanager
def _refusing() -> Iterator[None]:
    """A ValueError about what the user brought, raised on all ranks alike, as a UsageError."""
    try:
        yield
    except np.linalg.LinAlgError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _agreed(comm: Any, work: Any, *arguments: Any) -> None:
    """Works on the file system on rank 0; what it refuses by a ValueError is raised on every rank."""
    message = None
    if comm is None or comm.rank == 0:
        try:
            work(*arguments)
        except ValueError as error:
            message = str(error)
    message = message if comm is None else comm.bcast(message)
    if message is not None:
        raise UsageError(message)


def _check_run(args: argparse.Namespace) -> None:
    """Makes --out ready for a run, a new one or the one that it holds. ValueError if it holds what must stay."""
    steps = args.out / io.CHECKPOINT
    begun = steps.exists()
    if args.resume and not begun and (args.out / io.RESULT).exists():
        raise ValueError(f"--out {args.out} holds a finished run: there is nothing to resume")
    io.check_folder(args.out, args.overwrite or args.resume)
    if begun and not is_folder_of_steps(steps):
        raise ValueError(f"--out {args.out} holds {io.CHECKPOINT} that no {io.PROGRAM} run wrote: name another folder")
    if begun and not (args.overwrite or args.resume):
        raise ValueError(f"--out {args.out} holds an unfinished run: go on with --resume, or replace it with --overwrite")
    if begun and args.overwrite:
        shutil.rmtree(steps)


@contextmanager
def _checkpointed(args: argparse.Namespace, comm: Any) -> Iterator[Path]:
    """The folder for the steps of a solve. They stay when it is interrupted, and go when it ends without an answer."""
    try:
        with _refusing():
            yield args.out / io.CHECKPOINT
    except NotConvergedError:
        _remove_steps(args, comm)
        raise


def _remove_steps(args: argparse.Namespace, comm: Any) -> None:
    if comm is None or comm.rank == 0:
        shutil.rmtree(args.out / io.CHECKPOINT, ignore_errors=True)


def run_example(args: argparse.Namespace, comm: Any) -> int:
    begun = time.perf_counter()
    with _refusing():
        problem = problems.problem(args.name, args.grid, nearest=args.round)
    parameters = arguments.parameters(args.parameters, problem) if args.parameters else (problem.start if args.ep else problem.nearby)
    _agreed(comm, _check_run, args)
    log.info("%s: n = %d, %s", problem.title, problem.n, _where(comm))

    with _checkpointed(args, comm) as checkpoint:
        chain, point, assembly = _solve(problem, parameters, comm, search=args.ep, checkpoint=checkpoint)
    about = {"name": problem.name, "title": problem.title, "n": problem.n, "cells": problem.cells, "target": complex(problem.target)}
    about["dimensions"] = problem.dimensions
    return _finish(args, about | {"parameter_names": problem.parameter_names, "start": parameters}, chain, point, assembly, begun, comm)


def run_chain(args: argparse.Namespace, comm: Any) -> int:
    begun = time.perf_counter()
    target = arguments.one_number(args.target, "--target")
    known = None if args.known is None else arguments.one_number(args.known, "--known").real
    if known is not None and (args.dA or args.dB):
        raise UsageError("--known is for a chain of first order: leave out --dA and --dB, which move it to other matrices")
    A, B, dA, dB, assembly = _read(args, comm)
    _agreed(comm, _check_run, args)
    with _checkpointed(args, comm) as checkpoint:
        chain = jordan_chain(A, B, target=target, size=arguments.size(args.size), dA=dA, dB=dB, checkpoint=checkpoint)
        bounds = None if known is None or chain.verdict != "block" else vars(chain.forward_bounds(A, B, perturbation=known))
    count = max(len(dA), len(dB))
    about = _about(args, chain, count) | {"target": target, "start": [0.0] * count, "forward_bounds": bounds}
    problems.destroy(A, B, *dA, *dB)
    return _finish(args, about, chain, None, assembly, begun, comm)


def run_ep(args: argparse.Namespace, comm: Any) -> int:
    begun = time.perf_counter()
    target, start = arguments.one_number(args.target, "--target"), arguments.numbers(args.start, "--start")
    window = None if args.window is None else arguments.window(args.window)
    A, B, dA, dB, assembly = _read(args, comm)
    _agreed(comm, _check_run, args)
    with _checkpointed(args, comm) as checkpoint:
        family = AffineFamily(A, dA, B, dB)
        point = find_exceptional_point(family, start, target=target, size=arguments.size(args.size), window=window, checkpoint=checkpoint)
    about = _about(args, point.chain, family.parameters) | {"target": target, "start": start}
    problems.destroy(A, B, *dA, *dB)
    return _finish(args, about, point.chain, point, assembly, begun, comm)


def run_scan(args: argparse.Namespace, comm: Any) -> int:
    begun = time.perf_counter()
    window, group = arguments.window(args.window), args.group
    target = None if args.target is None else arguments.one_number(args.target, "--target")
    if args.A in problems.PROBLEMS:
        if args.B or args.dA or args.dB:
            raise UsageError(f"{args.A} is a built-in problem and brings its own matrices: leave out --B, --dA and --dB")
        problem = problems.problem(args.A)
        family, target = problem.family(comm), problem.target if target is None else target
    else:
        # every rank follows all eigenvalues of a small pencil by itself
        A, B, dA, dB, _ = _read(args, None if target is None else comm)
        with _refusing():
            family = AffineFamily(A, dA, B, dB)
    _agreed(comm, io.check_folder, args.out, args.overwrite, io.SCAN_FILES)
    with _refusing():
        scan = scan_exceptional_points(family, window, target=target, group=group)
    points = [
        {
            "parameters": point.parameters,
            "eigenvalue": point.chain.eigenvalue,
            "loop": point.loop,
            "subspace_residual": point.chain.subspace_residual,
            "chain_residuals": point.chain.chain_residuals,
            "backward_error": point.chain.backward_error,
            "puiseux": point.chain.puiseux,
        }
        for point in scan.points
    ]
    result = {
        "program": io.PROGRAM,
        "mode": "scan",
        "name": args.A,
        "window": window,
        "target": target,
        "group": None if target is None else group,
        "count": scan.count,
        "complete": scan.complete,
        "points": points,
        "unresolved": scan.unresolved,
        "failed": scan.failed,
        "seconds": {"total": time.perf_counter() - begun},
        "versions": _versions(comm),
    }
    for point in scan.points:
        problems.destroy(point.chain.vectors, point.chain.left_vectors, point.chain.original_vectors)
    problems.destroy(family.A0, *family.dA, family.B0, *family.dB)
    if comm is None or comm.rank == 0:
        for point in scan.points:
            p = ", ".join(format(complex(v) if np.iscomplexobj(v) else float(v), ".12g") for v in point.parameters)
            swap = "its two eigenvalues swap around it" if point.loop else "no loop certifies it"
            print(f"{p}: eigenvalue {point.chain.eigenvalue:.12g}, {swap}")
        for where in scan.unresolved:
            log.warning("zeros of the discriminant near %s that are no point found here", where)
        io.write_json(args.out / io.SCAN_FILES[0], result)
        _write_page(args.out)
        _tell_scan(args.out, result)
        print(args.out / io.SCAN_FILES[0])
        if args.json:
            print(json.dumps(io.jsonable(result)), flush=True)
    return 0


def _where(comm: Any) -> str:
    return f"{'scipy' if comm is None else 'PETSc'} on {1 if comm is None else comm.size} process(es)"


def _read(args: argparse.Namespace, comm: Any) -> tuple[Any, Any, list[Any], list[Any], float]:
    """A, B, dA, dB and the seconds that reading took."""
    begun = time.perf_counter()
    with _refusing():
        A = read_matrix(args.A, comm)
        B = None if args.B is None else read_matrix(args.B, comm)
        dA, dB = ([None if name == "none" else read_matrix(name, comm) for name in names] for names in (args.dA, args.dB))
    seconds = time.perf_counter() - begun
    log.info("read in %.2f s, %s", seconds, _where(comm))
    return A, B, dA, dB, seconds


def _about(args: argparse.Namespace, chain: JordanChain, count: int) -> dict[str, Any]:
    names = [f"p{i + 1}" for i in range(count)]
    return {"name": args.A, "title": args.A, "n": io.local_block(chain.vectors)[2], "cells": None, "parameter_names": names}


def _finish(
    args: argparse.Namespace,
    about: dict[str, Any],
    chain: JordanChain,
    point: ExceptionalPoint | None,
    assembly: float,
    begun: float,
    comm: Any,
) -> int:
    """Writes the run and says where it is."""
    seconds = {
        "assembly": assembly,
        "factor": chain.cost.factor_seconds,
        "solve": chain.cost.solve_seconds,
        "total": time.perf_counter() - begun,
    }
    result = _result(about, chain, point, comm) | {"seconds": seconds}
    linearized = None if chain.original_vectors is None else chain.vectors
    grid = {"cells": about["cells"], "dimensions": about.get("dimensions", 1)}
    petsc = getattr(args, "format", "npy") == "petsc"
    io.publish(args.out, result, _fields(chain), comm=comm, **grid, linearized=linearized, petsc=petsc)
    _remove_steps(args, comm)
    problems.destroy(chain.vectors, chain.left_vectors, chain.original_vectors)
    if comm is None or comm.rank == 0:
        _write_page(args.out)
        _tell_end(args.out, io.jsonable(result), point)
        print(args.out / io.RESULT)
        if args.json:
            print(json.dumps(io.jsonable(result)), flush=True)
    return 0


def _tell_end(out: Path, result: dict[str, Any], point: ExceptionalPoint | None) -> None:
    """What came out of a run and what to do next, on one screen."""
    facts = [(name, number(value, 12)) for name, value in zip(result["parameter_names"], result["parameters"], strict=True)]
    if result["step"] is not None:
        facts += [(f"step of {name}", number(value, 6)) for name, value in zip(result["parameter_names"], result["step"], strict=True)]
    facts += [
        ("eigenvalue", number(result["eigenvalue"], 12)),
        ("verdict", VERDICTS[result["verdict"]]),
        ("residuals", ", ".join(f"{residual:.1e}" for residual in (result["subspace_residual"], *result["chain_residuals"]))),
        ("backward error", f"{result['backward_error']:.1e}"),
        ("cost", f"{result['factorizations']} factorization(s), {result['solves']} solves, {result['seconds']['total']:.1f} s"),
    ]
    then = [*_next(out), (f"jordan_dist.io.load_chain({str(out)!r})", "result and vectors in Python")]
    if point is None and result["step"] is not None and result["name"] in problems.PROBLEMS:
        searched = f"{io.PROGRAM} example {result['name']} --ep --out {shlex.quote(f'{out}-ep')}"
        then.append((searched, "the exceptional point itself"))
    tell_end(f"{result['title']} in {out}", facts, then)


def _tell_scan(out: Path, result: dict[str, Any]) -> None:
    points, lost = result["points"], len(result["unresolved"])
    certified = sum(point["loop"] is not None for point in points)
    facts = [
        ("exceptional points", f"{len(points)} in the window, {certified} certified by a loop"),
        ("winding number", f"{result['count']}: {'all zeros are accounted for' if result['complete'] else 'zeros are missing'}"),
    ]
    if lost:
        facts.append(("unresolved", f"zeros near {lost} place(s) that are no point found"))
    if points:
        facts.append(("subspace residual", f"{max(point['subspace_residual'] for point in points):.1e} at most"))
    facts.append(("time", f"{result['seconds']['total']:.1f} s"))
    then = [*_next(out), (str(out / io.SCAN_FILES[0]), "the points, with the window and what certifies each")]
    tell_end(f"Exceptional points of {result['name']} in {out}", facts, then)


def _next(out: Path) -> list[tuple[str, str]]:
    """The page and the figures, where there is a page."""
    if not (out / io.REPORT).exists():
        return []
    return [
        (str(out / io.REPORT), "open it in a browser"),
        (f"{io.PROGRAM} report {shlex.quote(str(out))}", "its figures for papers: PNG, SVG, PDF"),
    ]


def _solve(
    problem: problems.Problem, parameters: Sequence[complex], comm: Any, *, search: bool, checkpoint: Path
) -> tuple[JordanChain, ExceptionalPoint | None, float]:
    """The chain, the exceptional point if it was searched, and the seconds that the assembly took."""
    begun = time.perf_counter()
    common: dict[str, Any] = {"target": problem.target, "size": problem.size, "checkpoint": checkpoint}
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


def _result(about: dict[str, Any], chain: JordanChain, point: ExceptionalPoint | None, comm: Any) -> dict[str, Any]:
    X = io.local_block(_fields(chain))[0]
    squares = np.sum(np.abs(X) ** 2, axis=0)
    peak = memory.peak()
    if comm is not None:
        squares, peak = comm.allreduce(squares), comm.allreduce(peak)
    result = {
        "program": io.PROGRAM,
        "mode": "chain" if point is None else "exceptional point",
        **about,
        "ranks": 1 if comm is None else comm.size,
        "backend": "scipy" if comm is None else "petsc",
        "parameters": about["start"] if point is None else point.parameters,
        "eigenvalue": chain.eigenvalue,
        "eigenvalues": np.linalg.eigvals(chain.matrix),
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
        "peak_memory_bytes": peak,
        "versions": _versions(comm),
    }
    if point is not None:
        result["history"] = [vars(step) for step in point.history]
    return result


def _versions(comm: Any) -> dict[str, str]:
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    if comm is None:
        return versions
    from jordan_dist.backends import petsc

    return versions | petsc.versions()


def _write_page(folder: Path) -> None:
    try:
        write_page(folder)
    except MissingExtraError as error:
        log.info("no report: %s", error)


def run_verify(args: argparse.Namespace, comm: Any) -> int:
    _agreed(comm, io.check_folder, args.out, args.overwrite, io.VERIFY_FILES)
    begun = time.perf_counter()
    comm = comm if comm is not None and comm.size > 1 else None  # small dense pencils: LAPACK is the library for them on one process
    log.setLevel(logging.WARNING)  # two thousand lines of how every chain was found would bury the table
    cases = verify.verify(comm=comm)
    passed = all(case.passed for case in cases)
    result = {
        "program": io.PROGRAM,
        "mode": "verify",
        "ranks": 1 if comm is None else comm.size,
        "backend": "scipy" if comm is None else "petsc",
        "tolerance": verify.TOLERANCE,
        "floor": verify.FLOOR,
        "passed": passed,
        "cases": [vars(case) | {"name": case.name, "passed": case.passed} for case in cases],
        "seconds": {"total": time.perf_counter() - begun},
        "versions": _versions(comm),
    }
    if comm is None or comm.rank == 0:
        for name in io.VERIFY_FILES:
            (args.out / name).unlink(missing_ok=True)
        try:
            verify.draw(cases, *(args.out / name for name in io.VERIFY_FILES[1:]))
        except MissingExtraError as error:
            log.info("no figure: %s", error)
        io.write_json(args.out / io.VERIFY_FILES[0], result)
        _write_page(args.out)
        print(verify.table(cases))
        print(args.out / io.VERIFY_FILES[0])
        if args.json:
            print(json.dumps(io.jsonable(result)), flush=True)
    return 0 if passed else 1


def run_plan(args: argparse.Namespace, comm: Any) -> int:
    n = arguments.one_number(args.n, "--n").real
    size = 1 if comm is None else comm.size
    ranks = size if args.ranks is None else args.ranks
    if not 2 <= n <= plan.LARGEST or n != int(n) or ranks < 1:
        raise UsageError(f"--n {args.n} --ranks {ranks}: a whole number of unknowns from 2 to 1e9 is needed, and at least one rank")
    n, path, versions = int(n), args.calibration or plan.default_path(), _versions(comm)
    root = comm is None or comm.rank == 0
    with _refusing():
        known = plan.stored(path)
    if comm is not None:
        known = comm.bcast(known)
    if args.calibration is None:
        known = {r: one for r, one in known.items() if plan.is_of_here(one, versions)}
    if not known or (size > 1 and size not in known):
        log.info("measuring small chains, for about a minute, on %s", _where(comm))
        log.setLevel(logging.WARNING)  # and not a line for every sweep
        known[size] = plan.calibrate(versions, comm)
        if root:
            try:
                plan.store(path, known)
            except OSError as error:
                log.warning("the measurement is not kept: %s", error)
    chosen, at_hand = plan.nearest(known, ranks), memory.available()
    found = {kind: plan.predict(chosen, n, args.dim, kind, ranks) for kind in plan.KINDS}
    if root:
        print(plan.table(n, args.dim, ranks, chosen, found, at_hand))
        if args.json:
            about = {"program": io.PROGRAM, "mode": "plan", "n": n, "dimensions": args.dim, "ranks": ranks, "calibration": str(path)}
            about |= {"calibrated": {"host": chosen.host, "ranks": chosen.ranks, "date": chosen.date}, "memory_at_hand_bytes": at_hand}
            kinds = {kind: asdict(p) | {"advice": plan.advice(chosen, p, args.dim, kind, ranks, at_hand)} for kind, p in found.items()}
            print(json.dumps(io.jsonable(about | {"kinds": kinds})), flush=True)
    return 0


def run_bench(args: argparse.Namespace, comm: Any) -> int:
    log.setLevel(logging.WARNING)  # standard output has the lines, and nobody wants those of every sweep beside them
    if args.repeat < 1:
        raise UsageError(f"--repeat {args.repeat}: at least one run is needed")
    with _refusing():
        cases = [problems.problem(name, grid) for name in args.names for grid in args.grid]
    for problem in cases:
        possible = bench.methods_for(problem, comm)
        methods = possible if args.methods is None else args.methods
        for method in methods:
            if method not in possible:
                raise UsageError(
                    f"--methods {method}: not for {problem.name} with n = {problem.n} here; possible are {', '.join(possible)}"
                )
        measured = bench.measure(problem, methods, args.repeat, comm)
        about = {
            "program": io.PROGRAM,
            "mode": "bench",
            "name": problem.name,
            "grid": problem.cells,
            "n": problem.n,
            "ranks": 1 if comm is None else comm.size,
            "backend": "scipy" if comm is None else "petsc",
            "repeat": args.repeat,
            "date": time.strftime("%Y-%m-%d"),
            "cores": os.cpu_count(),
            "versions": _versions(comm),
        }
        if comm is None or comm.rank == 0:
            print(json.dumps(io.jsonable(about | measured)), flush=True)
    return 0


def run_report(args: argparse.Namespace, comm: Any) -> int:
    def write() -> None:
        page, files = write_page(args.folder), write_figures(args.folder)
        log.info("figures for papers: %d files in %s", len(files), args.folder / FIGURES)
        print(page)

    _agreed(comm, write)
    return 0


RUNS = {
    "example": run_example,
    "chain": run_chain,
    "ep": run_ep,
    "scan": run_scan,
    "verify": run_verify,
    "plan": run_plan,
    "bench": run_bench,
    "report": run_report,
}


if __name__ == "__main__":
    sys.exit(main())
