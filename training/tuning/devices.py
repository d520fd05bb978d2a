"""The devices and processes that a training runs on; does not know what it trains."""

import os

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment


def launched() -> Fabric:
    """Take the place that this process has in a training: alone, or one of those that torchrun started.

    Returns:
        A launched Fabric, on a GPU where there is one.
    """
    if not TorchElasticEnvironment.detect():
        fabric = Fabric(devices=1)
    else:
        here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        fabric = Fabric(devices=here, num_nodes=everywhere // here, strategy="ddp")
    fabric.launch()
    return fabric
