"""Images of networks, with a seed for every row and the default options."""

import numpy as np
from torch import Tensor

from augment.interface.condition import Condition
from augment.interface.randomness import RowRandom
from augment.interface.system import PoseTransfer


def generated(network: PoseTransfer, condition: Condition, first_seed: int = 0) -> Tensor:
    """Return a network's images; row i has seed ``first_seed + i``."""
    seeds = np.arange(first_seed, first_seed + len(condition.image), dtype=np.uint64)
    random = RowRandom(seeds, condition.image.device)
    return network.generate(condition, random, network.Options())
