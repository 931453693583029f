"""`python -m cluster.experiments NAME`: run one of the measurements; without a name, list them."""

import ast
import runpy
import sys
from pathlib import Path

# What the measurements share.
SHARED = ("__init__", "__main__", "timing")


def names() -> dict[str, str]:
    """What every measurement says of itself, by name; nothing is imported."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return {
        file.stem: (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0] for file in files if file.stem not in SHARED
    }


def main() -> int:
    """Exit status: 0 done, 2 unknown name; else that of the measurement."""
    known = names()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m cluster.experiments NAME [its own arguments; --help lists them]\n")
        for name, says in known.items():
            print(f"{name:22s} {says}")
        return 0
    name = sys.argv[1]
    if name not in known:
        print(f"cluster.experiments: no measurement {name!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    sys.argv = [f"python -m cluster.experiments {name}", *sys.argv[2:]]
    runpy.run_module(f"cluster.experiments.{name}", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
