"""What all timings here share: ways taken in turn in one run, compared by their medians."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

Step = Callable[[], object]


def measure(steps: dict[str, Step], seconds: float) -> dict[str, float]:
    """Median time in ms of every way, taken in turn for about so many seconds, at least five times."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def processor() -> str:
    """Name of the CPU, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor")
