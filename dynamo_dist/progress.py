"""Progress lines on standard error. Workers leave small files behind; the command reads and prints them."""

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_started = time.monotonic()
# Seconds between two looks at the workers' files.
INTERVAL = 3.0


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def say(message: str, *, live: bool = False) -> None:
    """One line with the seconds since the program started. On a terminal a `live` line is written over by the next one."""
    if os.environ.get("RANK", "0") != "0":
        return  # started by torchrun: one of them speaks
    terminal = sys.stderr.isatty()
    clear, end = ("\r\033[K", "" if live else "\n") if terminal else ("", "\n")
    line = f"[{time.monotonic() - _started:6.1f}s] {message}"
    if terminal and live:
        line = line[: shutil.get_terminal_size().columns - 1]
    print(clear + line, end=end, file=sys.stderr, flush=True)


def leave(path: Path, **values: object) -> None:
    """Replace a worker's progress file. Nothing is decided by it: it is not synced, and where it cannot be written there is none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(values))
        os.replace(temporary, path)


@contextlib.contextmanager
def follow(describe: Callable[[], str | None]) -> Iterator[None]:
    """While the body runs, print `describe()` whenever it has changed."""
    done = threading.Event()

    def watch() -> None:
        last = None
        while not done.wait(INTERVAL):
            try:
                text = describe()
            except (OSError, ValueError, KeyError, IndexError):  # a file that a worker is just replacing
                continue
            if text and text != last:
                say(text, live=True)
                last = text

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
