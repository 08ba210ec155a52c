"""Several processes that train one network, as torchrun starts them.

    torchrun --nproc_per_node=4 prune.py --cfg yolov4.cfg --ratio 0.8

Each process takes its share of every batch, and after the backward pass all hold the gradient of the whole batch: what
follows (clipping, the penalty, the optimizer, Z, U and the masks) is computed everywhere from the same numbers by the
same code, so it is the same without being sent. One process is the world of size 1, in which nothing is sent at all.

Why not DistributedDataParallel: it waits for ever for a process whose share of a batch has no picture that can be read,
and wraps the module by whose names the masks, the averages and the files go. Its communication during the backward pass
is given up for that: here it comes after it, in one piece.
"""

import contextlib
import importlib
import os
import sys
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from detect_prune.engine.batchnorm import running_norms
from detect_prune.engine.machine import ran_out_of_memory
from detect_prune.engine.randomness import seed_torch
from detect_prune.errors import DetectPruneError

T = TypeVar("T")

TIMEOUT = timedelta(days=1)
"""Process 0 evaluates alone, and the others wait for it. gloo notices by itself that a process has died; where
NCCL does not, torchrun ends the job."""
LAST_WORDS = timedelta(seconds=10)
_COMPLAINTS, _SAID = "detect_prune complaints", "detect_prune complained"


