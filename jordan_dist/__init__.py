"""Jordan chains and exceptional points of large sparse pencils A - lambda B, on one process or under MPI.

Two functions do the work: `jordan_chain` for a given, nearly defective pencil, and `find_exceptional_point` for a family of
pencils that depends on parameters. Matrices are numpy arrays or scipy sparse matrices (one process), or PETSc matrices (any
number of ranks, extra `petsc`); the package imports without PETSc.
"""

from jordan_dist.backends import MissingExtraError
from jordan_dist.chain import JordanChain, jordan_chain
from jordan_dist.exceptional import ExceptionalPoint, find_exceptional_point
from jordan_dist.pencil import AffineFamily
from jordan_dist.quadratic import QuadraticPencil
from jordan_dist.subspace import NotConvergedError

__all__ = [
    "AffineFamily",
    "ExceptionalPoint",
    "JordanChain",
    "MissingExtraError",
    "NotConvergedError",
    "QuadraticPencil",
    "find_exceptional_point",
    "jordan_chain",
]
