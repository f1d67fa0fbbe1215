"""A student of another tokenizer learns from stored top-k labels, by ULD and GOLD's hybrid."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.config import Recipe
from kdcore.config.loss import LossConfig
from kdcore.data.byte_ends import TokenBytes
from kdcore.data.encoding import TextEncoder
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import ConfigError, IdentityMismatch
from kdcore.identity import digest_tokenizer
from kdcore.labels import OpeningLabels, TopKLabels
from kdcore.losses.objective import objective_of
from kdcore.store import open_store
from kdcore.training.arms import plan_arms
from kdcore.training.cross_rows import SpanRows
from kdcore.training.labelled_text import LabelledText
from kdcore.training.run import run_arms
from kdcore.training.text_loss import text_loss
from kdcore.training.text_samples import TextSamples, text_samples
from tests.support.chat_tokenizer import BEGUN, chat_tokenizer
from tests.support.training import TOKENIZER, text_recipe, write_labels

BYTES = str(Path(__file__).parents[2] / "models" / "bytes")
K = 6
TEXTS = (
    "def f(x):\n    return x + 1\n",
    "größer als 日本 😀 x\n",
    "import os\n\nprint(os.path)\n",
    "while True: break\n",
)


def changed(recipe: Recipe, loss: dict[str, Any], **training: Any) -> Recipe:
    tree = recipe.model_dump(mode="json")
    tree["labels"]["codec"] = {"type": "topk", "k": K}
    tree["teacher"] = {"type": "causal_lm", "path": TOKENIZER}
    tree["student"]["tokenizer"] = BYTES
    tree["training"] |= {"loss": loss, **training}
    return Recipe.model_validate(tree)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("openings")
    (root / "corpus").mkdir()
    for number, text in enumerate(TEXTS):
        (root / "corpus" / f"{number}.txt").write_text(text)
    found = changed(text_recipe(root, "openings"), {"type": "gold", "hard_weight": 0.25})
    write_labels(found)
    return found


@pytest.fixture(scope="module")
def samples(recipe: Recipe) -> TextSamples:
    return text_samples(recipe, load_tokenizer(BYTES), True, 12, "cut")


def words_of(tokenizer: Any, ids: list[int]) -> list[bytes]:
    """The bytes of tokens of a byte-level tokenizer; the EOS is one of its own."""
    names = {number: name for name, number in TokenBytes(tokenizer).names().items()}
    return [b"\0" if isinstance(name := names[each], str) else name for each in ids]


class Reference:
    """What the loss is of, found by joining strings token by token, of whole documents without a cut."""

    def __init__(self, recipe: Recipe) -> None:
        self.store = open_store(recipe.store_path)
        self.theirs, self.ours = load_tokenizer(TOKENIZER), load_tokenizer(BYTES)
        names = [tokenizer.get_vocab() for tokenizer in (self.theirs, self.ours)]
        self.same: dict[Any, Any] = {
            n: names[1][t] for t, n in names[0].items() if t in names[1] and n != self.theirs.eos_token_id
        }
        self.same[self.theirs.eos_token_id] = self.ours.eos_token_id

    def loss(self, model: Any, row: int, form: str, hard_weight: float) -> torch.Tensor:
        teacher_ids = self.store.tokens(row).tolist()
        theirs = words_of(self.theirs, teacher_ids)[1:]
        text = self.theirs.decode(teacher_ids[1:-1])
        ids = [self.ours.bos_token_id, *self.ours.encode(text, add_special_tokens=False), self.ours.eos_token_id]
        ours = words_of(self.ours, ids)[1:]
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
        own = logits.log_softmax(1)
        spoken = own.gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)
        labels, said = self.store.labels(row), self.store.token_log_probs(row).astype(float)
        assert isinstance(labels, TopKLabels)
        total, (i, j) = torch.zeros((), dtype=torch.float64), (0, 0)
        while i < len(theirs):
            a, b = i + 1, j + 1
            while (left := b"".join(theirs[i:a])) != (right := b"".join(ours[j:b])):
                a, b = (a + 1, b) if len(left) < len(right) else (a, b + 1)
            p, q = labels.log_probs[i].double().exp(), own[j].exp()
            rest = labels.tail_log_prob[i].double().exp()
            scales = (1.0, 1.0)
            if form == "gold":
                scales = float(np.exp(said[i + 1 : a].sum())), spoken[j + 1 : b].sum().exp()
            total = total + self.distance(p * scales[0], labels.ids[i].tolist(), rest * scales[0], q * scales[1], form)
            i, j = a, b
        return (1 - hard_weight) * total - hard_weight * spoken.sum()

    def distance(self, p: Any, ids: list[int], rest: Any, q: Any, form: str) -> Any:
        def l1(one: Any, other: Any, rest: Any, more: Any) -> Any:
            one = one.sort(descending=True).values
            other = other.sort(descending=True).values
            k = len(one)
            other = torch.nn.functional.pad(other, (0, max(0, k - len(other))))
            return (one - other[:k]).abs().sum() + (rest - other[k:].sum() - more).abs()

        if form == "uld":
            return l1(p, q, rest, 0.0)
        shared = [place for place, number in enumerate(ids) if number in self.same]
        apart = [place for place in range(len(ids)) if place not in shared]
        places = [self.same[ids[place]] for place in shared]
        t, s = p[shared].clamp(min=1e-8), q[places].clamp(min=1e-8)
        middle = (t + s) / 2
        jsd = (t * (t / middle).log() + s * (s / middle).log()).sum() / 2
        alone = [number for number in range(len(q)) if number not in self.same.values()]
        unnamed = q.sum() - q[places].sum() - q[alone].sum()
        share = len(self.same) / len(self.theirs)
        return share * jsd + (1 - share) * l1(p[apart], q[alone], rest, unnamed)


@pytest.mark.parametrize("form", ["uld", "gold"])
def test_training_is_that_of_a_dense_reference(recipe: Recipe, form: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    asked = changed(recipe, {"type": form, "hard_weight": 0.25, "chunk_tokens": 7})
    assert asked.training is not None
    samples = text_samples(asked, load_tokenizer(BYTES), True, 2000, "refuse")
    reference, objective = Reference(recipe), objective_of(asked.training.loss, 0.25)
    settings = {"vocab_size": 258, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    twins = []
    for way in ("ours", "theirs"):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**settings, num_attention_heads=2, max_position_embeddings=2000))  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        start = {name: value.detach().clone() for name, value in model.named_parameters()}
        losses = []
        for step in range(2):
            chosen = np.array([step, step + 2])
            if way == "ours":
                batch = samples.batch(chosen, "rows")
                loss, metrics = text_loss(model, batch, objective, asked.training.loss)
                assert int(metrics["tokens"]) == len(batch.targets) == int(metrics["support_mass"])
            else:
                rows = samples._rows._places[samples._chunks.rows[chosen]]  # type: ignore[attr-defined]
                loss = sum(reference.loss(model, int(row), form, 0.25) for row in rows)
            optimizer.zero_grad()
            (loss / 100).backward()  # type: ignore[operator]
            optimizer.step()
            losses.append(float(loss.detach()))  # type: ignore[union-attr]
        twins.append((losses, {name: value - start[name] for name, value in model.named_parameters()}))
    (ours, moved), (theirs, wanted) = twins
    assert ours == pytest.approx(theirs, rel=1e-4)
    for name, value in wanted.items():
        torch.testing.assert_close(moved[name], value, rtol=1e-3, atol=1e-6)


def test_pieces_of_documents_have_the_chunks_that_lie_in_them(recipe: Recipe, samples: TextSamples) -> None:
    batch = samples.batch(np.arange(len(samples)))
    labels = batch.labels
    assert isinstance(labels, OpeningLabels)
    assert labels.num_labels == len(batch.targets) > len(samples)
    assert 0.6 < float((labels.chunk >= 0).float().mean()) < 1  # a cut is within some of the teacher's tokens
    assert torch.equal(labels.chunk[labels.opening], torch.arange(labels.num_chunks))
    # The invented teacher likes the next token: of one that is a byte the student's next token is the best class.
    alone = torch.bincount(labels.chunk[labels.chunk >= 0]) == 1
    best = labels.student_of[labels.labels.ids[:, 0]]
    single = alone & (labels.rest_log_probs == 0) & (best >= 0)
    assert int(single.sum()) > 5
    assert float((best == batch.targets[labels.opening])[single].float().mean()) > 0.7
    assert not any("positions" in vars(text) for text in samples._rows._rows), "a corpus does not grow as it is read"  # type: ignore[attr-defined]
    empty = samples.batch(np.zeros(0, dtype=np.int64)).labels
    assert isinstance(empty, OpeningLabels)
    assert (empty.num_labels, empty.num_chunks, empty.labels.num_labels) == (0, 0, 0)


def test_a_student_and_its_baseline_are_trained(recipe: Recipe) -> None:
    asked = changed(recipe, {"type": "gold", "hard_weight": 0.5}, steps=2, checkpoint={"every_steps": 2})
    run_arms(asked, plan_arms(asked))
    for arm in plan_arms(asked):
        assert len((asked.run_dir / "arms" / arm.name / "metrics.jsonl").read_text().splitlines()) == 2


def test_what_cannot_serve_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    tree = recipe.model_dump(mode="json")
    with pytest.raises(ValueError, match=r"labels\.codec\.type to topk"):
        Recipe.model_validate({**tree, "labels": {"codec": {"type": "span"}}})
    mix = {"stores": [{"path": "a"}, {"path": "b"}]}
    with pytest.raises(ValueError, match="one `teacher`"):
        Recipe.model_validate({**tree, "teacher": None, "labels": {"mix": mix}})
    with pytest.raises(ValueError, match="tail out"):
        changed(recipe, {"type": "uld", "tail": "drop"})
    other = tmp_path / "other"
    spare = text_recipe(tmp_path, "spare").model_dump(mode="json")
    spare = {**spare, "data": tree["data"], "labels": {**spare["labels"], "path": str(other)}}
    write_labels(Recipe.model_validate(spare))
    misused = recipe.model_copy(update={"labels": recipe.labels.model_copy(update={"path": str(other)})})
    with pytest.raises(ConfigError, match="codec 'threshold'"):
        text_samples(misused, load_tokenizer(BYTES), True, 48, "cut")
    foreign = Recipe.model_validate({**tree, "teacher": {**tree["teacher"], "tokenizer": BYTES}})
    with pytest.raises(IdentityMismatch, match=r"teacher\.tokenizer"):
        text_samples(foreign, load_tokenizer(BYTES), True, 48, "cut")
    data = LabelledText(recipe.store_path, load_tokenizer(TOKENIZER), 32, "cut")
    loss = LossConfig(type="uld")
    with pytest.raises(ConfigError, match="kd train"):
        text_loss(torch.nn.Module(), data.collate([data[0]]), objective_of(loss, 0.0), loss)


def test_one_template_with_other_special_tokens_is_another_text(tmp_path: Path) -> None:
    """Else bytes of the teacher's text would be taken for those that lie as far into the student's."""
    chat_tokenizer(BEGUN).save_pretrained(tmp_path / "teacher")
    teacher, student = load_tokenizer(str(tmp_path / "teacher")), chat_tokenizer(BEGUN)
    student.add_special_tokens({"bos_token": "<begin>"})
    talk = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": talk}))
    tree = text_recipe(tmp_path, "talks", teacher=True).model_dump(mode="json")
    tree["teacher"]["path"], tree["labels"]["codec"] = str(tmp_path / "teacher"), {"type": "span"}
    data = {"type": "text", "path": str(tmp_path / "talks.jsonl"), "messages_field": "messages", "mask": "assistant"}

    def rows(tokenizer: Any, **settings: Any) -> SpanRows:
        asked = Recipe.model_validate({**tree, "data": {**data, **settings}})
        identity = {**TextEncoder(teacher, asked.data).identity(), "tokenizer": digest_tokenizer(teacher)}
        place = SimpleNamespace(remote=False)
        store: Any = SimpleNamespace(identity=identity, path="labels", place=place, rows_of=lambda keys: None)
        return SpanRows(asked, tokenizer, store)

    with pytest.raises(IdentityMismatch, match=r"'bos_token': '<s>'.*'bos_token': '<begin>'.*data\.template_arguments"):
        rows(student)
    given = rows(student, template_arguments={"bos_token": "<s>"})
    assert given._bytes(0, 0, 99).ends.tolist() == rows(teacher)._bytes(0, 0, 99).ends.tolist()
