"""`python -m cluster`: what starts both halves together, on one machine or on many."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.demo import demo
from dynamo_dist.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 wrong input; of the demo that of the step that failed."""
    parser = argparse.ArgumentParser(prog="python -m cluster", description="Starts both halves, on one machine or on many.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "demo",
        help="the main job of both halves, end to end, and one page of results",
        epilog="example: python -m cluster demo --out runs/demo",
    )
    command.add_argument("--out", type=Path, required=True, help="folder of the demo; results of an earlier demo in it are replaced")
    command.add_argument("--size", default="small", help="size of the population recipe: tiny (a smoke test) or small; default small")
    command = commands.add_parser(
        "render",
        help="fill the launch files of a cluster from one small configuration, and check them",
        epilog="example: python -m cluster render cluster/launch/example.toml --out launch",
    )
    command.add_argument("config", type=Path, help="TOML file; cluster/launch/example.toml shows every key")
    command.add_argument("--out", type=Path, required=True, help="folder for the files")
    command.add_argument("--overwrite", action="store_true", help="replace files that are there")
    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        return demo(arguments.out, size=arguments.size)
    try:
        _render(arguments)
    except InputError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 2
    return 0


def _render(arguments: argparse.Namespace) -> None:
    from cluster.launch.config import read_config
    from cluster.launch.render import render, write

    for path in write(render(read_config(arguments.config)), arguments.out, overwrite=arguments.overwrite):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
