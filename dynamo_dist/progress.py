"""Progress on standard error, and the last words of a command. This module alone knows rich.

On a terminal the live line stays below the others and has a bar. Elsewhere every change of it is a line: without colours, without bars.
Workers leave small files behind; the command reads and shows them.
"""

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

_started = time.monotonic()
# Seconds between two looks at the workers' files.
INTERVAL = 3.0


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# Set by --quiet.
_quiet = False
# The live line of a terminal.
_live: Progress | None = None


@contextlib.contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """While the body runs, say nothing of the progress if `quiet`."""
    global _quiet
    before, _quiet = _quiet, quiet
    try:
        yield
    finally:
        _quiet = before


def _silent() -> bool:
    return _quiet or os.environ.get("RANK", "0") != "0"  # of processes that torchrun started one speaks


def say(message: str) -> None:
    """One line with the seconds since the program started."""
    if _silent():
        return
    line = f"[{time.monotonic() - _started:6.1f}s] {message}"
    if _live is not None:
        _live.console.print(Text(line), soft_wrap=True)  # above the live line
    else:
        print(line, file=sys.stderr, flush=True)


def summarize(title: str, facts: Sequence[tuple[str, object]], then: Sequence[tuple[str, str]]) -> None:
    """What came out of a command, and what to type next: `facts` by name, of `then` commands, files or lines of Python with a word on each."""
    if _silent():
        return
    console = Console(file=sys.stderr, color_system="auto" if sys.stderr.isatty() else None, force_terminal=sys.stderr.isatty())
    lines = [Text(f"\n{title}", style="bold")]
    width = max((len(name) for name, _ in facts), default=0)
    lines += [Text(f"  {name:<{width}}  {value}") for name, value in facts]
    width = max((len(text) for text, _ in then), default=0)
    lines += [Text("next", style="bold"), *(Text.assemble((f"  {text:<{width}}", "cyan"), f"  {word}") for text, word in then)]
    for line in lines:
        console.print(line, soft_wrap=True)


def leave(path: Path, **values: object) -> None:
    """Replace a worker's progress file. Nothing is decided by it: it is not synced, and where it cannot be written there is none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(values))
        os.replace(temporary, path)


def renew(path: Path) -> None:
    """A sign of life where there is nothing new to tell."""
    with contextlib.suppress(OSError):
        os.utime(path)


@contextlib.contextmanager
def follow(describe: Callable[[], str | None]) -> Iterator[None]:
    """While the body runs, show `describe()` whenever it has changed. The bar is that of the first `done/total` in it."""
    done = threading.Event()

    def watch(show: Callable[[str], None]) -> None:
        last = None
        while not done.wait(INTERVAL):
            try:
                text = describe()
            except (OSError, ValueError, KeyError, IndexError):  # a file that a worker is just replacing
                continue
            if text and text != last:
                show(text)
                last = text

    with _live_line() as show:
        thread = threading.Thread(target=watch, args=(show,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@contextlib.contextmanager
def _live_line() -> Iterator[Callable[[str], None]]:
    """What shows a text: on a terminal in place of the one before."""
    global _live
    console = Console(stderr=True)
    if _silent() or not sys.stderr.isatty() or console.is_dumb_terminal:
        yield say
        return
    columns = (
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    # Standard output is the caller's, and may be a file.
    with Progress(*columns, console=console, transient=True, expand=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)

        def show(text: str) -> None:
            share = re.search(r"(\d+)/(\d+)", text)
            bar.update(task, description=text)
            if share:
                bar.update(task, completed=int(share[1]), total=int(share[2]))

        _live = bar
        try:
            yield show
        finally:
            _live = None
