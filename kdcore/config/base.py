"""The strict base of every setting, and the mark of those that are paths."""

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """A frozen group of settings in which an unknown key is an error; `null` is the default where it is no value."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        unset = {name for name, value in values.items() if value is None and name in fields}
        return {
            name: value
            for name, value in values.items()
            if name not in unset or type(None) in get_args(fields[name].annotation)
        }


@dataclass(frozen=True)
class IsPath:
    """Marks a setting that names a file or folder, or several: relative ones are made absolute when a recipe is read.

    `made`: a job makes it, so that it need not exist; what does not exist else is left as it is (a name on the hub).
    `url`: it may be SCHEME://BUCKET/PREFIX instead. `where`: it is a path only beside a setting of that value.
    """

    made: bool = False
    url: bool = False
    where: tuple[str, str] | None = None
