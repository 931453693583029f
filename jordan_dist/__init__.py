"""Jordan chains and exceptional points of large sparse pencils A - lambda B, on one process or under MPI.

Three functions do the work: `jordan_chain` for a given, nearly defective pencil, `find_exceptional_point` for a family of pencils
that depends on parameters, and `scan_exceptional_points` for all of them in a window of the parameters. Matrices are numpy arrays
or scipy sparse matrices (one process), or PETSc matrices (any number of ranks, extra `petsc`); the package imports without PETSc.
"""

from jordan_dist.backends import MissingExtraError
from jordan_dist.chain import JordanChain, jordan_chain
from jordan_dist.exceptional import ExceptionalPoint, find_exceptional_point
from jordan_dist.pencil import AffineFamily
from jordan_dist.quadratic import QuadraticPencil
from jordan_dist.scan import Scan, scan_exceptional_points
from jordan_dist.subspace import NotConvergedError

__all__ = [
    "AffineFamily",
    "ExceptionalPoint",
    "JordanChain",
    "MissingExtraError",
    "NotConvergedError",
    "QuadraticPencil",
    "Scan",
    "find_exceptional_point",
    "jordan_chain",
    "scan_exceptional_points",
]
