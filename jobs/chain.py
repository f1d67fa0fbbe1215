"""A chain of recipes, stage by stage; what is finished is passed over, so that the same command goes on."""

import os
from collections.abc import Callable
from pathlib import Path

from jobs.common import say
from kdcore.config.chain import Chain
from kdcore.config.recipe import Recipe

__all__ = ["run_chain", "show_chain"]


def run_chain(chain: Chain, run_one: Callable[[Recipe], Path]) -> None:
    """Every stage by `run_one`, which returns its run directory, and the report that compares them."""
    from kdcore.evaluation.chain import write_chain_report

    runs = []
    for number, stage in enumerate(chain.stages):
        say(f"\nchain: stage {number + 1} of {len(chain.stages)}, {stage.name}")
        runs.append(run_one(stage))
    page = write_chain_report(chain.folder, chain.name, runs)
    say(f"\n{page.read_text(encoding='utf-8')}\nreport: {os.path.relpath(page)}")


def show_chain(chain: Chain) -> None:
    """Print the resolved recipe of every stage; what later ones cost is known once their teachers are there."""
    from kdcore.config.load import dump_recipe

    for number, stage in enumerate(chain.stages):
        say(f"# stage {number + 1} of {len(chain.stages)}\n{dump_recipe(stage)}")
    say("nothing was written")
