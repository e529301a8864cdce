"""What each of two ranks computes: ``python -m tests.helpers.two_ranks OUT``."""

import copy
import os
import sys
from pathlib import Path

import torch
from torch import nn

from augment.generators.patn import Patn
from augment.training.loop import LoopSettings, Trainer
from augment.training.parallel import mean_gradients, synchronise_batch_norm
from manifests.compute.distributed import SINGLE_PROCESS, ProcessGroup, init_distributed
from tests.helpers.training import TINY, made_up_images

CPU = torch.device("cpu")

EXACT = TINY.model_copy(
    update={"dropout": 0.0, "pool_size": 0, "batch_size": 4, "warmup_steps": 0, "steps": 4}
)
"""Nothing random in a step but the choice of pairs."""

RANDOM = TINY.model_copy(update={"batch_size": 4, "warmup_steps": 1, "steps": 4})


def normalised(group: ProcessGroup, *, tracks: bool = True) -> dict[str, torch.Tensor]:
    """Return what a batch normalisation gives for this rank's part of a batch of 6 images.

    Args:
        group: The ranks.
        tracks: Whether it keeps running statistics.
    """
    numbers = torch.Generator().manual_seed(0)
    images, upstream = torch.randn(2, 6, 3, 5, 4, generator=numbers, dtype=torch.float64)
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=tracks)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        network[0].bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    synchronise_batch_norm(network, group, CPU)
    part = group.part(6)
    mine = images[part].clone().requires_grad_()
    outputs = network(mine)
    outputs.backward(upstream[part])
    state = network.state_dict()
    trained = {name: value.grad for name, value in network.named_parameters()}
    means = mean_gradients(list(trained.values()), group)
    network.eval()
    return {
        "outputs": outputs.detach(),
        "input gradients": mine.grad,
        "applied": network(images[part]).detach(),
        **{f"gradient {name}": value for name, value in zip(trained, means, strict=True)},
        **state,
    }


def averaged(group: ProcessGroup) -> list[torch.Tensor]:
    """Return the means of two gradients, one of them with channels innermost."""
    first = torch.arange(24.0).reshape(2, 3, 2, 2) + group.rank
    first = first.contiguous(memory_format=torch.channels_last)
    return mean_gradients([first, torch.full((3,), 10.0 * group.rank)], group)


def trainer(config: Patn.Config, group: ProcessGroup) -> Trainer:
    torch.manual_seed(0)
    settings = LoopSettings(precision="float32")
    return Trainer(Patn(config), made_up_images(), settings, CPU, group)


def exact(group: ProcessGroup) -> dict[str, object]:
    """Return losses, first gradients and weights of a training without dropout and pools."""
    run = trainer(EXACT, group)
    before = {name: value.detach().clone() for name, value in run.network.named_parameters()}
    losses, gradients = [], {}
    for terms in run.steps():
        losses.append({name: float(value) for name, value in group.mean(terms).items()})
        if run.step == 1:  # Adam's first mean is half of the gradient
            for phase, optimizer in run.state()["optimizers"].items():
                means = [one["exp_avg"].flatten().clone() for one in optimizer["state"].values()]
                gradients[phase] = torch.cat(means)
    moved = [
        (value.detach() - before[name]).flatten() for name, value in run.network.named_parameters()
    ]
    return {"losses": losses, "gradients": gradients, "moved": torch.cat(moved)}


def resumed(group: ProcessGroup, out: Path) -> list[dict[str, object]]:
    """Return the last state of a straight training, and of one that stopped after step 3."""
    straight = trainer(RANDOM, group)
    for _ in straight.steps():
        if straight.step == 3:
            state = straight.state()
            if group.is_primary:
                torch.save(state, out / "state.pt")
            group.barrier()  # wait for the file
    again = trainer(RANDOM, group)
    again.restore(torch.load(out / "state.pt", weights_only=True))
    pools = [copy.deepcopy(again.network.discriminators.shape_pool.state_dict())]
    for _ in again.steps():
        pass
    return [straight.state(), again.state(), {"pools": pools}]


def main(out: Path) -> None:
    with init_distributed(CPU) as group:
        found = {
            "normalised": normalised(group),
            "normalised at once": normalised(group, tracks=False),
            "averaged": averaged(group),
            "exact": exact(group),
            "resumed": resumed(group, out),
            "any": [group.any(group.rank == 1), group.any(False)],
            "count": group.size,
        }
    found["threads"] = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    torch.save(found, out / f"rank-{group.rank}.pt")


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] != "1"
    assert SINGLE_PROCESS.size == 1
    main(Path(sys.argv[1]))
