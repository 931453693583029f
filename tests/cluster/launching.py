"""The example configuration, changed, and what tests of its launch files share."""

import sys
import tomllib
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "cluster" / "launch" / "example.toml"


def example(*sections):
    """The example as a dictionary, with these of its sections."""
    content = tomllib.loads(EXAMPLE.read_text())
    return {key: value for key, value in content.items() if not isinstance(value, dict) or key in sections}


def toml(content):
    """A dictionary of the example's kinds as TOML."""
    words = lambda value: f"[{', '.join(map(repr, value))}]" if isinstance(value, list) else repr(value)  # noqa: E731
    lines = [f"{key} = {words(value)}" for key, value in content.items() if not isinstance(value, dict)]
    for key, table in content.items():
        if isinstance(table, dict):
            lines += [f"[{key}]", *(f"{name} = {words(value)}" for name, value in table.items())]
    return "\n".join(lines)


def virtual_environment(folder):
    """A folder that activates like a virtual environment, with the commands of this interpreter's."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
    return str(folder)
