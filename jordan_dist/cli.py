"""The command jordan-dist, alone or under mpirun.

Exit status: 0 done, 1 `verify` measured something else than it must, 2 arguments, input or set-up that cannot work, 3 no
trustworthy answer (the reason is on standard error), 130 Ctrl-C. Under mpirun only rank 0 speaks, except that a rank which fails
unexpectedly says why and ends all of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import re
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import scipy
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from jordan_dist import bench, io, memory, plan, problems, verify
from jordan_dist.backends import MissingExtraError
from jordan_dist.chain import JordanChain, jordan_chain
from jordan_dist.checkpoint import is_folder_of_steps
from jordan_dist.exceptional import ExceptionalPoint, find_exceptional_point
from jordan_dist.matrices import read_matrix
from jordan_dist.pencil import AffineFamily
from jordan_dist.report import VERDICTS, number, write_page
from jordan_dist.scan import scan_exceptional_points
from jordan_dist.subspace import NotConvergedError

log = logging.getLogger("jordan_dist")

EPILOG = """\
examples:
  jordan-dist example waveguides --ep --out runs/waveguides
  mpirun -n 2 jordan-dist example resonators --ep --out runs/resonators
  jordan-dist example resonators --parameters=-0.1243+0.2748i --out runs/chain
  mpirun -n 2 jordan-dist chain A.mtx --B B.mtx --target 7.6-0.2i --out runs/mine
  jordan-dist chain A.mtx --target 7.6-0.2i --size auto --known 1e-6 --out runs/bounds
  jordan-dist ep A0.npz --dA A1.npz --start 0.1+0.2i --target 7.6-0.2i --out runs/point
  jordan-dist scan A0.npy --dA A1.npy --window=-1-1i:1+1i --out runs/all
  jordan-dist scan resonators --window=-0.2-0.4i:0.2+0.4i --out runs/both
  jordan-dist verify --out runs/verify
  mpirun -n 2 jordan-dist bench waveguides --grid 212 424 > bench.jsonl
  jordan-dist plan --n 4e6 --dim 2 --ranks 2

Matrices are read from Matrix Market (.mtx, .mtx.gz), scipy sparse (.npz), numpy (.npy) and PETSc binary files (any other name).

