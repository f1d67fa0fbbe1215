"""What a distilling step costs a student: labels from a store, beside plain training and beside a live teacher.

`cached_vs_ce_step_k12`, `_k64`: a step on labels of that many classes, read from a store, over one of plain
cross-entropy; both use this project's feed, chunked head and AdamW, in turns on the same model and tokens; medians. The
larger of two codecs counts: `topk`, and `threshold` with about as many classes a label. `live_trl_vs_cached_step`: a
step of trl's GKD trainer on given text, with a live teacher of four times the size, over the step on 12 cached classes;
`liger_vs_cached_step`: the same with liger-kernel's chunked distillation loss. Models are Llamas with random weights.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdcore.config.labels import CodecConfig, ThresholdConfig, TopKConfig
from kdcore.config.training import TrainingConfig
from kdcore.identity import sample_key_array
from kdcore.labels.learn import ProbeBatch, learn_codec
from kdcore.labels.sampling import label_seeds
from kdcore.store import ShardRow, open_store
from kdcore.training.engines import Engine, make_engine
from kdcore.training.feed import feeding
from kdcore.training.model import DistillModel
from kdcore.training.ranks import Ranks, local_device
from kdcore.training.text_samples import StoreRows, TextSamples
from tests.benchmarks.harness import emit, progress
from tests.benchmarks.label_speed import labelled
from tests.benchmarks.stores import make_store

CLASSES, SEQUENCE = 32_768, 256
Size = tuple[int, int, int]
SIZES: dict[str, tuple[Size, Size]] = {  # student and teacher, four times as large
    "small": ((512, 6, 1408), (1024, 9, 2816)),
    "large": ((1024, 24, 2816), (2048, 24, 5632)),
}
# Draws of `threshold` that name about 12 and 64 classes of the labels below.
CODECS: dict[str, CodecConfig] = {
    "topk_12": TopKConfig(k=12),
    "topk_64": TopKConfig(k=64),
    "threshold_12": ThresholdConfig(draws=29),
    "threshold_64": ThresholdConfig(draws=390),
}


def llama(width: int, layers: int, inner: int) -> Any:
    """A Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=CLASSES, hidden_size=width, num_hidden_layers=layers, intermediate_size=inner,
            num_attention_heads=width // 64, num_key_value_heads=width // 64, tie_word_embeddings=True,
        )
    )  # fmt: skip


def answers(tokens: np.ndarray, number: int) -> torch.Tensor:
    """Logits [T - 1, V] such as language models give: a falling curve over the classes, its best one often right."""
    count = len(tokens) - 1
    curve = -1.6 * torch.arange(1, CLASSES + 1, dtype=torch.float32).log()
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(number))
    shift = torch.from_numpy(tokens[1:]) - order[0]
    logits = torch.empty(count, CLASSES)
    return logits.scatter_(1, (order[None] + shift[:, None]) % CLASSES, curve.expand(count, -1))


def make_samples(folder: Path, name: str, documents: list[np.ndarray], teacher: int = 0) -> tuple[TextSamples, float]:
    """A store of one codec, opened for training; and classes a label. Another `teacher` has other classes in mind."""
    texts = [(tokens, sample_key_array(tokens)) for tokens in documents]
    probe = ProbeBatch(answers(documents[0], 0), documents[0][1:], label_seeds(texts[0][1], SEQUENCE))
    codec = learn_codec(CODECS[name], CLASSES, [probe]).codec
    rows: list[ShardRow] = [
        labelled(codec, key, tokens, answers(tokens, 10_000 * teacher + number))
        for number, (tokens, key) in enumerate(texts)
    ]
    store = make_store(folder / name, codec, [rows], kind="text", vocabulary=CLASSES)
    labels = store.labels(0)
    entries = labels.ids.numel() / labels.num_labels  # pyright: ignore[reportAttributeAccessIssue]
    return TextSamples(StoreRows(open_store(folder / name)), SEQUENCE, True, "refuse"), entries


def training() -> TrainingConfig:
    """Bfloat16, plain torch, AdamW."""
    return TrainingConfig.model_validate({"steps": 1, "precision": "bfloat16", "sequence_length": SEQUENCE})


def now() -> float:
    """Seconds, when a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], object]) -> float:
    started = now()
    work()
    return now() - started


def block(engine: Engine, samples: TextSamples, steps: list[list[np.ndarray]], device: torch.device) -> float:
    """Mean seconds of a step but the first: take the batch, made ahead as in training, forward, backward, update."""
    config = training()
    with feeding(samples, steps, "padded", device, config.prefetch) as feed:

        def step() -> None:
            for micro in feed.step():
                engine.accumulate(micro.batch, 1 / (len(micro.indices) * SEQUENCE), last=micro.last)
            engine.update(1e-4, lambda norm: True)

        timed(step)
        return timed(lambda: [step() for _ in steps[1:]]) / (len(steps) - 1)


def cached_steps(arms: dict[str, TextSamples], arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step of each arm, over blocks of steps in turns; a first round warms up."""
    device = local_device()
    student = DistillModel(llama(*arguments.student), training(), True)
    engine = make_engine(student, training(), Ranks(0, 1, device), False)
    count = len(next(iter(arms.values())))
    order = np.arange((arguments.steps + 1) * arguments.sequences) % count
    steps = [[part] for part in order.reshape(-1, arguments.sequences)]
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(arguments.rounds + 1):
        for name, samples in arms.items():
            took = block(engine, samples, steps, device)
            if number:
                seconds[name].append(took)
    engine.close()
    progress(f"seconds a step, by round: {seconds}")
    return {name: statistics.median(values) for name, values in seconds.items()}


