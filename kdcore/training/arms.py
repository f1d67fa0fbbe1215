"""Arms: the training runs that a recipe consists of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdcore.config import Recipe, TrainingConfig
from kdcore.config.losses import LossTerm
from kdcore.config.losses.response import CrossEntropyTerm
from kdcore.config.models import (
    CausalLMConfig,
    FittedTeacher,
    ImageClassifierConfig,
    TeacherEndpointConfig,
    TeacherTextClassifierConfig,
    TextClassifierConfig,
)
from kdcore.errors import ConfigError, TeacherError

Role = Literal["student", "baseline", "teacher"]
"""What an arm is for."""


@dataclass(frozen=True)
class Arm:
    """One training run. Student and baseline of a seed share initial weights, data order and steps.

    `uses_labels`: learns from the label store. The arm named `teacher` trains `recipe.teacher` with its `fit`.
    """

    name: str
    seed: int
    uses_labels: bool

    @property
    def role(self) -> Role:
        """What is trained: the text before `-seed`."""
        role = self.name.split("-")[0]
        return "teacher" if role == "teacher" else "student" if self.uses_labels or role == "student" else "baseline"

    def directory(self, recipe: Recipe) -> Path:
        """Where checkpoints and metrics go: RUN/arms/NAME, for the teacher RUN/teacher."""
        return recipe.run_dir / "teacher" if self.role == "teacher" else recipe.run_dir / "arms" / self.name

    def export_directory(self, recipe: Recipe) -> Path:
        """Where the trained model goes: RUN/arms/NAME/student, for the teacher RUN/teacher itself."""
        return self.directory(recipe) if self.role == "teacher" else self.directory(recipe) / "student"

    def model_config(self, recipe: Recipe) -> CausalLMConfig | ImageClassifierConfig | TextClassifierConfig:
        """The network to train; ConfigError when the recipe has none."""
        model = recipe.teacher if self.role == "teacher" else recipe.student
        if model is None or isinstance(model, TeacherEndpointConfig):
            role = "teacher" if self.role == "teacher" else "student"
            raise ConfigError(f"arm '{self.name}' needs `{role}` in the recipe, which has none; add it")
        return model

    def training_config(self, recipe: Recipe) -> TrainingConfig:
        """The settings of this arm; ConfigError when the recipe has none."""
        if self.role == "teacher":
            if recipe.fit is None:
                raise ConfigError("arm 'teacher' needs `teacher.fit`, which classifiers alone can have; add it")
            return recipe.fit
        if recipe.training is None:
            raise ConfigError(f"arm '{self.name}' needs `training` in the recipe, which has none; add it")
        return recipe.training


def arm_terms(recipe: Recipe, arm: Arm) -> tuple[LossTerm, ...]:
    """The losses that an arm adds up, of a recipe that lists them: the baseline's is cross-entropy, as smooth as there.

    None: `training.loss`, which is the same for a baseline without smoothing.
    """
    terms: tuple[LossTerm, ...] = arm.training_config(recipe).losses
    if arm.role != "baseline":
        return terms
    hard = [term for term in terms if isinstance(term, CrossEntropyTerm)]
    return tuple(CrossEntropyTerm(smoothing=term.smoothing) for term in hard[:1])


def plan_arms(recipe: Recipe) -> list[Arm]:
    """A student per seed and, where there are soft labels and `baseline` is set, its twin without them."""
    if recipe.training is None:
        raise ConfigError("training needs `training` in the recipe, which has none; add it")
    distil = recipe.has_labels
    arms = []
    for seed in recipe.training.seeds:
        arms.append(Arm(f"student-seed{seed}", seed, uses_labels=distil))
        if distil and recipe.training.baseline:
            arms.append(Arm(f"baseline-seed{seed}", seed, uses_labels=False))
    return arms


def teacher_arm(recipe: Recipe) -> Arm:
    """The arm that trains the teacher on the spot (`teacher.fit`), with the first of its seeds."""
    arm = Arm("teacher", 0, uses_labels=False)
    return Arm("teacher", arm.training_config(recipe).seeds[0], uses_labels=False)


def with_fitted_teacher(recipe: Recipe) -> Recipe:
    """The recipe whose teacher, where it was trained on the spot (`teacher.fit`), is the export in RUN/teacher.

    Raises TeacherError when that training has not finished.
    """
    teacher = recipe.teacher
    if not isinstance(teacher, FittedTeacher) or teacher.fit is None:
        return recipe
    directory = recipe.run_dir / "teacher"
    if not (directory / "result.json").exists():
        raise TeacherError(
            f"a teacher with `fit` must be trained before it teaches, but {directory} holds no finished one: "
            "run `kd distill`, which trains it first, or set teacher.path to its weights and leave out teacher.fit"
        )
    if isinstance(teacher, TeacherTextClassifierConfig):
        return recipe.model_copy(update={"teacher": teacher.exported(str(directory))})
    return recipe.model_copy(update={"teacher": teacher.model_copy(update={"path": str(directory)})})
