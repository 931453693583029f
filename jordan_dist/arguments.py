"""The arguments of jordan-dist: its parser, and the words of which argparse makes no numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jordan_dist import bench, io, problems

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
  jordan-dist report runs/waveguides

Matrices are read from Matrix Market (.mtx, .mtx.gz), scipy sparse (.npz), numpy (.npy) and PETSc binary files (any other name).

The direct solver takes PETSc options with the prefix jordan_ from the environment, for example
PETSC_OPTIONS="-jordan_mat_mumps_icntl_14 200".
"""
QUIET = "say nothing on standard error but warnings and what went wrong"


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
    chain = commands.add_parser(
        "chain", help="the Jordan chain of your matrices", description="The Jordan chain of A - lambda B.", **shared
    )
    _matrices(chain, "A", derivatives="derivatives by the parameters, one file each: the chain is then of second order")
    _wanted(chain)
    chain.add_argument(
        "--known", metavar="D", help="to what 2-norm the matrices are known: bounds of the errors of the chain (one more factorization)"
    )
    _run_folder(chain)
    ep = commands.add_parser("ep", help="the exceptional point of your family", description="The exceptional point near --start.", **shared)
    _matrices(ep, "A0", derivatives="A1, A2, .. of A0 + sum p_i A_i, one file per parameter")
    _wanted(ep)
    ep.add_argument("--start", required=True, metavar="P[,P..]", help="parameters; if all are real they stay real")
    ep.add_argument("--window", metavar="P:P", help="two corners; a search that leaves the window ends with status 3")
    _run_folder(ep)
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
    check.add_argument("--quiet", action="store_true", help=QUIET)
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
    planned.add_argument("--quiet", action="store_true", help=QUIET)
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
    report = commands.add_parser(
        "report",
        help="write the page of a run again, and its figures for papers",
        description="Writes report.html of a run, a scan or a measurement, and its figures as PNG, SVG and PDF into figures/.",
        **shared,
    )
    report.add_argument("folder", type=Path, metavar="DIR", help="the --out of example, chain, ep, scan or verify")
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


def _run_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=["npy", "petsc"], default="npy", help="of the chain: chain.npy or chain.petsc")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for result.json, the chain and the report")
    _replacing(command)
    command.add_argument("--json", action="store_true", help="print result.json as the last line of standard output")
    command.add_argument("--quiet", action="store_true", help=QUIET)


def _replacing(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group()
    which.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    which.add_argument("--resume", action="store_true", help="go on with the run that --out holds, on any number of ranks")


def joined(argv: Sequence[str]) -> list[str]:
    """`--parameters -0.1+0.3i` as one word: argparse takes a complex number with a sign for an option."""
    words = list(argv)
    for i in reversed([i for i, word in enumerate(words[:-1]) if word in ("--parameters", "--start", "--target", "--window")]):
        words[i : i + 2] = [f"{words[i]}={words[i + 1]}"]
    return words


def numbers(text: str, flag: str) -> tuple[complex, ...]:
    """Real numbers stay real: a search then stays on the real line."""
    try:
        values = [complex(part.strip().replace("i", "j")) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag} {text!r}: numbers separated by commas are needed, such as 0.0051 or -0.12+0.27i") from None
    return tuple(values) if any(v.imag for v in values) else tuple(v.real for v in values)


def parameters(text: str, problem: problems.Problem) -> tuple[complex, ...]:
    values = numbers(text, "--parameters")
    if len(values) != len(problem.parameter_names) or not np.isfinite(values).all():
        names = ", ".join(problem.parameter_names)
        raise UsageError(f"--parameters {text!r}: {problem.name} has {len(problem.parameter_names)} finite parameter(s): {names}")
    return values


def window(text: str) -> tuple[tuple[complex, ...], ...]:
    corners = text.split(":")
    if len(corners) != 2:
        raise UsageError(f"--window {text!r}: two corners with a colon between them are needed, such as -1-1i:1+1i or 0,0:1,2")
    return tuple(numbers(corner, "--window") for corner in corners)


def one_number(text: str, flag: str) -> complex:
    values = numbers(text, flag)
    if len(values) != 1 or not np.isfinite(values[0]):
        raise UsageError(f"{flag} {text!r}: one finite number is needed, such as 7.6-0.2i")
    return complex(values[0])


def size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--size {text!r}: a whole number is needed, or auto")
    return int(text)
