"""Fine-tune a causal LM on a label store in a bare PyTorch loop, on a GPU where there is one.

python jobs/scripts/torch_loop.py runs/quickstart-text/labels --student STUDENT --output OUT
"""

import argparse
import itertools
import math

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdcore import LabelledText, distillation_loss


def main() -> None:
    """Trains `--student` and writes it to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="a finished label store, made by a teacher with the student's tokenizer")
    parser.add_argument("--student", required=True, help="a causal LM: a directory or a name on the hub")
    parser.add_argument("--output", required=True, help="where the trained student goes")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16, help="sequences per step")
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--workers", type=int, default=1, help="processes that read and decode labels")
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.student)
    data = LabelledText(args.store, tokenizer, args.sequence_length, long_documents="cut")
    loader = DataLoader(data, args.batch_size, shuffle=True, num_workers=args.workers, collate_fn=data.collate)
    epochs = itertools.islice(itertools.count(), math.ceil(args.steps / len(loader)))
    batches = itertools.islice((batch for _ in epochs for batch in loader), args.steps)

    # Weights and optimizer in float32; on a GPU, the products in bfloat16.
    model = AutoModelForCausalLM.from_pretrained(args.student, dtype=torch.float32, device_map=device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    for step, batch in enumerate(batches):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, metrics = distillation_loss(model, batch, hard_weight=0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(f"step {step + 1}: loss {loss.item():.4f}, kl {metrics['kl'].item():.4f}", flush=True)

    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
