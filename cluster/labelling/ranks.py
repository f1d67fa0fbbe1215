"""The actors of one replica: the first labels; of a split teacher, the others follow it."""

from typing import Any

from cluster.connect import import_ray
from cluster.labelling.replica.actor import LABELLING, NOTICE_GROUP, FollowerActor, TeacherActor
from kdcore.config import Recipe
from kdcore.planning.plan import Unit

__all__ = ["Ranks"]


class Ranks:
    """One replica, alive from here until `kill`; each call gives the references of all ranks' answers, by rank."""

    def __init__(self, recipe: Recipe, store_path: str, group: Any = None, kind: str = LABELLING) -> None:
        """In the placement group `group`, which has a bundle for each rank; wherever there is room without one."""
        self._ray = import_ray()
        self._config, self._group = recipe.cluster, group
        recipe_json = recipe.model_dump_json()
        self._actors = [self._actor(TeacherActor, 0, recipe_json, store_path, kind)]
        self._actors += [self._actor(FollowerActor, rank, recipe_json, rank) for rank in range(1, recipe.ranks)]

    def place(self) -> list[Any]:
        """The ids of their nodes, when there is room."""
        return [actor.place.remote() for actor in self._actors]

    def notice(self) -> list[Any]:
        """Each answers when it is told to end."""
        return [actor.notice.options(concurrency_group=NOTICE_GROUP).remote() for actor in self._actors]

    def load(self) -> list[Any]:
        """Load the teacher; errors are values."""
        first, *others = self._actors
        cpus = self._config.cpus_per_replica
        meeting = first.meet.remote() if others else None
        return [first.load.remote(cpus), *(other.load.remote(cpus, meeting) for other in others)]

    def settle(self) -> list[Any]:
        """Rank 0 answers with the identity of its labels."""
        first, *others = self._actors
        return [first.settle.remote(), *(other.follow.remote() for other in others)]

    def label(self, unit: Unit, attempt: str, batch_divisor: int) -> list[Any]:
        """Rank 0 answers with a receipt, or an error after which the replica is fit; else an error is raised."""
        first, *others = self._actors
        return [first.label.remote(unit, attempt, batch_divisor), *(other.follow.remote() for other in others)]

    def kill(self) -> None:
        """End them, whatever they are doing."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _actor(self, kind: type, rank: int, *arguments: Any) -> Any:
        options: dict[str, Any] = {
            "num_cpus": self._config.cpus_per_replica,
            "num_gpus": self._config.gpus_per_replica,
            "max_restarts": 0,
        }
        if self._group is not None:
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=rank
            )
        # A thread of its own for notices: they are heard whatever the actor does.
        remote = self._ray.remote(concurrency_groups={NOTICE_GROUP: 1})(kind)
        return remote.options(**options).remote(*arguments)
