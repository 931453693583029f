"""Chunks that another population has already: the same networks on the same data, trained together, are not trained twice."""

import os
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from dynamo_dist import storage
from dynamo_dist.commit import MANIFEST, commit_folder, damage
from dynamo_dist.population.store import Population


def reuse(population: Population, others: Iterable[Path]) -> dict[Path, int]:
    """Commit the remaining chunks of a population that others hold, by their names: hashes of specifications and data. `others`: folders of
    runs or populations. Returns the number of networks that came from each.

    Files are verified before, and shared as hard links where the file system has them: committed files never change. Passed over are
    damaged chunks, and those with networks that failed, which may have been that machine's fault. Raises `InputError` for a folder without a
    population.
    """
    remaining = {population.chunk_name(population.chunk_specs(chunk)): chunk for chunk in population.remaining()}
    # A mirror tells by a file's time whether it is the storage's: it shares no file with anybody.
    link = not storage.mirrored(population.path)
    taken: dict[Path, int] = {}
    for path in others:
        other = population_of(path)
        known = other.committed()
        for name in known.keys() & remaining.keys():
            storage.fetch(other.chunk_path(name))
            if damage(other.chunk_path(name)) is None and other.results(name)["failure"].null_count == known[name].networks:
                if not population.is_committed(name):
                    commit_folder(population.chunk_path(name), partial(_share, other.chunk_path(name), link=link))
                chunk = remaining.pop(name)
                population.record(name, chunk)
                taken[path] = taken.get(path, 0) + chunk.networks
    return taken


def population_of(path: Path) -> Population:
    """The population in the folder of a run, or the folder itself."""
    own = path / "population"
    of_run = storage.exists(own / "population.json") if storage.mirrored(own) else own.is_dir()
    return Population(own if of_run else path)


def _share(source: Path, folder: Path, *, link: bool) -> None:
    for file in source.iterdir():
        if file.name != MANIFEST:
            try:
                (os.link if link else shutil.copyfile)(file, folder / file.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, folder / file.name)
