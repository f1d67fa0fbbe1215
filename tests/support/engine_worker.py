"""Trains several runs on the ranks of one torch.distributed group; the tests start it as a program."""

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp

from tests.support.training import text_recipe


def train(rank: int, world: int, root: str, runs: dict) -> None:
    from kdcore.training.arms import Arm
    from kdcore.training.run import run_arms

    dist.init_process_group("gloo", init_method=f"file://{root}/group-{os.getppid()}", rank=rank, world_size=world)
    for name, settings in runs.items():
        recipe = text_recipe(Path(root), name, teacher=True, **settings)
        run_arms(recipe, [Arm("student-seed0", 0, uses_labels=True)])
    dist.destroy_process_group()


if __name__ == "__main__":
    root, world, runs = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    mp.start_processes(train, (world, root, runs), nprocs=world, start_method="spawn")
