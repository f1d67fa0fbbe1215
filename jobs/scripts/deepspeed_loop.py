"""Fine-tune a causal LM on a label store with DeepSpeed ZeRO 2, on the ranks of a launcher.

deepspeed jobs/scripts/deepspeed_loop.py LABELS --student STUDENT --output OUT  # or torchrun --nproc-per-node 8
"""

import argparse
import itertools
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdcore import LabelledText, with_distillation_loss


def main() -> None:
    """Trains `--student` and writes it to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="a finished label store, made by a teacher with the student's tokenizer")
    parser.add_argument("--student", required=True, help="a causal LM: a directory or a name on the hub")
    parser.add_argument("--output", required=True, help="where the trained student goes")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, default=4, help="sequences per rank and forward pass")
    parser.add_argument("--accumulate", type=int, default=2, help="per rank and step; an epoch's last few are left out")
    parser.add_argument("--local_rank", type=int, help="what the deepspeed launcher adds")
    args = parser.parse_args()
    deepspeed.init_distributed()
    tokenizer = AutoTokenizer.from_pretrained(args.student)
    data = LabelledText(args.store, tokenizer, long_documents="cut")
    sampler = DistributedSampler(data)
    loader = DataLoader(data, args.micro_batch, sampler=sampler, collate_fn=data.collate)
    model: Any = with_distillation_loss(AutoModelForCausalLM.from_pretrained(args.student, dtype=torch.float32)).train()
    settings = {"train_micro_batch_size_per_gpu": args.micro_batch, "gradient_accumulation_steps": args.accumulate}
    settings |= {"zero_optimization": {"stage": 2}, "bf16": {"enabled": torch.cuda.is_available()}}
    settings |= {"optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}}, "gradient_clipping": 1.0}
    engine: Any = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=settings)[0]
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        batches = iter(loader)
        while len(part := list(itertools.islice(batches, args.accumulate))) == args.accumulate:
            tokens = torch.tensor(sum(batch.num_tokens for batch in part), device=engine.device)
            dist.all_reduce(tokens)
            for batch in part:
                loss = engine(batch=batch, num_items_in_batch=tokens)["loss"]
                # DeepSpeed takes the mean over ranks and micro-batches; ours are shares of the step's, to be added.
                engine.backward(loss * dist.get_world_size() * args.accumulate)
                engine.step()
    if engine.global_steps == 0:
        raise SystemExit(f"no step was taken: {len(loader)} micro-batches an epoch are fewer than --accumulate")
    if dist.get_rank() == 0:
        model.save_pretrained(args.output)
        tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
