"""Hook of MkDocs: a line `<!-- help: MODULE -->` becomes the help of every command of `MODULE.parser()`."""

import argparse
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"<!-- help: ([\w.]+) -->", lambda found: help_of(found[1]), markdown)


def help_of(module: str) -> str:
    os.environ["COLUMNS"] = "100"  # where argparse breaks its lines
    parser = importlib.import_module(module).parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return "\n".join(f"### {parser.prog} {name}\n\n```text\n{command.format_help()}```\n" for name, command in commands.choices.items())
