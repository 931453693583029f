"""What jordan-dist says while it works: the log on standard error, with a bar where that is a terminal."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

log = logging.getLogger("jordan_dist")

DIGITS = 16  # of a residual: the whole bar


@contextmanager
def telling(rank: int, *, quiet: bool) -> Iterator[None]:
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


def tell_end(title: str, facts: Sequence[tuple[str, str]], then: Sequence[tuple[str, str]]) -> None:
    """What came out of a command and what to do next, on one screen: `facts` by name, of `then` files, commands or lines of Python with
    a word on each."""
    width, wide = (max((len(text) for text, _ in pairs), default=0) for pairs in (facts, then))
    lines = [f"\n{title}", *(f"  {name:<{width}}  {value}" for name, value in facts)]
    log.info("%s", "\n".join([*lines, "next", *(f"  {text:<{wide}}  {word}" for text, word in then)]))


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
