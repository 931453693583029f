"""A trained meta-model."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dynamo_dist import storage
from dynamo_dist.commit import understood
from dynamo_dist.data import Examples
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import checkpoint, folder
from dynamo_dist.metamodel.convolutional import ConvolutionalDynamics
from dynamo_dist.metamodel.emulated import EmulatedConvolutional, EmulatedRecurrent
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.metamodel.private import StateMap
from dynamo_dist.metamodel.shard import make_dynamics
from dynamo_dist.population import Population

if TYPE_CHECKING:
    from dynamo_dist.metamodel.unseen import Embedded


class MetaModel:
    """One network that emulates every network of its population, given an embedding vector theta of shape (D,).

    Of the checkpoints it is the one that did best on the held-out inputs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = folder.header(path)
        self.config = folder.config_of(path)
        with understood(path / "meta.json"):
            self.interface = Interface(**header["interface"])
            named = header["population"]
            self.population_path = storage.local(named) if "://" in named else (path / named).resolve()
        step_folder = folder.final_checkpoint(path)
        shared = checkpoint.read_shared(step_folder)
        with understood(step_folder / "shared.safetensors"):
            self.dtype = shared["w_readout"].dtype
            self.dynamics = make_dynamics(self.interface, self.config, torch.Generator(), self.dtype)
            self.dynamics.load_state_dict({name: shared[name] for name in self.dynamics.state_dict()})
        self.dynamics.requires_grad_(False)
        self._private = checkpoint.read_private(step_folder)
        # Networks that failed in training or were left out are in the population but were not embedded.
        self.network_ids = tuple(id for id in self.population.network_ids if f"theta/{id}" in self._private)
        with understood(step_folder):
            self.embedding = self.theta(self.network_ids).double().numpy()

    @classmethod
    def open(cls, path: str | Path) -> "MetaModel":
        """The meta-model in a folder, or at the URI of one, trained to its end. Raises `InputError` when there is none or it is not
        finished."""
        path = storage.local(path)
        storage.fetch(path)
        folder.header(path)
        if not folder.is_finished(path):
            raise InputError(f"the meta-model in {storage.address(path)} is not trained to its last step yet; continue the run with --resume")
        return cls(path)

    @cached_property
    def population(self) -> Population:
        """The population that it emulates."""
        return Population(self.population_path)

    def batches(self, data: Examples, networks: int) -> Iterator[Tensor]:
        """Indices of all inputs, in batches that suit so many networks at once."""
        numbers = data.inputs.shape[2] * data.inputs.shape[3] if self.interface.images else data.inputs.shape[1] * 3
        return data.batches(networks * numbers * self.config.hidden)

    def theta(self, ids: tuple[str, ...]) -> Tensor:
        """Embedding vectors of these networks, (m, D)."""
        return torch.stack([self._private[f"theta/{id}"] for id in ids])

    def state_map(self, id: str, stage: int = 0) -> StateMap:
        """V of a network, a module that maps meta states (1, R, K) to states (1, R, H) of the network; its `weight` is (1, K, H) and its
        `bias` (1, 1, H): h = h~ weight + bias. `stage`: of the trajectory; recurrent networks have one."""
        if id not in self.network_ids:
            raise InputError(f"no network {id!r} in {self.path}")
        maps = self.stage_maps((id,))
        if not 0 <= stage < len(maps):
            raise InputError(f"{id}: stage={stage}: its trajectory has {len(maps)} stages")
        return maps[stage]

    def stage_maps(self, ids: tuple[str, ...]) -> list[StateMap]:
        """V of m networks whose trajectories have one shape, at every stage, stacked: (m, R, K) to (m, R, H)."""
        keys = (key.split("/", 1) for key in self._private)
        names = [name.split(".") for name, id in keys if id == ids[0] and name.startswith("map")]
        return [
            StateMap(
                {name: torch.stack([self._private[f"{of}.{name}/{id}"] for id in ids]) for of, name in names if of == f"map{stage}"}
            ).requires_grad_(False)
            for stage in range(len({of for of, _ in names}))
        ]

    @torch.no_grad()
    def emulate(
        self,
        theta: np.ndarray | Tensor,
        inputs: np.ndarray | Tensor,
        lengths: np.ndarray | Tensor | None = None,
        *,
        data: str | None = None,
        every_step: bool = False,
    ) -> tuple[Tensor | list[Tensor], Tensor]:
        """Run the network at theta, any theta in R^D.

        `theta`: (D,), or (P, D) for P networks at once; `inputs`: token ids (B, T), values (B, T, I) or images (B, channels, Y, X), of
        the data set `data` of the population where it has several; `lengths`: valid steps (B,), all T by default.
        Returns the states (B, T, K), of images a list of stages (B, K, y, x) with the pooled features (B, 4 K) last, and the outputs
        (B, C), at the last valid step or at `every_step` (B, T, C); with a leading P if theta has it.
        """
        theta_MD = torch.as_tensor(theta, dtype=self.dtype)
        single = theta_MD.dim() == 1
        theta_MD = theta_MD.reshape(-1, self.config.dimensions)
        inputs = torch.as_tensor(inputs)
        lengths_B = None
        if not self.interface.images:
            lengths_B = torch.full((len(inputs),), inputs.shape[1]) if lengths is None else torch.as_tensor(lengths)
        stages, outputs = self.dynamics(
            theta_MD, self.interface.inputs(self.data_name(data), inputs, self.dtype), lengths_B, every_step=every_step
        )
        if not self.interface.images:
            h_MBTK = stages[0].permute(1, 2, 0, 3)
            return (h_MBTK[0], outputs[0]) if single else (h_MBTK, outputs)
        return ([stage[0] for stage in stages], outputs[0]) if single else (stages, outputs)

    def only_task(self) -> str:
        """Id of a network whose inputs and outputs all have. Raises `InputError` where they differ."""
        # One network of each kind stands for all: reading a million specifications one by one takes minutes.
        specs = self.population.specs
        code_N, _ = specs.codes("data", "target")
        _, first = np.unique(code_N[[specs.row(id) for id in self.network_ids]], return_index=True)
        ids: list[str] = [self.network_ids[place] for place in np.sort(first)]
        kinds = [(spec.data, self.population.datasets[spec.data].outputs[spec.target]) for spec in map(self.population.spec, ids)]
        if len(set(kinds)) > 1:
            raise InputError(f"the networks of {self.path} have unlike inputs or outputs: say like=ID, for example like={ids[0]!r}")
        return ids[0]

    def embed(
        self, networks: "torch.nn.Module | Mapping[str, torch.nn.Module] | Sequence[torch.nn.Module] | Population", **options: Any
    ) -> "Embedded":
        """Theta and V of networks that it has not seen, with everything else as it is.

        `networks`: a trained module, several by id or in a sequence, or a population; see `unseen.embed_modules` and, for a population,
        `unseen.embed_population`, for the options. The same networks get the same vectors, bit for bit.

            meta = MetaModel.open("runs/mine/meta")
            found = meta.embed(module)
            theta = found.theta[0]                      # (D,)
            found.hidden, found.output                  # what of its states and outputs is not explained there
            nearest = meta.network_ids[np.linalg.norm(meta.embedding - theta, axis=1).argmin()]

        Raises `InputError` where their inputs or outputs do not fit those of the meta-model.
        """
        from dynamo_dist.metamodel.unseen import embed_modules, embed_population  # it builds on this file

        if isinstance(networks, Population):
            return embed_population(self, networks, **options)
        return embed_modules(self, networks, **options)

    def data_name(self, name: str | None) -> str:
        """This data set of the population, or the only one. Raises `InputError` for an unknown one, and for None where there are several."""
        names: list[str] = list(self.population.header["data"])
        if name is None and len(names) == 1:
            return names[0]
        if name is None or name not in names:
            raise InputError(f"data={name!r}: the population of {self.path} has the data sets {', '.join(names)}; name one")
        return name

    @torch.no_grad()
    def network(self, theta: np.ndarray | Tensor, *, like: str | None = None) -> EmulatedRecurrent | EmulatedConvolutional:
        """The network at theta (D,) as a plain module that needs no meta-model: run it, `save` it, export it with `torch.export`.

        `like`: id of a network whose inputs it reads and whose outputs it gives; needed where those of the population differ. It has the
        meta-model's dtype, its parameters can be trained, and it gives what `emulate` gives.

            meta = MetaModel.open("runs/mine/meta")
            network = meta.network(meta.embedding.mean(axis=0))        # the average of all networks
            data = meta.population.data.test
            states, outputs = network(data.inputs, data.lengths_N)     # (B, T, K), (B, C); real values and images: inputs.to(meta.dtype)
            network.save("average")
            again = load_network("average")                            # of dynamo_dist.metamodel.emulated
            program = torch.export.export(network, (data.inputs, data.lengths_N))

        Raises `InputError` for a theta of another length, an unknown `like`, or where it is needed and not given.
        """
        theta_D = torch.as_tensor(theta, dtype=self.dtype)
        if theta_D.shape != (self.config.dimensions,):
            raise InputError(f"theta has shape {tuple(theta_D.shape)}: expected ({self.config.dimensions},)")
        spec = self.population.spec(like if like is not None else self.only_task())
        data = self.population.datasets[spec.data]
        output = data.outputs[spec.target]
        if isinstance(self.dynamics, ConvolutionalDynamics):
            return EmulatedConvolutional.at(self.dynamics, theta_D, channels=data.input_shape[0], outputs=output.size, config=self.config)
        first = self.interface.first_id.get(spec.data)
        return EmulatedRecurrent.at(
            self.dynamics,
            theta_D,
            ids=None if first is None or data.vocabulary is None else slice(first, first + data.vocabulary),
            features=0 if first is not None else data.input_shape[0],
            outputs=output.size,
            every_step=output.every_step,
        )
