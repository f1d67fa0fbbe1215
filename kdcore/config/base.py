"""The strict base of every setting, and the mark of those that are paths."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen group of settings in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


@dataclass(frozen=True)
class IsPath:
    """Marks a setting that names a file or folder, or several: relative ones are made absolute when a recipe is read.

    `made`: a job makes it, so that it need not exist; what does not exist else is left as it is (a name on the hub).
    `url`: it may be SCHEME://BUCKET/PREFIX instead. `where`: it is a path only beside a setting of that value.
    """

    made: bool = False
    url: bool = False
    where: tuple[str, str] | None = None
