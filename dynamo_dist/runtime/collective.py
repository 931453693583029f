"""The workers of one meta-model as a process group of `torch.distributed`, whoever started them."""

import datetime
import os

import torch
import torch.distributed
from torch import Tensor, nn

from dynamo_dist.metamodel import splitting

# Seconds after which a worker that waits for the others gives up: nothing hangs for ever.
TIMEOUT = datetime.timedelta(seconds=600)


def own_device() -> torch.device:
    """The GPU of this worker where there are any, by its place on its machine; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


class Collective:
    """The `metamodel.shard.Group` of the default process group."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = torch.distributed.get_rank(), torch.distributed.get_world_size(), device

    def sum_(self, tensor: Tensor) -> None:
        torch.distributed.all_reduce(tensor)

    def gather(self, text: str) -> list[str]:
        texts = [""] * self.size
        torch.distributed.all_gather_object(texts, text)
        return texts

    def split_(self, module: nn.Module) -> None:
        splitting.split_(module, self.device, self.size)
