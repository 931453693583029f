"""What an actor does for a population: train one chunk, test it, commit it. Paths come in, nothing but a name goes out."""

from collections.abc import Sequence

from dynamo_dist.population.plan import Chunk
from dynamo_dist.population.store import Population
from dynamo_dist.population.training import predictions, train_chunk
from dynamo_dist.progress import leave


def train_and_commit(population_path: str, name: str, ids: Sequence[str]) -> str:
    """Train the chunk `name` of the networks `ids` and commit it to the store. Harmless to do twice."""
    population = Population(population_path)
    chunk = Chunk(name=name, specs=tuple(population.by_id[id] for id in ids))
    if population.is_committed(name):
        return name
    data = population.data
    notes = population.path / "progress"
    notes.mkdir(exist_ok=True)

    def progress(step: int, steps: int, loss: float) -> None:
        leave(notes / f"{name}.json", label=chunk.label, step=step, steps=steps, loss=loss)

    trained = train_chunk(chunk.specs, data.base, progress=progress)
    classes_MN = predictions(trained.networks, data.test)
    accuracy = [float((row == data.test.targets[spec.target]).double().mean()) for row, spec in zip(classes_MN, chunk.specs, strict=True)]
    population.commit(chunk, trained, {"accuracy": accuracy})
    return name
