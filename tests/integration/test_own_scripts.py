"""The scripts of jobs/scripts and the README's program run as they are, and train as the plain loop would."""

import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, DistributedSampler, Subset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from kdcore import LabelledText, distillation_loss, load_student, with_distillation_loss
from tests.support import own_scripts
from tests.support.own_scripts import tiny_student, write_store, write_student
from tests.support.training import TOKENIZER, assert_near

pytestmark = pytest.mark.long

SCRIPTS = Path(__file__).parents[2] / "jobs" / "scripts"
MICRO, ACCUMULATE = 2, 2


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scripts")
    write_store(root)
    write_student(root / "student")
    return root


@pytest.fixture(scope="module")
def data(root) -> LabelledText:
    return LabelledText(root / "labels", AutoTokenizer.from_pretrained(TOKENIZER), 1024, "cut")


def run(root: Path, command: list[str], **environment: str) -> str:
    repo = str(Path(__file__).parents[2])
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": repo, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=os.environ | settings | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def run_here(monkeypatch: pytest.MonkeyPatch, script: str, arguments: list[str]) -> None:
    """A script in this process, which has imported what takes it seconds."""
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


def torchrun(*script: str) -> list[str]:
    return ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port(), *script]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def arguments(root: Path, output: str, *more: str) -> list[str]:
    return [str(root / "labels"), "--student", str(root / "student"), "--output", str(root / output), *more]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_a_script_is_a_screen(script):
    assert len(script.read_text().splitlines()) < 60


def test_the_torch_loop_learns_and_its_student_loads(root, monkeypatch, capsys):
    steps = ["--steps", "8", "--batch-size", "4", "--learning-rate", "1e-2"]
    run_here(monkeypatch, "torch_loop.py", arguments(root, "looped", *steps))
    said = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"^step \d+: loss ([0-9.]+), kl", said, re.MULTILINE)]
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0]
    assert load_student(root / "looped").config.vocab_size > 0
    AutoTokenizer.from_pretrained(root / "looped")


def test_the_program_of_the_readme_runs(root):
    text = (SCRIPTS.parents[1] / "README.md").read_text()
    program = re.search(r"## In your own script\n\n```python\n(.*?)```", text, re.DOTALL)
    assert program is not None
    code = program[1].replace("runs/quickstart-text/arms/student-seed0/student", str(root / "student"))
    code = code.replace("runs/quickstart-text/labels", str(root / "labels"))
    assert code.count(str(root)) == 2
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["metrics"]["kl"] > 0
    assert not torch.equal(names["model"].lm_head.weight, tiny_student().lm_head.weight)


def one_process(data: LabelledText, root: Path) -> dict[str, torch.Tensor]:
    """What the two ranks of deepspeed_loop.py train in an epoch, by one process that has each step's batch whole."""
    model = AutoModelForCausalLM.from_pretrained(root / "student", dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    samplers = [list(DistributedSampler(data, num_replicas=2, rank=rank)) for rank in range(2)]
    size = MICRO * ACCUMULATE
    for start in range(0, len(samplers[0]) - size + 1, size):
        batch = data.collate([data[number] for numbers in samplers for number in numbers[start : start + size]])
        distillation_loss(model, batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(root / "whole")
    return weights(root / "whole")


@pytest.mark.parametrize("launcher", ["as torchrun", "deepspeed"])
def test_the_deepspeed_script_trains_as_one_process_would(root, data, launcher):
    pytest.importorskip("deepspeed")
    script = [own_scripts.__file__, *arguments(root, launcher, "--micro-batch", str(MICRO))]
    if launcher == "deepspeed":
        script = ["-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", free_port(), *script]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    run(root, script, SCRIPT=str(SCRIPTS / "deepspeed_loop.py"), **meeting)
    assert_near(weights(root / launcher), one_process(data, root), weights(root / "student"), 0.02)


def test_two_ranks_of_the_trainer_train_as_one_with_as_many_micro_batches(root, data, monkeypatch):
    assert len(data) == 12  # a step is the whole store, in whatever order
    common = ["--steps", "3", "--micro-batch", "3"]
    script = str(SCRIPTS / "hf_trainer.py")
    run_here(monkeypatch, "hf_trainer.py", arguments(root, "trainer1", *common, "--accumulate", "4"))
    run(root, torchrun(script, *arguments(root, "trainer2", *common, "--accumulate", "2")))
    assert_near(weights(root / "trainer2"), weights(root / "trainer1"), weights(root / "student"), 0.02)


@pytest.mark.parametrize("micro", [6, 2, 1])
def test_the_trainer_divides_by_the_labelled_tokens_of_the_whole_step(root, data, micro):
    plain = tiny_student()
    sequences = [data[number] for number in range(6)]
    distillation_loss(plain, data.collate(sequences), hard_weight=0.5)[0].backward()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter -= 0.1 * parameter.grad
    model = with_distillation_loss(tiny_student(), hard_weight=0.5)
    settings = TrainingArguments(
        output_dir=str(root / "unused"),
        max_steps=1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=6 // micro,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model, args=settings, train_dataset=Subset(data, range(6)), data_collator=data.collate_for_trainer
    )
    trainer.train()
    found, wanted = dict(model.named_parameters()), dict(plain.named_parameters())
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6), name


def test_the_trainer_evaluates_on_labels(root, data):
    model = with_distillation_loss(tiny_student())
    settings = TrainingArguments(output_dir=str(root / "unused"), per_device_eval_batch_size=6, report_to="none")
    part = Subset(data, range(6))
    trainer = Trainer(model=model, args=settings, eval_dataset=part, data_collator=data.collate_for_trainer)
    found = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        wanted = distillation_loss(model, data.collate([part[number] for number in range(6)]))[0]
    assert found == pytest.approx(wanted.item(), rel=1e-4)


def test_what_has_the_loss_in_its_forward_pass_is_compiled(data):
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    batch = data.collate([data[0], data[1]])
    compiled: Any = torch.compile(with_distillation_loss(tiny_student()), backend=backend)
    torch.testing.assert_close(compiled(batch=batch)["loss"], distillation_loss(tiny_student(), batch)[0])
    assert graphs


def test_worker_processes_give_the_same_batches(data):
    plain = DataLoader(data, 5, collate_fn=data.collate)
    with_workers = DataLoader(data, 5, collate_fn=data.collate, num_workers=2, multiprocessing_context="fork")
    for ours, theirs in zip(with_workers, plain, strict=True):
        assert torch.equal(ours.input_ids, theirs.input_ids)
        assert torch.equal(ours.labels.ids, theirs.labels.ids)
        assert torch.equal(ours.labels.weights, theirs.labels.weights)