The direct solver takes PETSc options with the prefix jordan_ from the environment, for example
PETSC_OPTIONS="-jordan_mat_mumps_icntl_14 200".
"""


QUIET = "say nothing on standard error but warnings and what went wrong"
PATIENCE = 5.0  # seconds in which ranks that fail alike come together


class UsageError(ValueError):
    """What the user asked for cannot be done; raised on all ranks alike."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    shared: dict[str, Any] = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    top = _Parser(prog=io.PROGRAM, description="Jordan chains and exceptional points of large sparse pencils.", **shared)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = f"Solves a built-in problem:\n{problems.descriptions()}"
    example = commands.add_parser("example", help="solve a built-in problem", description=about, **shared)
    example.add_argument("name", metavar="NAME", help=", ".join(problems.PROBLEMS))
    example.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for result.json, the chain and the report")
    example.add_argument("--ep", action="store_true", help="search the exceptional point; otherwise the chain near --parameters")
    example.add_argument("--parameters", metavar="P[,P..]", help="where to start or to solve, such as 0.0051 or -0.12+0.27i")
    example.add_argument("--grid", type=int, metavar="G", help="cells per side; a multiple of 212 where there are rectangles (default 212)")
    example.add_argument("--round", action="store_true", help="take the nearest grid that keeps the geometry, instead of refusing G")
    _replacing(example)
    example.add_argument("--json", action="store_true", help="print result.json as the last line of standard output")
    example.add_argument("--quiet", action="store_true", help=QUIET)
    example.set_defaults(run=run_example)
    chain = commands.add_parser(
        "chain", help="the Jordan chain of your matrices", description="The Jordan chain of A - lambda B.", **shared
    )
    _matrices(chain, "A", derivatives="derivatives by the parameters, one file each: the chain is then of second order")
    _wanted(chain)
    chain.add_argument(
        "--known", metavar="D", help="to what 2-norm the matrices are known: bounds of the errors of the chain (one more factorization)"
    )
    _run_folder(chain, run_chain)
    ep = commands.add_parser("ep", help="the exceptional point of your family", description="The exceptional point near --start.", **shared)
    _matrices(ep, "A0", derivatives="A1, A2, .. of A0 + sum p_i A_i, one file per parameter")
    _wanted(ep)
    ep.add_argument("--start", required=True, metavar="P[,P..]", help="parameters; if all are real they stay real")
    ep.add_argument("--window", metavar="P:P", help="two corners; a search that leaves the window ends with status 3")
    _run_folder(ep, run_ep)
    scan = commands.add_parser(
        "scan",
        help="all exceptional points in a window",
        description="All exceptional points of two eigenvalues in a window of one complex or two real parameters.",
        **shared,
    )
    _matrices(scan, "A0", derivatives="A1, A2, .. of A0 + sum p_i A_i, one file per parameter", example=True)
    scan.add_argument("--window", required=True, metavar="P:P", help="lower left and upper right corner, such as -1-1i:1+1i or 0,0:1,2")
    scan.add_argument("--target", metavar="Z", help="near the eigenvalues that merge; without it all pairs, of order up to 200")
    scan.add_argument("--group", type=int, default=2, metavar="M", help="how many eigenvalues nearest the target to follow (default 2)")
    scan.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for scan.json")
    scan.add_argument("--overwrite", action="store_true", help="replace the scan that --out holds")
    scan.add_argument("--json", action="store_true", help="print scan.json as the last line of standard output")
    scan.add_argument("--quiet", action="store_true", help=QUIET)
    scan.set_defaults(run=run_scan)
    check = commands.add_parser(
        "verify",
        help="measure the errors on pencils with known chains",
        description="Solves dense pencils with planted Jordan blocks and prints how the errors fall with the distance from the "
        "defective pencil. Exit status 1 if a slope or an error is not what it must be.",
        **shared,
    )
    check.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for verify.json and the figure")
    check.add_argument("--overwrite", action="store_true", help="replace the measurement that --out holds")
    check.add_argument("--json", action="store_true", help="print verify.json as the last line of standard output")
    check.set_defaults(run=run_verify)
    planned = commands.add_parser(
        "plan",
        help="memory and time of a chain before it is started",
        description="Extrapolates from small chains on this machine. They take a minute; what they measured is kept in FILE and used "
        "again: by default $XDG_CACHE_HOME/jordan-dist/calibration-HOST.json (~/.cache without that variable), as long as versions and "
        "cores stay the same. A FILE that is named is used wherever it was measured. Under mpirun that many ranks are measured.",
        **shared,
    )
    planned.add_argument("--n", required=True, metavar="N", help="unknowns, such as 4e6, up to 1e9")
    planned.add_argument("--dim", required=True, type=int, choices=[2, 3], help="of the grid")
    planned.add_argument("--ranks", type=int, metavar="R", help="of the chain (default: of this command)")
    planned.add_argument("--calibration", type=Path, metavar="FILE", help="where the measurement is kept")
    planned.add_argument("--json", action="store_true", help="print the plan as the last line of standard output")
    planned.set_defaults(run=run_plan)
    race = commands.add_parser(
        "bench",
        help="times and memory, against other libraries",
        description="One JSON line per problem and grid: the methods in turn, medians, and the ratios to the peers that are installed.",
        **shared,
    )
    race.add_argument("names", nargs="*", default=["waveguides", "resonators"], metavar="NAME", help="built-in problems")
    race.add_argument("--grid", nargs="+", type=int, default=[None], metavar="G", help="cells per side, one line for each")
    race.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of which the median is taken (default 3)")
    race.add_argument(
        "--methods", nargs="+", choices=bench.OWN + bench.PEERS, metavar="M", help=f"of {', '.join(bench.OWN + bench.PEERS)} (default: all)"
    )
    race.set_defaults(run=run_bench)
    report = commands.add_parser(
        "report", help="write the page of a run again", description="Writes report.html of a run, a scan or a measurement.", **shared
    )
    report.add_argument("folder", type=Path, metavar="DIR", help="the --out of example, chain, ep, scan or verify")
    report.set_defaults(run=run_report)
    return top


def _matrices(command: argparse.ArgumentParser, first: str, *, derivatives: str, example: bool = False) -> None:
    """The arguments that name files of matrices."""
    other = f", or a built-in problem: {', '.join(problems.PROBLEMS)}" if example else ""
    command.add_argument("A", metavar=first, help=f"file with the matrix {first}{other}")
    command.add_argument("--B", metavar="FILE", help="the matrix B; without it the identity")
    command.add_argument("--dA", nargs="+", default=[], metavar="FILE", help=f"{derivatives}; `none` where zero")
    command.add_argument("--dB", nargs="+", default=[], metavar="FILE", help="the same of B")