def trl_step(documents: list[np.ndarray], arguments: argparse.Namespace, folder: Path) -> float:
    """Median seconds of a step of trl's GKD trainer: forward KL, nothing generated, dense logits of a live teacher."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    tokenizer = Tokenizer(models.WordLevel({f"t{number}": number for number in range(CLASSES)}, unk_token="t0"))
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seconds.append(-now())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds[-1] += now()

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        # Its first token is a prompt, since this trainer wants one; the loss is of all others, as ours is.
        ids = torch.tensor([row["input_ids"] for row in rows])
        ones = torch.ones_like(ids)
        return {
            "input_ids": ids, "attention_mask": ones, "labels": ids.clone(),
            "prompts": ids[:, :1], "prompt_attention_mask": ones[:, :1],
        }  # fmt: skip

    trainer = GKDTrainer(
        model=llama(*arguments.student),
        teacher_model=llama(*arguments.teacher).to(torch.bfloat16),
        args=GKDConfig(
            output_dir=str(folder / "trl"), lmbda=0.0, beta=0.0, temperature=1.0, bf16=True, report_to="none",
            use_cpu=not torch.cuda.is_available(), per_device_train_batch_size=arguments.sequences, save_strategy="no",
            max_steps=arguments.steps * arguments.rounds + 2, logging_steps=10**6, disable_tqdm=True,
            gradient_checkpointing=False,
        ),
        data_collator=collate,  # pyright: ignore[reportArgumentType]
        # Of fewer documents than a step takes the trainer would make smaller steps.
        train_dataset=Dataset.from_dict({"input_ids": next(batches_of(documents, 4 * arguments.sequences)).tolist()}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t0", eos_token="t1"),
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    return statistics.median(seconds[2:])


def liger_step(documents: list[np.ndarray], arguments: argparse.Namespace) -> float:
    """Median seconds of a step with liger-kernel's chunked Jensen-Shannon loss (forward KL) and a live teacher."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    device = local_device()
    student = llama(*arguments.student).to(device).train()
    teacher = llama(*arguments.teacher).to(device, torch.bfloat16).eval()
    loss_of = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)

    def step(tokens: torch.Tensor) -> None:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        with torch.autocast(device.type, torch.bfloat16):
            hidden = student.get_decoder()(input_ids=inputs, use_cache=False).last_hidden_state
            with torch.no_grad():
                known = teacher.get_decoder()(input_ids=inputs, use_cache=False).last_hidden_state
            head = student.get_output_embeddings().weight
            loss = loss_of(
                hidden.flatten(0, 1).to(torch.bfloat16),
                head.to(torch.bfloat16),
                known.flatten(0, 1),
                teacher.get_output_embeddings().weight,
                targets.flatten(),
            )
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    batches = batches_of(documents, arguments.sequences)
    seconds = [timed(lambda: step(next(batches).to(device))) for _ in range(arguments.steps * arguments.rounds + 2)]
    return statistics.median(seconds[2:])


def batches_of(documents: list[np.ndarray], sequences: int) -> Iterator[torch.Tensor]:
    number = 0
    while True:
        places = np.arange(number, number + sequences) % len(documents)
        yield torch.from_numpy(np.stack([documents[place] for place in places]))
        number += sequences


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.student_step", description=__doc__)
    parser.add_argument("--sequences", type=int, default=8, help=f"of {SEQUENCE} tokens a step")
    parser.add_argument("--steps", type=int, default=4, help="of a block, after one to warm up")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each arm, in turns")
    parser.add_argument("--documents", type=int, default=None, help="different sequences; default: of four steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=list(SIZES), default="small", help="of the models; large is for GPUs")
    arguments = parser.parse_args()
    arguments.student, arguments.teacher = SIZES[arguments.size]
    torch.set_num_threads(arguments.threads)
    generator = np.random.default_rng(0)
    count = arguments.documents or arguments.sequences * 4
    documents = [generator.integers(2, CLASSES, SEQUENCE + 1).astype(np.int64) for _ in range(count)]
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as name:
        folder = Path(name)
        made = {codec: make_samples(folder, codec, documents) for codec in CODECS}
        entries = {codec: round(classes, 1) for codec, (_, classes) in made.items()}
        progress(f"classes a label: {entries}")
        plain = TextSamples(StoreRows(open_store(folder / "topk_12")), SEQUENCE, False, "refuse")
        seconds = cached_steps({"ce": plain} | {codec: samples for codec, (samples, _) in made.items()}, arguments)
        progress(f"seconds a step: {seconds}")
        seconds["live_trl"] = trl_step(documents, arguments, folder)
        progress(f"trl: {seconds['live_trl']:.3f} s")
        seconds["live_liger"] = liger_step(documents, arguments)
    cached = max(seconds["topk_12"], seconds["threshold_12"])
    headline = {
        "cached_vs_ce_step_k12": cached / seconds["ce"],
        "cached_vs_ce_step_k64": max(seconds["topk_64"], seconds["threshold_64"]) / seconds["ce"],
        "live_trl_vs_cached_step": seconds["live_trl"] / cached,
        "liger_vs_cached_step": seconds["live_liger"] / cached,
    }
    emit(
        "student_step",
        {key: round(value, 3) for key, value in headline.items()},
        ["python", "-m", "tests.benchmarks.student_step", *sys.argv[1:]],
        seconds={key: round(value, 4) for key, value in seconds.items()},
        classes_a_label=entries,
        tokens_a_step=arguments.sequences * SEQUENCE,
        parameters={"student": sum(p.numel() for p in llama(*arguments.student).parameters()), "classes": CLASSES},
    )


if __name__ == "__main__":
    main()
