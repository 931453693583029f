"""`python -m cluster`: what starts both halves together."""

import argparse
import sys
from pathlib import Path

from cluster.demo import demo


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster", description="Starts both halves together.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "demo",
        help="the main job of both halves, end to end, and one page of results",
        epilog="example: python -m cluster demo --out runs/demo",
    )
    command.add_argument("--out", type=Path, required=True, help="folder of the demo; results of an earlier demo in it are replaced")
    command.add_argument("--size", default="small", help="size of the population recipe: tiny (a smoke test) or small; default small")
    arguments = parser.parse_args()
    return demo(arguments.out, size=arguments.size)


if __name__ == "__main__":
    sys.exit(main())
