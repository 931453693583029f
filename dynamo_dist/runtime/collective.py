"""The workers of one meta-model as a process group of `torch.distributed`, whoever started them."""

import datetime
import fcntl
import os
import socket
import struct

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


# ioctl(2) of an interface's IPv4 address, from linux/sockios.h.
_SIOCGIFADDR = 0x8915


def meet_by(peer: str) -> None:
    """Let gloo listen on the interface through which `peer`, the address of a worker, is reached; what the user set stays.

    Without that it listens where the host's own name leads, on many systems the loopback: workers on other hosts cannot connect.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))  # sends nothing: only asks for the route
        except OSError:  # an IPv6 address, or none at all: gloo's own choice
            return
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == own:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


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
