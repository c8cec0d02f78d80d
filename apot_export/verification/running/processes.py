"""Several processes that share one verification: PyTorch's own process groups, nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import distributed

from apot_export.errors import DeviceError

_Found = TypeVar("_Found")
_PATIENCE = timedelta(days=1)
"""How long a process waits for others that are still at work; torchrun ends those of a dead one."""
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of this run; one, where nothing launched more."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports."""
        return self.rank == 0

    def gather(self, found: _Found) -> list[_Found]:
        """Return what every process found, by rank, in every process."""
        if self.count == 1:
            return [found]
        everything: list[_Found | None] = [None] * self.count
        distributed.all_gather_object(everything, found)
        return cast("list[_Found]", everything)

    def from_first(self, compute: Callable[[], _Found]) -> _Found:
        """Return, in every process, what the first one alone computes."""
        return cast("_Found", self.gather(compute() if self.first else None)[0])


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the other processes, if torchrun launched several or a process group is there.

    A group that this opens uses gloo: what is gathered are counts in main memory, on any device.

    Raises:
        DeviceError: The launcher's variables are there and no group can be made of them.
    """
    joined = distributed.is_available() and distributed.is_initialized()
    launched = all(name in os.environ for name in _LAUNCHED) and os.environ["WORLD_SIZE"] != "1"
    if not (joined or launched):
        yield Processes()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if joined and distributed.get_backend() == "nccl":
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    if not joined:
        try:
            distributed.init_process_group("gloo", timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise DeviceError(
                "The processes of this run cannot find each other.",
                expected="the variables that torchrun sets, and free ports",
                got=str(error).splitlines()[0],
                fix="run under torchrun, or unset RANK and WORLD_SIZE",
            ) from error
    try:
        yield Processes(
            rank=distributed.get_rank(), count=distributed.get_world_size(), local_rank=local_rank
        )
    finally:
        if not joined:
            distributed.destroy_process_group()
