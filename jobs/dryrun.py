"""`--dry-run`: the resolved recipe, the bytes of its store and the time it would take; nothing is written."""

from cluster.estimate.run import estimate
from cluster.labelling.disk_room import free_bytes
from jobs.common import say
from kdcore.config.load import dump_recipe
from kdcore.config.recipe import Recipe
from kdcore.precision import PRECISIONS, bfloat16_note, bfloat16_settings

__all__ = ["show"]


def show(recipe: Recipe, live: str | None = None) -> None:
    """Print the resolved recipe and its estimated cost; warn when the disk is too small.

    `live`: why the teacher runs while students are trained, instead of labelling.
    """
    say(dump_recipe(recipe))
    _say_slow(recipe)
    found = estimate(recipe, live is not None)
    say(f"samples        {found.samples:,}")
    for line in _losses(recipe, live):
        say(line)
    if live is None:
        say(f"labels         {found.labels:,}")
        say(f"label store    {found.store_bytes / 1e6:,.1f} MB in {recipe.store_path}")
        say(f"labelling      about {_minutes(found.label_seconds)} on {recipe.cluster.replicas.max} replica(s)")
    if recipe.training is not None:
        say(f"training       about {_minutes(found.train_seconds)} on {recipe.cluster.workers} worker(s), all arms")
    free = free_bytes(str(recipe.store_path))
    if free is not None:
        say(f"disk           {free / 1e9:,.1f} GB free" + (": NOT ENOUGH" if free < 1.1 * found.store_bytes else ""))
    if found.refused:
        say(f"REFUSED        {found.refused}")
    say("measured with a short probe on this machine; nothing was written")


def show_mix(recipe: Recipe) -> None:
    """Print the resolved recipe and what its mix is made of, once it opens; nothing is labelled for it."""
    from kdcore.training.stored_labels import open_labels

    say(dump_recipe(recipe))
    mix = open_labels(recipe)
    say(f"samples        {mix.num_rows:,}, {int(mix.num_labels_per_row().sum()):,} labels")
    say(f"labels         {mix.described}")
    for note in mix.notes:
        say(f"note           {note}")
    _say_slow(recipe)
    say("nothing was written")


def show_synthesis(recipe: Recipe) -> None:
    """Print the resolved recipe and what its teacher is to make; what that costs nobody knows before it began."""
    from kdcore.synthesis.units import cut_units

    settings = recipe.synthesis
    assert settings is not None
    say(dump_recipe(recipe))
    say(f"samples        {settings.samples:,} in each of {settings.generations} generation(s)")
    say(f"units          {len(cut_units(settings)):,} of {settings.unit_samples:,}, each made anew where a worker dies")
    say(f"workers        {recipe.cluster.replicas.max} replica(s) of the teacher")
    _say_slow(recipe)
    say("nothing was written")


def _say_slow(recipe: Recipe) -> None:
    """What of the recipe this machine is slow at; before it is measured, which then takes long, too."""
    if not bfloat16_settings(recipe):
        return  # torch is not imported for nothing
    from kdcore.teachers.base import pick_device

    note = bfloat16_note(recipe, PRECISIONS, pick_device(None))
    if note:
        say(f"note           {note}")


def _losses(recipe: Recipe, live: str | None) -> list[str]:
    """The terms of `training.losses`, and where they hear of the teacher."""
    terms = recipe.training.losses if recipe.training is not None else ()
    if not terms:
        return []
    words = " + ".join(f"{term.weight:g} {term.label}" for term in terms)
    where = "from the label store" if live is None else f"runs beside the student, no labels are made: {live}"
    return [f"losses         {words}", f"teacher        {where}"]


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