class World:
    """The processes that train together, seen from one of them.

    Between `__enter__` and `__exit__` they are connected, and only process 0 is heard on standard output.

    Args:
        rank: number of this process; number 0 talks, writes and evaluates.
        size: number of processes.
        local_rank: number of this process on its machine, and so of its GPU.
        local_size: number of processes on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1):
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._store: dist.Store | None = None
        self._while_entered = contextlib.ExitStack()

    @classmethod
    def from_environment(cls) -> "World":
        """The world that torchrun has set up, or one process.

        Raises:
            DetectPruneError: there is a WORLD_SIZE above 1, but not what torchrun sets beside it.
        """
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return cls()
        numbers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        values = {name: os.environ.get(name, "missing") for name in (*numbers, "MASTER_ADDR", "MASTER_PORT")}
        wrong = not all(values[name].isdecimal() for name in (*numbers, "MASTER_PORT"))
        if wrong or values["MASTER_ADDR"] == "missing":
            shown = ", ".join(f"{name} is {value}" for name, value in values.items())
            raise DetectPruneError(f"these variables are for processes that torchrun starts, and it sets all: {shown}")
        return cls(*(int(values[name]) for name in numbers))

    def __enter__(self) -> "World":
        if self.size == 1:
            return self
        if not dist.is_available():
            raise DetectPruneError("this torch was built without torch.distributed; start one process")
        # The functions of this module have, as their default, the group that there is when it is first imported, which
        # torch's optimizers do. They would keep it past its end, with threads that abort the process as Python ends.
        importlib.import_module("torch.distributed.nn")
        backend = "gloo"
        if torch.cuda.is_available() and dist.is_nccl_available():
            backend = "cpu:gloo,cuda:nccl"  # plain values take the first way and wake no GPU
            if self.local_rank < torch.cuda.device_count():
                torch.cuda.set_device(self.local_rank)
        with _in_company():
            # The store is asked for by itself because `complain` needs it when nobody else answers any more.
            self._store, _, _ = next(dist.rendezvous("env://", self.rank, self.size, timeout=TIMEOUT))
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=TIMEOUT,
            )
        if not self.main:
            silence = self._while_entered.enter_context(open(os.devnull, "w"))
            self._while_entered.enter_context(contextlib.redirect_stdout(silence))
            self._while_entered.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._while_entered.close()
        # After an error the others may be gone, and NCCL would wait for them.
        if self.size > 1 and (kind is None or getattr(error, "together", False)):
            dist.destroy_process_group()

    @property
    def main(self) -> bool:
        """Whether this is the process that talks, writes and evaluates."""
        return self.rank == 0

    def device(self) -> str:
        """The GPU of this process if there is one, else the processor.

        Raises:
            DetectPruneError: there are fewer GPUs than processes on this machine.
        """
        if not torch.cuda.is_available():
            return "cpu"
        if self.size == 1:
            return "cuda"
        if self.local_size > torch.cuda.device_count():
            raise DetectPruneError(
                f"each of the {self.local_size} processes on this machine needs a GPU of its own, and there are "
                f"{torch.cuda.device_count()}; start fewer, or give --device cpu"
            )
        return f"cuda:{self.local_rank}"

    def require_shares(self, batch: int) -> None:
        """Raises DetectPruneError where a batch has no picture, or fewer than there are processes."""
        if batch < 1:
            raise DetectPruneError(f"a batch has at least one picture, not {batch}")
        if batch < self.size:
            raise DetectPruneError(f"a batch of {batch} can't be shared by {self.size} processes; start fewer")

    # ---- what is sent (torch pickles plain values, but only between processes of this job) ------------------------

    def gather(self, value: int) -> list[int]:
        """The value of each process, by rank. All have to ask, and none goes on before all have."""
        if self.size == 1:
            return [int(value)]
        values = torch.zeros(self.size, dtype=torch.int64)
        values[self.rank] = value
        with _in_company():
            dist.all_reduce(values)
        return values.tolist()

    def any(self, *asked: bool) -> list[bool]:
        """For each question whether it is so in any process; all get the same answers."""
        answers = self.gather(sum(value << number for number, value in enumerate(asked)))
        return [any(one >> number & 1 for one in answers) for number in range(len(asked))]

    def collect(self, value: T) -> list[T]:
        """The plain value of each process, by rank, given to all."""
        values = [value] * self.size
        if self.size > 1:
            with _in_company():
                dist.all_gather_object(values, value)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        """Process 0 does it; the others wait, and are given what came of it."""
        result = [work() if self.main else None]
        if self.size > 1:
            with _in_company():
                dist.broadcast_object_list(result)
        return result[0]

    def main_first(self, work: Callable[[], T]) -> T:
        """All do it, on each machine one process before the others, for which its downloads and caches are there."""
        leads = self.local_rank == 0
        result = work() if leads else None
        self.gather(0)
        return result if leads else work()

    @torch.no_grad()
    def share(self, model: nn.Module) -> None:
        """Gives all processes the weights and statistics that process 0 has."""
        if self.size == 1:
            return
        for value in model.state_dict().values():
            sent = value.contiguous()
            with _in_company():
                dist.broadcast(sent, 0)
            value.copy_(sent)

    @torch.no_grad()
    def combine(self, model: nn.Module, share: float, figures: Tensor) -> None:
        """Makes what each process's share of a batch gave into what the whole batch gives, the same everywhere.

        Gradients are added up; the running statistics of batch norms, which each process has moved by its own pictures,
        become their mean over the shares.

        Args:
            model: its gradients are those of the loss times `share`; none where this process had no pictures.
            share: of the batch's pictures that are this process's, 0..1; all together 1.
            figures: numbers that are added up like the gradients; as many in each process.
        """
        if self.size == 1:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        have = figures.new_tensor([parameter.grad is not None for parameter in parameters])
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        statistics = [value for norm in running_norms(model) for value in (norm.running_mean, norm.running_var)]
        for value in statistics:
            value.mul_(share)
        self._add_up([figures, have, *statistics, *(parameter.grad for parameter in parameters)])
        for parameter, processes in zip(parameters, have.tolist()):
            if not processes:  # to an optimizer, no gradient is something else than one of zeros
                parameter.grad = None

    def _add_up(self, tensors: Sequence[Tensor]) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            groups[tensor.dtype, tensor.device].append(tensor)
        for group in groups.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            with _in_company():
                dist.all_reduce(flat)
            for tensor, added in zip(group, flat.split([tensor.numel() for tensor in group])):
                tensor.copy_(added.view_as(tensor))

    def require_same(self, tensors: Iterable[Tensor], what: str) -> None:
        """Raises DetectPruneError unless every process holds the same bits."""
        if self.size == 1:
            return
        checksum = 0
        for tensor in tensors:
            checksum = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), checksum)
        checksums = self.gather(checksum)
        others = [rank for rank, one in enumerate(checksums) if one != checksums[0]]
        if others:
            raise DetectPruneError(
                f"the processes have drifted apart: {what} of process {', '.join(map(str, others))} are not those of "
                "process 0. They must run on machines of one kind, with the same versions"
            )

    # ---- what differs between processes -------------------------------------------------------------------------

    def vary_randomness(self, device: torch.device) -> None:
        """Each process draws its own random numbers from here on: else dropout would repeat itself in every share."""
        if not self.main:
            seed_torch(int(torch.randint(2**62, ())) + self.rank, device)

    # ---- the end ------------------------------------------------------------------------------------------------

    def complain(self, sentence: str, together: bool = False) -> None:
        """Prints why this process ends to standard error, unless another one was first: they end for the same reason,
        or because of it.

        Args:
            together: all processes end here and say this.
        """
        if self._store is None:
            print(sentence, file=sys.stderr, flush=True)
            return
        try:
            if self._store.add(_COMPLAINTS, 1) > 1:
                # torchrun ends all when one has ended: whoever is first must have said it by then.
                self._store.wait([_SAID], LAST_WORDS)
                return
        except RuntimeError:  # the store is gone too, and with it process 0, where it is kept unless torchrun keeps it
            if together:  # it has been said, then
                return
        print(sentence, file=sys.stderr, flush=True)
        with contextlib.suppress(RuntimeError):
            self._store.set(_SAID, "")


ALONE = World()
"""One process."""


@contextlib.contextmanager
def _in_company() -> Iterator[None]:
    """What gloo and NCCL raise where another process is gone, as a sentence."""
    try:
        yield
    except RuntimeError as error:
        if ran_out_of_memory(error):
            raise
        raise DetectPruneError(
            f"the processes of this job can't reach each other; one may have ended ({str(error).splitlines()[0][:120]})"
        ) from error
