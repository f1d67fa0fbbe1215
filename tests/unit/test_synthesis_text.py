"""What texts that a teacher writes are made of: slots, draws, beginnings, labels, and what is left out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.config.models import TeacherLMConfig
from kdcore.config.synthesis.text import SelfGenerationConfig, TextFilters
from kdcore.errors import ConfigError, LabelError, TeacherError
from kdcore.evaluation.synthesis_text import collapse_notes, distinct, likest, text_figures
from kdcore.labels import DenseCodec, cut, join
from kdcore.labels.sampling import label_seeds, uniforms
from kdcore.labels.threshold import ThresholdCodec
from kdcore.synthesis.text.beginnings import Beginning, Prompts, first_points, spread, text_key
from kdcore.synthesis.text.decode import Writing
from kdcore.synthesis.text.drawing import Odds, draw
from kdcore.synthesis.text.duplicates import NearDuplicates
from kdcore.synthesis.text.filters import TextSieve, perplexity, repetition
from kdcore.synthesis.text.labelling import LabelTaker, probed
from kdcore.synthesis.text.unit import beginnings_of
from kdcore.synthesis.text.weak_spots import disagreement, weakest
from kdcore.synthesis.units import SynthesisUnit
from kdcore.teachers.causal_lm import CausalLMTeacher
from kdcore.teachers.slots import check_memory
from tests.support.tiny_teacher import write_teacher

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    write_teacher(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(folder: Path) -> CausalLMTeacher:
    return teacher_of(folder)


def teacher_of(folder: Path) -> CausalLMTeacher:
    return CausalLMTeacher(TeacherLMConfig(path=str(folder), context=64, overlap=8), device="cpu")


def grouped(folder: Path) -> CausalLMTeacher:
    """Two layers, four heads that share two of keys and values, eager attention."""
    from transformers import LlamaConfig, LlamaForCausalLM

    teacher = teacher_of(folder)
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(teacher.tokenizer), num_key_value_heads=2, attn_implementation="eager", **shape)
    teacher.model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return teacher


@pytest.mark.parametrize("make", [teacher_of, grouped])
def test_a_slot_answers_as_a_whole_text_does(folder: Path, make: Callable[[Path], CausalLMTeacher]) -> None:
    """Texts begin and go at different times, in slots that others had."""
    teacher = make(folder)
    texts = [np.random.default_rng(length).integers(0, teacher.num_classes, length) for length in (3, 9, 5, 6)]
    whole = teacher.window_logits(texts)
    teacher.begin_slots(3, 9)

    def step(rows: list[int], positions: list[int]) -> None:
        tokens = np.array([texts[row][place] for row, place in zip(rows, positions, strict=True)])
        found = teacher.decode(tokens, np.array(positions))
        for logits, row, place in zip(found, rows, positions, strict=True):
            torch.testing.assert_close(logits, whole[row][place], atol=1e-5, rtol=1e-5)

    for place in range(3):
        step([0, 1, 2], [place] * 3)
    for place in range(2):
        step([3, 1, 2], [place, 3 + place, 3 + place])
    teacher.keep_slots(np.array([1, 0]))
    for place in range(4):
        step([1, 3], [5 + place, 2 + place])


def test_what_cannot_be_written(folder: Path) -> None:
    teacher = teacher_of(folder)
    with pytest.raises(TeacherError, match=r"max_tokens.* within the model's positions: 200 is more than 128"):
        teacher.check_slots(200)
    config = teacher.model.config
    config.layer_types = ["linear_attention"]
    with pytest.raises(TeacherError, match="'llama' has layers of"):
        teacher.check_slots(10)
    config.layer_types, config.sliding_window = ["sliding_attention"], 8
    with pytest.raises(TeacherError, match="sliding window of 8 tokens, 10"):
        teacher.check_slots(10)
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(TeacherError, match="loaded with 'flash_attention_2'"):
        teacher.check_slots(4)


_NEO = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8}


@pytest.mark.parametrize(
    ("kind", "settings", "length", "message"),
    [
        ("gpt_neo", {**_NEO, "num_heads": 2}, 9, "sliding window of 8 tokens, 9"),
        ("gpt_neo", {**_NEO, "num_heads": 2}, 8, ""),
        ("bloom", {"n_layer": 1, "n_head": 2}, 4, "'bloom' has positions that cannot be told for each text"),
        ("falcon", {"num_hidden_layers": 1, "num_attention_heads": 2, "alibi": True}, 4, "'falcon' has positions"),
        ("falcon", {"num_hidden_layers": 1, "num_attention_heads": 2, "alibi": False}, 4, ""),
    ],
)
def test_a_model_whose_texts_cannot_be_at_places_of_their_own(
    kind: str, settings: dict[str, object], length: int, message: str
) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](vocab_size=20, hidden_size=8, **settings)
    model = AutoModelForCausalLM.from_config(config)
    if not message:
        check_memory(model, length)
        return
    with pytest.raises(TeacherError, match=message):
        check_memory(model, length)


def beginnings(count: int, *tokens: int) -> list[Beginning]:
    return [Beginning(text_key(0, 0, 0, row), np.array([0, *tokens])) for row in range(count)]


def written(teacher: CausalLMTeacher, batch: int, codec: DenseCodec | ThresholdCodec) -> tuple[Writing, list]:
    begun = beginnings(9, 5, 7)
    writing = Writing(begun, Odds(((0, 2.0), (4, 0.7)), 0.95), 20, range(0, 300, 9), batch)
    taker = LabelTaker(codec, begun, writing.longest, 0)
    for step in writing.steps(teacher):
        taker.take(step)
    return writing, list(taker.rows(writing.tokens, writing.lengths))


def test_what_is_written_does_not_depend_on_the_batch_and_is_labelled_as_a_pass_over_it_would(
    teacher: CausalLMTeacher,
) -> None:
    codec = DenseCodec(teacher.num_classes)
    one, many = written(teacher, 2, codec), written(teacher, 16, codec)
    assert one[0].tokens.tolist() == many[0].tokens.tolist()
    assert len(set(one[0].lengths.tolist())) > 2  # some end early, so that others took their slots
    assert one[0].finished.any()
    for row, (columns, log_probs) in enumerate(one[1]):
        text = one[0].tokens[row, : one[0].lengths[row]]
        assert text[:3].tolist() == [0, 5, 7]
        wanted = teacher.window_logits([text])[0][:-1].log_softmax(1)
        found = columns["log_probs"].reshape(len(text) - 1, -1)
        np.testing.assert_allclose(found, wanted, atol=0.02)
        hard = wanted.gather(1, torch.from_numpy(text[1:])[:, None])[:, 0]
        np.testing.assert_allclose(log_probs, hard, atol=0.02)
        np.testing.assert_allclose(many[1][row][0]["log_probs"], columns["log_probs"], atol=0.01)  # float16


def test_drawn_labels_of_a_text_are_those_of_its_key(teacher: CausalLMTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdcore.config.labels import ThresholdConfig
    from kdcore.labels.learn import learn_codec

    begun = beginnings(9, 5, 7)
    writing = Writing(begun, Odds(), 20, [0], 4)
    steps = list(writing.steps(teacher))
    probe = list(probed(steps, begun, writing.longest, 0))
    alone = sum(len(part.seeds) for part in probed(steps, begun, writing.longest, 0, written_alone=True))
    assert sum(len(part.seeds) for part in probe) == int(writing.lengths.sum()) - len(begun)
    assert alone == int(writing.lengths.sum()) - sum(len(each.tokens) for each in begun)
    codec = learn_codec(ThresholdConfig(draws=20), teacher.num_classes, probe).codec
    assert isinstance(codec, ThresholdCodec)
    at_once = written(teacher, 3, codec)[1]
    monkeypatch.setattr("kdcore.synthesis.text.labelling._WAITING_ELEMENTS", 1)  # each step alone
    for ours, theirs in zip(at_once, written(teacher, 3, codec)[1], strict=True):
        assert all(np.array_equal(ours[0][name], theirs[0][name]) for name in ours[0])
        assert np.array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("counts", [[1, 3, 0, 2], [6], [2, 4]])
def test_labels_that_are_cut_are_joined_again(counts: list[int]) -> None:
    ragged = {"ids": np.arange(9), "counts": np.arange(9), "entries": np.array([2, 0, 3, 1, 1, 2])}
    flat = {"ids": np.arange(18), "tail": np.arange(6)}
    for encoded in (ragged, flat):
        pieces = cut(encoded, np.array(counts))
        assert [len(piece.get("entries", piece.get("tail", ()))) for piece in pieces] == counts
        joined = join(pieces)
        assert all(np.array_equal(joined[name], encoded[name]) for name in encoded)


def test_tokens_are_drawn_at_their_odds() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, float("-inf")]]).expand(10_000, -1)
    points, ones = (np.arange(10_000) + 0.5) / 10_000, np.ones(10_000)
    for temperature in (1.0, 0.5):
        drawn = draw(logits, points, temperature * ones, ones)
        shares = np.bincount(drawn, minlength=4) / 10_000
        np.testing.assert_allclose(shares, (logits[0] / temperature).softmax(0), atol=2e-4)
    drawn = draw(logits, points, ones, 0.7 * ones)  # 0.67 and 0.24: the second is needed, the third is not
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 10_000, [0, 0.2689, 0.7311, 0], atol=2e-4)
    assert draw(logits[:1], np.array([np.nextafter(1, 0)]), ones[:1], ones[:1]).tolist() == [2]
    narrow = torch.tensor([[8.0] + [3.984375] * 4], dtype=torch.bfloat16)  # their difference is no bfloat16
    shares = np.bincount(draw(narrow.expand(10_000, -1), points, ones, ones)) / 10_000
    np.testing.assert_allclose(shares, narrow[0].double().softmax(0), atol=1e-4)
    with pytest.raises(LabelError, match="must be finite"):
        draw(torch.full((1, 4), float("nan")), points[:1], ones[:1], ones[:1])


def test_odds_by_position() -> None:
    odds = Odds(((2, 2.0), (4, 1.0)), 0.9)
    assert odds.temperatures(np.array([-1, 0, 2, 3, 4, 9])).tolist() == [2, 2, 2, 1.5, 1, 1]
    assert odds.shares(np.arange(2)).tolist() == [0.9, 0.9]


def test_first_tokens_are_shared_out() -> None:
    odds = np.cumsum([0.61, 0.3, 0.05, 0.04])
    all_of = []
    for unit in range(10):
        drawn = np.searchsorted(odds, first_points(3, 0, unit, 20), "right")
        counts = np.bincount(drawn, minlength=4)
        assert (np.abs(counts - 20 * np.diff(odds, prepend=0)) < 1).all()
        all_of.append(drawn)
    counts = np.bincount(np.concatenate(all_of), minlength=4)
    assert (np.abs(counts - 200 * np.diff(odds, prepend=0)) < 4).all()
    assert (all_of[0][:10] > 0).any()  # the rows are not sorted by it
    assert not np.array_equal(all_of[0], all_of[1])
    assert sorted(spread(number, 30) for number in range(30)) == list(range(30))


def prompts(encoded: str | None = None, begin: int | None = 1, **settings: object) -> Prompts:
    config = SelfGenerationConfig.model_validate({"samples": 4, **settings})
    return Prompts(config, lambda text: [ord(each) for each in text], begin)


def test_prompts_take_turns_and_their_slots_all_values(tmp_path: Path) -> None:
    given = prompts(prompts=["a{x}b{y}", "{{c}}"], slots={"x": ["1", "2", "3"], "y": ["u", "v"]})
    texts = [given.text(number) for number in range(12)]
    assert sorted(texts[::2]) == [f"a{x}b{y}" for x in "123" for y in "uv"]
    assert set(texts[1::2]) == {"{c}"}
    assert given.tokens(1).tolist() == [1, *map(ord, "{c}")]
    names = "abcdefghijkl"
    many = prompts(prompts=["".join(f"{{{name}}}" for name in names)], slots={name: ["."] * 60 for name in names})
    assert many.text(3) == "." * 12  # of 60^12 combinations, more than 64 bits count
    assert prompts().tokens(5).tolist() == [1]
    file = tmp_path / "prompts.txt"
    file.write_text("one {x}\n\ntwo\n")
    read = prompts(prompt_file=str(file))
    assert [read.text(number) for number in range(3)] == ["one {x}", "two", "one {x}"]
    with pytest.raises(ConfigError, match=r"has \{z\}, which synthesis.slots does not know"):
        prompts(prompts=["{z}"])
    with pytest.raises(ConfigError, match="has neither"):
        prompts(begin=None)
    with pytest.raises(ConfigError, match="the prompt '' not one token"):
        prompts(prompts=["a", "{x}"], slots={"x": [""]}, begin=None).tokens(1)
    (tmp_path / "none").touch()
    with pytest.raises(ConfigError, match="must have a prompt"):
        prompts(prompt_file=str(tmp_path / "none"))


def test_a_unit_is_a_function_of_its_number() -> None:
    config = SelfGenerationConfig(samples=8, first_token="sampled")
    units = [SynthesisUnit(f"unit-{number}", number, 0, 4 * number, 4, 0, "") for number in (0, 1)]
    first, second = (beginnings_of(config, prompts(), unit) for unit in units)
    assert len({each.key for each in (*first, *second)}) == 8
    assert [each.key for each in first] == [each.key for each in beginnings_of(config, prompts(), units[0])]
    assert {each.first for each in first} == {None}
    assert beginnings_of(SelfGenerationConfig(samples=8), prompts(), units[0])[0].first is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "above 0"),
        ({"temperature": [[3, 1.0], [1, 2.0]]}, "must rise"),
        ({"top_p": 1.5}, "at most 1"),
        ({"prompts": ["a"], "prompt_file": "b"}, "here or in a file"),
        ({"slots": {"x": ["1"]}}, "there are none"),
        ({"labelled": "written"}, "all tokens are written"),
        ({"prompts": ["{x}"], "slots": {"x": []}}, "have nothing"),
        ({"weak_spots": 0.5}, "set `student`"),
        ({"student": "there"}, "'there' is one .* nothing here asks it"),
        ({"filters": {"min_perplexity": 3, "max_perplexity": 2}}, "must be below"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfGenerationConfig.model_validate({"samples": 4, **settings})


def test_what_is_left_out() -> None:
    random = np.random.default_rng(0)
    sieve = TextSieve(TextFilters(min_tokens=6, unfinished="drop", min_perplexity=1.5, max_perplexity=50))
    text, even = random.integers(0, 500, 100), np.full(99, -2.0, np.float16)
    near = text.copy()
    near[50] += 1
    asked = [
        (b"a", text[:5], even[:4], True, "short"),
        (b"b", text, even, False, "unfinished"),
        (b"c", np.tile(text[:9], 11), np.full(98, -2.0), True, "repetitive"),
        (b"d", text, np.full(99, -0.1), True, "too likely"),
        (b"e", text, np.full(99, -4.0), True, "unlikely"),
        (b"f", text, even, True, None),
        (b"f", text[::-1], even, True, "duplicate"),
        (b"g", near, even, True, "near duplicate"),
        (b"h", random.integers(0, 500, 100), even, True, None),
    ]
    for key, tokens, log_probs, finished, reason in asked:
        assert sieve.refuses(key, tokens, log_probs, finished) == reason
    assert set(sieve.counts.values()) == {1}
    assert perplexity(even) == pytest.approx(np.exp(2))
    assert repetition(np.arange(3)) == 0


def test_likeness_is_about_the_share_of_shingles() -> None:
    random = np.random.default_rng(1)
    text = random.integers(0, 5000, 1000)
    for changed, likeness in ((20, 0.82), (40, 0.67)):
        other, places = text.copy(), np.linspace(0, 990, changed).astype(int)
        other[places] += 7
        found = NearDuplicates(0.05, 5)
        assert found.add(text) is None
        assert found.add(other) == pytest.approx(likeness, abs=0.15)
    assert NearDuplicates(0.8, 5).add(text[:2]) is None


def test_weak_spots_are_where_the_student_is_surprised() -> None:
    ours = [np.full(3, -1.0), np.full(2, -1.0), np.full(4, -2.0), np.full(1, -1.0)]
    theirs = [np.full(3, -1.5), np.full(2, -4.0), np.full(4, -4.0), np.full(1, -1.5)]
    differences = disagreement(ours, theirs)
    assert differences.tolist() == [0.5, 3, 2, 0.5]
    assert weakest(differences, 0.5).tolist() == [1, 2]
    assert weakest(differences, 0.8).tolist() == [0, 1, 2]
    assert weakest(differences, 0.01).tolist() == [1]


def test_a_collapse_is_said_in_words() -> None:
    random = np.random.default_rng(0)

    def notes(texts: list[np.ndarray], perplexities: float = 4.0, **left_out: int) -> str:
        finished = np.ones(len(texts), bool)
        figures = text_figures(texts, np.full(len(texts), perplexities), left_out, finished)
        return "; ".join(collapse_notes(figures, len(texts)))

    various = [random.integers(0, 500, 50) for _ in range(20)]
    assert notes(various) == ""
    figures = text_figures(various, np.full(20, 4.0), {"short": 0}, np.ones(20, bool))
    assert figures["distinct"]["4"] == 1
    assert (figures["tokens"], figures["length"], figures["left_out"]) == (1000, [50, 50, 50], {})
    assert "repeated text" in notes([np.tile([1, 2, 3], 40)] * 20)
    assert "next to nothing to choose" in notes(various, 1.01)
    assert "none of 7 texts is left: 4 short, 3 duplicate" in notes([], short=4, duplicate=3)
    assert "30 of 50 texts were left out" in notes(various, repetitive=30)
    alike = [np.concatenate([[1, 2], text]) for text in various]
    assert "begin alike" in notes(alike)
    assert collapse_notes(text_figures(alike, np.full(20, 4.0), {}, np.ones(20, bool)), 20, prompted=True) == ()


def test_likeness_to_other_texts() -> None:
    texts = ["a b c d e", "a b c d f", "x y z", ""]
    np.testing.assert_allclose(likest(texts), [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(likest(texts[:3], ["x y z", "a b c"]), [1 / 3, 1 / 3, 1])
    assert distinct([np.array([1, 2, 1, 2, 1]), np.array([2, 1])], 2) == pytest.approx(2 / 5)


def test_the_word_that_is_drawn_has_no_part_in_what_a_sampled_label_says() -> None:
    """Labels and words of one text are drawn by numbers that know nothing of each other."""
    beginning = Beginning(text_key(0, 0, 0, 0), np.array([0]))
    of_words = Writing([beginning], Odds(), 2000, (), 1)._points[0]
    of_labels = uniforms(label_seeds(beginning.key, len(of_words)), 1)[:, 0]
    assert abs(np.corrcoef(of_words, of_labels)[0, 1]) < 0.1
