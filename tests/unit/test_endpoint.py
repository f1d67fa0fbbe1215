"""A teacher behind HTTP, against a small server over the tiny model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kdcore.config.models import TeacherEndpointConfig, TeacherLMConfig
from kdcore.errors import LabelError, TeacherError, TeacherUnavailable
from kdcore.labels.topk import TopKCodec
from kdcore.teachers.causal_lm import CausalLMTeacher
from kdcore.teachers.endpoint import EndpointTeacher
from tests.support.endpoint_server import KEY, Server, serving
from tests.support.tiny_teacher import write_teacher

pytest.importorskip("transformers")

PROMPT = (np.arange(20) * 7 + 1) % 50  # not from 0, whose embedding is zero: all classes would be equal


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CausalLMTeacher]:
    folder = tmp_path_factory.mktemp("teacher")
    write_teacher(folder)
    return folder, CausalLMTeacher(TeacherLMConfig(path=str(folder), context=64, overlap=8), device="cpu")


@pytest.fixture
def server(teacher: tuple[Path, CausalLMTeacher]) -> Iterator[Server]:
    with serving(teacher[1]) as server:
        yield server


@pytest.fixture
def endpoint(server: Server, teacher: tuple[Path, CausalLMTeacher], monkeypatch: pytest.MonkeyPatch) -> EndpointTeacher:
    monkeypatch.setenv("ENDPOINT_KEY", KEY)
    return EndpointTeacher(settings(server, teacher[0]), sleep=lambda seconds: None)


def settings(server: Server, folder: Path, **changes: Any) -> TeacherEndpointConfig:
    given = {"url": f"http://127.0.0.1:{server.server_port}", "model": "tiny", "revision": "1", "top_logprobs": 5}
    given |= {"tokenizer": str(folder), "attempts": 3, "api_key_env": "ENDPOINT_KEY"}
    return TeacherEndpointConfig.model_validate(given | changes)


def test_labels_are_those_of_the_teacher_itself(server: Server, endpoint: EndpointTeacher) -> None:
    ids, log_probs, hard = endpoint.entries(PROMPT)
    logits = server.teacher.window_logits([PROMPT])[0][:-1]
    wanted = endpoint.codec(5).encode(logits, np.zeros(len(logits), np.uint64))
    found = endpoint.codec(5).encode_entries(ids, log_probs)
    np.testing.assert_array_equal(found["ids"], wanted["ids"])
    for name in ("log_probs", "tail_log_prob"):
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_allclose(found[name].astype(float), wanted[name].astype(float), rtol=2e-3, atol=2e-3)
    assert hard == pytest.approx(logits.log_softmax(1).numpy()[np.arange(19), PROMPT[1:]], abs=1e-5)
    assert server.keys == [f"Bearer {KEY}"]
    with pytest.raises(TeacherError, match="6 is more than 5"):
        endpoint.codec(6)


def test_identity_is_what_the_recipe_says(server: Server, endpoint: EndpointTeacher) -> None:
    assert endpoint.identity() == {"type": "endpoint", "protocol": "vllm", "model": "tiny", "revision": "1"}
    assert not server.keys  # a finished store is compared without the endpoint


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda cells: cells.pop(), "19 entries"),
        (lambda cells: cells.__setitem__(4, None), "token 4, got None"),
        (lambda cells: [cells[2].pop(name) for name in list(cells[2])[:3]], "5 tokens"),
        (lambda cells: cells[2].update({"9999": {"logprob": -1.0}}), "9999"),
        (lambda cells: cells[2].update({"3": {"logprob": float("nan")}}), "nan"),
    ],
)
def test_partial_answers_are_refused(server: Server, endpoint: EndpointTeacher, spoil: Any, said: str) -> None:
    server.spoil = spoil
    with pytest.raises(TeacherError, match=said):
        endpoint.entries(PROMPT)


def test_a_busy_endpoint_is_asked_again(server: Server, endpoint: EndpointTeacher) -> None:
    server.statuses = [429, 503]
    assert endpoint.entries(PROMPT)[0].shape == (19, 5)
    server.statuses = [500] * 3
    with pytest.raises(TeacherUnavailable, match=r"3 attempts; the last: 500 .*\*\*\*") as caught:
        endpoint.entries(PROMPT)
    assert KEY not in str(caught.value)
    for status in (400, 302):
        server.statuses = [status]
        with pytest.raises(TeacherError, match=f"answered {status}"):
            endpoint.entries(PROMPT)
    assert len(server.keys) == 3 + 3 + 2


def test_settings_that_would_leak_or_lack_the_key(
    server: Server, teacher: tuple[Path, CausalLMTeacher], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError):
        settings(server, teacher[0], url="http://me:word@127.0.0.1")
    monkeypatch.delenv("ENDPOINT_KEY", raising=False)
    with pytest.raises(TeacherError, match="ENDPOINT_KEY is not set"):
        EndpointTeacher(settings(server, teacher[0]))
    monkeypatch.setenv("ENDPOINT_KEY", f"{KEY}\nmore")
    with pytest.raises(TeacherError, match="not one printable line"):
        EndpointTeacher(settings(server, teacher[0]))


def test_entries_that_are_no_label() -> None:
    codec = TopKCodec(2, 5)
    for ids, log_probs in ([[1, 1]], [[-1.0, -1.0]]), ([[1, 2]], [[0.0, 0.0]]), ([[1, 7]], [[-1.0, -1.0]]):
        with pytest.raises(LabelError):
            codec.encode_entries(np.array(ids), np.array(log_probs))
