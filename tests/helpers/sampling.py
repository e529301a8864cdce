"""Images of networks, with a seed for every row and the default options."""

from torch import Tensor

from augment.interface.condition import Condition
from augment.interface.randomness import RowRandom
from augment.interface.system import PoseTransfer


def generated(network: PoseTransfer, condition: Condition) -> Tensor:
    """Return a network's images; row i has seed i."""
    random = RowRandom.numbered(len(condition.image), condition.image.device)
    return network.generate(condition, random, network.Options())
