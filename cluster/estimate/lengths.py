"""Whether training would refuse the documents for their length: asked before they are labelled."""

from heapq import nlargest

from cluster.estimate.parts import sketch_of
from cluster.estimate.text import refusal
from kdcore.config.models import StudentLMConfig, TeacherLMConfig
from kdcore.config.recipe import Recipe
from kdcore.data.document import TextDocument
from kdcore.data.encoding import TextEncoder
from kdcore.data.sources import open_source, readable
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import DataError
from kdcore.students.build import tokenizer_path

__all__ = ["refuse_long"]

_LONGEST = 64


def refuse_long(recipe: Recipe) -> None:
    """DataError where one of the longest documents, by bytes, of a sample of the corpus is too long to train on.

    No proof that the others fit: those that nobody looked at are refused when training begins.
    """
    student, teacher = recipe.student, recipe.teacher
    assert isinstance(student, StudentLMConfig)
    known = teacher if isinstance(teacher, TeacherLMConfig) else None
    encoder = TextEncoder(load_tokenizer(*tokenizer_path(student, known)), recipe.data)
    longest = nlargest(_LONGEST, sketch_of(recipe).some, key=lambda ref: ref.num_bytes)
    samples = (sample for _, sample in readable(open_source(recipe.data), longest, recipe.data.on_unreadable))
    problem = refusal(recipe, [encoder.encode(sample) for sample in samples if isinstance(sample, TextDocument)])
    if problem:
        raise DataError(f"nothing was labelled, since the labels could not be learnt from as the recipe is: {problem}")
