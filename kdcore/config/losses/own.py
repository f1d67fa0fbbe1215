"""A loss of the user's own."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from kdcore.config.losses.base import FeatureTerm


class OwnTerm(FeatureTerm):
    """A Method of the user's own by import path, built with this term and the shapes (kdcore/losses/method.py)."""

    home: ClassVar[str] = ""
    type: Literal["import"] = "import"
    name: str = Field(pattern=r"^[\w.]+:\w+$", description="`module:class` on the import path")
    options: dict[str, Any] = Field(default={}, description="whatever the class reads of its term")
    at: tuple[str, ...] = Field(default=(), description="module paths in the student")

    @property
    def label(self) -> str:
        """Its class."""
        return self.name.partition(":")[2]
