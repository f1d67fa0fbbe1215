"""What a label weighs, for how much variance: every codec on real teachers, beside the literature's layouts.

`bytes_ratio_at_rs50_variance`: bytes of `threshold` at the variance of 50 random draws, over 3 bytes for each class
that those draws hit; the larger of the real teachers' ratios. `bytes_per_token_128k`: bytes of `threshold` a label on
128,256 classes, at the variance of 50 draws, where these hit 12 classes (36 bytes). Tables are learnt on other
documents than the ones measured. `--picture PNG` draws bytes against error and against the batch's gradient.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from kdcore.config.labels import CodecConfig, DenseConfig, SampledConfig, ThresholdConfig, TopKConfig
from kdcore.evaluation.fidelity import fidelity
from kdcore.labels.learn import learn_codec
from tests.benchmarks.harness import REPO, emit, progress
from tests.benchmarks.teachers import Answers, real_teacher, wide_teacher

SHIPPED = REPO / "models" / "stdlib-lm-4m"
DRAWS = 50
UNIQUE = 12.1
_BITS_RECOMMENDED, _BITS_BUDGET = (128, 16, 6), (50, 1, 3)  # DistillKit: k, exact values, polynomial terms


def curve(answers: Answers) -> list[dict[str, Any]]:
    """One point for each codec and size: its settings, bytes, variance, error and gradient."""
    configs: list[CodecConfig] = [DenseConfig(), DenseConfig(bits=8)]
    configs += [TopKConfig(k=k) for k in (4, 8, 12, 16, 32, 64, 128)]
    configs += [SampledConfig(draws=draws) for draws in (12, 25, DRAWS, 100, 200)]
    configs += [ThresholdConfig(draws=draws) for draws in (4, 6, 8, 12, 16, 24, 32, 48, 64, 96)]
    return [point(answers, config) for config in configs]


def point(answers: Answers, config: CodecConfig) -> dict[str, Any]:
    """A codec learnt on `answers.learn`, measured on `answers.measure`."""
    codec = learn_codec(config, answers.num_classes, answers.learn).codec
    found = fidelity(codec, answers.measure)
    names = ("entries", "mass_kept", "variance", "squared_error", "angle_degrees", "batch_angle_degrees", "bias")
    settings = {key: value for key, value in config.model_dump(exclude_none=True).items() if key != "seed"}
    result = {**settings, "bytes": found["bytes_per_label"]["total"], **{name: found[name] for name in names}}
    progress(f"{answers.name}: {settings} {result['bytes']:.2f} B, variance {result['variance']:.5f}")
    return result


def at_rs50_variance(answers: Answers) -> dict[str, float]:
    """`threshold` with the fewest draws whose exact variance is at most that of 50 random draws, beside those."""
    probabilities = answers.measure.outputs.double().softmax(1)
    wanted = float((probabilities * (1 - probabilities)).sum(1).mean()) / DRAWS
    classes = float((1 - (1 - probabilities) ** DRAWS).sum(1).mean())
    draws = next(count for count in range(2, DRAWS + 1) if _variance(probabilities, count) <= wanted)
    codec = learn_codec(ThresholdConfig(draws=draws), answers.num_classes, answers.learn).codec
    found = fidelity(codec, answers.measure)
    ours = found["bytes_per_label"]["total"]
    return {
        "entropy_nats": float(-(probabilities * probabilities.clamp(1e-300).log()).sum(1).mean()),
        "rs50_variance": wanted,
        "rs50_classes": classes,
        "rs50_bytes_24_bit": 3 * classes,
        "threshold_draws": draws,
        "threshold_variance": _variance(probabilities, draws),
        "threshold_entries": found["entries"],
        "threshold_bytes": ours,
        "ratio": ours / (3 * classes),
    }


def _variance(probabilities: torch.Tensor, draws: int) -> float:
    part = (probabilities * draws) % 1
    return float((part * (1 - part)).sum(1).mean()) / draws**2


def literature(num_classes: int) -> dict[str, float]:
    """Bytes a label of other layouts, by arithmetic: ids of ceil(log2 V) bits, values of 2 bytes."""
    bits = (num_classes - 1).bit_length()

    def distillkit(k: int, exact: int, terms: int) -> float:
        return exact * 2 + terms * 2 + -(-k * bits // 8)

    return {
        "distillkit_recommended": distillkit(*_BITS_RECOMMENDED),
        "distillkit_budget": distillkit(*_BITS_BUDGET),
        "top50_fp16_and_32_bit_ids": 50 * 6.0,
        "dense_fp16": 2.0 * num_classes,
    }


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.label_bytes", description=__doc__)
    parser.add_argument("--teacher", action="append", default=[], help="another causal LM on Python source")
    parser.add_argument("--labels", type=int, default=4096, help="labels that are measured")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    details: dict[str, Any] = {}
    teachers: list[Answers] = []
    for path in [str(SHIPPED), *arguments.teacher]:
        progress(f"asking {Path(path).name}")
        teachers.append(real_teacher(path, 16_384 if len(teachers) == 0 else 8192, arguments.labels))
        details[teachers[-1].name] = measured(teachers[-1])
    ratios = [found["at_rs50_variance"]["ratio"] for found in details.values()]
    wide = wide_teacher(teachers[-1], UNIQUE, 4096, 512)
    details[wide.name] = {"at_rs50_variance": at_rs50_variance(wide), "literature": literature(wide.num_classes)}
    if arguments.picture is not None:
        from tests.benchmarks.label_bytes_picture import draw

        draw(details, arguments.picture)
    headline = {
        "bytes_ratio_at_rs50_variance": round(max(ratios), 4),
        "bytes_per_token_128k": round(details[wide.name]["at_rs50_variance"]["threshold_bytes"], 3),
    }
    named = [f"--teacher {path}" for path in arguments.teacher]
    emit("label_bytes", headline, ["python", "-m", "tests.benchmarks.label_bytes", *named], teachers=details)


def measured(answers: Answers) -> dict[str, Any]:
    """Everything about one teacher."""
    return {
        "at_rs50_variance": at_rs50_variance(answers),
        "curve": curve(answers),
        "literature": literature(answers.num_classes),
    }


if __name__ == "__main__":
    main()