def _wanted(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", required=True, metavar="Z", help="near the eigenvalues, such as 7.6-0.2i")
    command.add_argument(
        "--size", default="2", metavar="K", help="of the Jordan block (default 2); `auto`: as many as stand clear of the next"
    )


def _run_folder(command: argparse.ArgumentParser, run: Any) -> None:
    command.add_argument("--format", choices=["npy", "petsc"], default="npy", help="of the chain: chain.npy or chain.petsc")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for result.json, the chain and the report")
    _replacing(command)
    command.add_argument("--json", action="store_true", help="print result.json as the last line of standard output")
    command.add_argument("--quiet", action="store_true", help=QUIET)
    command.set_defaults(run=run)


def _replacing(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group()
    which.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    which.add_argument("--resume", action="store_true", help="go on with the run that --out holds, on any number of ranks")


def main(argv: Sequence[str] | None = None) -> int:
    comm, rank = None, _launched("RANK") or 0
    try:
        args = parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
        comm = _world()
        rank = comm.rank if comm is not None else 0
        with _telling(rank, quiet=getattr(args, "quiet", False)):
            return args.run(args, comm)
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


DIGITS = 16  # of a residual: the whole bar


@contextmanager
def _telling(rank: int, *, quiet: bool) -> Iterator[None]:
    """The log on standard error, of rank 0 alone: on a terminal above a line with the last residual and the time, elsewhere without
    colours and bars."""
    console, bar = Console(stderr=True), None
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    if rank != 0:
        handler = logging.NullHandler()  # without any handler warnings would still be printed
    elif sys.stderr.isatty() and not console.is_dumb_terminal and not quiet:
        columns = TextColumn("residual"), BarColumn(bar_width=32), TextColumn("{task.description}"), TimeElapsedColumn()
        # Standard output is the caller's, and may be a file.
        bar = Progress(*columns, console=console, transient=True, redirect_stdout=False)
        handler = _AboveTheBar(bar)
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        with bar or nullcontext():
            yield
    finally:
        log.removeHandler(handler)


class _AboveTheBar(logging.Handler):
    """Every message is a line of its own; the residual in it is what the bar shows, by its digits."""

    def __init__(self, bar: Progress) -> None:
        super().__init__()
        self.bar, self.task = bar, bar.add_task("", total=DIGITS)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.bar.console.print(Text(message), soft_wrap=True)
        found = re.search(r"residual (\d\.\de[+-]\d+)", message)
        if found:
            digits = -math.log10(max(float(found[1]), 10.0**-DIGITS))
            self.bar.update(self.task, description=found[1], completed=max(0.0, digits))


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


def _joined(argv: Sequence[str]) -> list[str]:
    """`--parameters -0.1+0.3i` as one word: argparse takes a complex number with a sign for an option."""
    words = list(argv)
    for i in reversed([i for i, word in enumerate(words[:-1]) if word in ("--parameters", "--start", "--target", "--window")]):
        words[i : i + 2] = [f"{words[i]}={words[i + 1]}"]
    return words


def _numbers(text: str, flag: str) -> tuple[complex, ...]:
    """Real numbers stay real: a search then stays on the real line."""
    try:
        values = [complex(part.strip().replace("i", "j")) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag} {text!r}: numbers separated by commas are needed, such as 0.0051 or -0.12+0.27i") from None
    return tuple(values) if any(v.imag for v in values) else tuple(v.real for v in values)


def _parameters(text: str, problem: problems.Problem) -> tuple[complex, ...]:
    values = _numbers(text, "--parameters")
    if len(values) != len(problem.parameter_names) or not np.isfinite(values).all():
        names = ", ".join(problem.parameter_names)
        raise UsageError(f"--parameters {text!r}: {problem.name} has {len(problem.parameter_names)} finite parameter(s): {names}")
    return values


def _window(text: str) -> tuple[tuple[complex, ...], ...]:
    corners = text.split(":")
    if len(corners) != 2:
        raise UsageError(f"--window {text!r}: two corners with a colon between them are needed, such as -1-1i:1+1i or 0,0:1,2")
    return tuple(_numbers(corner, "--window") for corner in corners)


def _one_number(text: str, flag: str) -> complex:
    values = _numbers(text, flag)
    if len(values) != 1 or not np.isfinite(values[0]):
        raise UsageError(f"{flag} {text!r}: one finite number is needed, such as 7.6-0.2i")
    return complex(values[0])


def _size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--size {text!r}: a whole number is needed, or auto")
    return int(text)


@contextmanager
def _refusing() -> Iterator[None]:
    """A ValueError about what the user brought, raised on all ranks alike, as a UsageError."""
    try:
        yield
    except np.linalg.LinAlgError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


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
    parameters = _parameters(args.parameters, problem) if args.parameters else (problem.start if args.ep else problem.nearby)
    _agreed(comm, _check_run, args)
    log.info("%s: n = %d, %s", problem.title, problem.n, _where(comm))

    with _checkpointed(args, comm) as checkpoint:
        chain, point, assembly = _solve(problem, parameters, comm, search=args.ep, checkpoint=checkpoint)
    about = {"name": problem.name, "title": problem.title, "n": problem.n, "cells": problem.cells, "target": complex(problem.target)}
    about["dimensions"] = problem.dimensions
    return _finish(args, about | {"parameter_names": problem.parameter_names, "start": parameters}, chain, point, assembly, begun, comm)


def run_chain(args: argparse.Namespace, comm: Any) -> int:
    begun = time.perf_counter()
    target = _one_number(args.target, "--target")
    known = None if args.known is None else _one_number(args.known, "--known").real
    if known is not None and (args.dA or args.dB):
        raise UsageError("--known is for a chain of first order: leave out --dA and --dB, which move it to other matrices")
    A, B, dA, dB, assembly = _read(args, comm)
    _agreed(comm, _check_run, args)
    with _checkpointed(args, comm) as checkpoint:
        chain = jordan_chain(A, B, target=target, size=_size(args.size), dA=dA, dB=dB, checkpoint=checkpoint)
        bounds = None if known is None or chain.verdict != "block" else vars(chain.forward_bounds(A, B, perturbation=known))
    count = max(len(dA), len(dB))
    about = _about(args, chain, count) | {"target": target, "start": [0.0] * count, "forward_bounds": bounds}
    problems.destroy(A, B, *dA, *dB)
    return _finish(args, about, chain, None, assembly, begun, comm)


def run_ep(args: argparse.Namespace, comm: Any) -> int:
    begun = time.perf_counter()
    target, start = _one_number(args.target, "--target"), _numbers(args.start, "--start")
    window = None if args.window is None else _window(args.window)
    A, B, dA, dB, assembly = _read(args, comm)
    _agreed(comm, _check_run, args)
    with _checkpointed(args, comm) as checkpoint:
        family = AffineFamily(A, dA, B, dB)
        point = find_exceptional_point(family, start, target=target, size=_size(args.size), window=window, checkpoint=checkpoint)
    about = _about(args, point.chain, family.parameters) | {"target": target, "start": start}
    problems.destroy(A, B, *dA, *dB)
    return _finish(args, about, point.chain, point, assembly, begun, comm)


def run_scan(args: argparse.Namespace, comm: Any) -> int:
    begun = time.perf_counter()
    window, group = _window(args.window), args.group
    target = None if args.target is None else _one_number(args.target, "--target")
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
        log.info("report: %s", args.out / io.REPORT)
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
    then = [(f"jordan_dist.io.load_chain({str(out)!r})", "result and vectors in Python")]
    if (out / io.REPORT).exists():
        then.insert(0, (str(out / io.REPORT), "open it in a browser"))
    if point is None and result["step"] is not None and result["name"] in problems.PROBLEMS:
        searched = f"{io.PROGRAM} example {result['name']} --ep --out {shlex.quote(f'{out}-ep')}"
        then.append((searched, "the exceptional point itself"))
    width = max(len(name) for name, _ in facts)
    wide = max(len(text) for text, _ in then)
    lines = [f"\n{result['title']} in {out}", *(f"  {name:<{width}}  {value}" for name, value in facts)]
    log.info("%s", "\n".join([*lines, "next", *(f"  {text:<{wide}}  {word}" for text, word in then)]))


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
    n = _one_number(args.n, "--n").real
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
    if comm is None or comm.rank == 0:
        try:
            print(write_page(args.folder))
        except ValueError as error:
            raise UsageError(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
