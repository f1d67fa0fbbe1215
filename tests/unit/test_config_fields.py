"""What every setting says of itself: what it means, and whether it is a path."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.paths import absolute_paths
from kdcore.config import Recipe
from kdcore.config.base import IsPath, Settings
from kdcore.config.load import parse_recipe
from kdcore.config.paths import groups_of, path_settings
from kdcore.errors import ConfigError

NAMES_OF_PATHS = {"runs", "path", "heldout", "tokenizer", "chat_template", "offload_path"}


def groups(model: type[Any] = Recipe) -> Iterator[type[Any]]:
    yield model
    for field in model.model_fields.values():
        for group in groups_of(field.annotation):
            yield from groups(group)


GROUPS = list(dict.fromkeys(groups()))


def test_all_groups_are_seen() -> None:
    assert len(GROUPS) > 20
    assert all(issubclass(group, Settings) for group in GROUPS)


def test_every_setting_is_described() -> None:
    """`type` chooses the group, which its docstring describes."""
    assert [group for group in GROUPS if not group.__doc__] == []
    fields = [(group, name, field) for group in GROUPS for name, field in group.model_fields.items() if name != "type"]
    assert [(group, name) for group, name, field in fields if not field.description] == []


def test_what_is_called_like_a_path_is_marked_as_one() -> None:
    """A setting that is forgotten here is a file that workers in another folder do not find."""
    unmarked = [
        f"{group.__name__}.{name}"
        for group in GROUPS
        for name, field in group.model_fields.items()
        if name in NAMES_OF_PATHS and not any(isinstance(mark, IsPath) for mark in field.metadata)
    ]
    assert unmarked == []


def test_the_paths_of_a_recipe() -> None:
    marks = {setting.dotted: setting.mark for setting in path_settings(Recipe)}
    models = [f"{role}.{key}" for role in ("teacher", "student") for key in ("path", "tokenizer", "name")]
    offloading = ["training.engine.offload_path", "teacher.fit.engine.offload_path"]
    others = ["runs", "labels.path", "labels.mix.stores.path", "data.path", "data.heldout", "data.chat_template"]
    made = ["data.real.path", "data.real.heldout", "data.real.chat_template", "synthesis.student", "synthesis.path"]
    assert sorted(marks) == sorted([*others, *models, *offloading, *made, "synthesis.prompt_file"])
    data = {f"{data}.{name}" for data in ("data", "data.real") for name in ("path", "heldout")}
    assert {name for name, mark in marks.items() if mark.url} == {"labels.path", "labels.mix.stores.path", *data}
    assert {name for name, mark in marks.items() if mark.made} == {"labels.path", "runs", *offloading}


CHAT: dict[str, Any] = {
    "name": "x",
    "data": {"type": "text", "path": ["a.jsonl", "b*.jsonl"], "messages_field": "m", "chat_template": "t.jinja"},
    "teacher": {"type": "causal_lm", "path": "org/model", "tokenizer": "tokenizer"},
    "labels": {"path": "not-there-yet"},
}


def test_every_path_is_made_absolute_when_read_and_again_in_an_actor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jsonl", "t.jinja"):
        (tmp_path / name).touch()
    (tmp_path / "tokenizer").mkdir()
    monkeypatch.chdir(tmp_path)
    read = parse_recipe(CHAT).model_dump()
    assert absolute_paths(Recipe.model_validate(CHAT)).model_dump() == read
    here = {
        "runs": [f"{tmp_path}/runs"],
        "data.path": [f"{tmp_path}/a.jsonl", f"{tmp_path}/b*.jsonl"],
        "data.chat_template": [f"{tmp_path}/t.jinja"],
        "teacher.path": ["org/model"],
        "teacher.tokenizer": [f"{tmp_path}/tokenizer"],
        "labels.path": [f"{tmp_path}/not-there-yet"],
    }
    found = {setting.dotted: setting.values(read) for setting in path_settings(Recipe)}
    assert {name: values for name, values in found.items() if values} == here


@pytest.mark.parametrize(("source", "values"), [("transformers", ["folder"]), ("timm", [])])
def test_a_name_is_a_path_only_where_it_may_be_one(source: str, values: list[str]) -> None:
    name = next(setting for setting in path_settings(Recipe) if setting.dotted == "student.name")
    assert name.values({"student": {"source": source, "name": "folder"}}) == values


@pytest.mark.parametrize("setting", ["runs", "data.chat_template", "teacher.path"])
def test_a_url_where_none_can_be_is_refused_without_repeating_it(setting: str) -> None:
    *groups, last = setting.split(".")
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in CHAT.items()}
    group: Any = tree[groups[0]] if groups else tree
    group[last] = "s3://bucket/secret"
    with pytest.raises(ConfigError, match=rf"{setting} must be on a file system .* got a URL") as caught:
        parse_recipe(tree)
    assert "secret" not in str(caught.value)
