"""Fine-tune a causal LM on a label store with the Trainer of transformers, on one rank or on those of torchrun.

python jobs/scripts/hf_trainer.py runs/quickstart-text/labels --student STUDENT --output OUT
"""

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from kdcore import LabelledText, with_distillation_loss


def main() -> None:
    """Trains `--student` and writes it to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="a finished label store, made by a teacher with the student's tokenizer")
    parser.add_argument("--student", required=True, help="a causal LM: a directory or a name on the hub")
    parser.add_argument("--output", required=True, help="where the trained student goes, and Trainer's checkpoints")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--micro-batch", type=int, default=4, help="sequences per rank and forward pass")
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches per rank and step")
    parser.add_argument("--sequence-length", type=int, default=1024)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.student)
    data = LabelledText(args.store, tokenizer, args.sequence_length, long_documents="cut")
    model = AutoModelForCausalLM.from_pretrained(args.student, dtype=torch.float32)
    trainer = Trainer(
        model=with_distillation_loss(model, hard_weight=0.1),
        args=TrainingArguments(
            output_dir=args.output,
            max_steps=args.steps,
            per_device_train_batch_size=args.micro_batch,
            gradient_accumulation_steps=args.accumulate,
            learning_rate=1e-4,
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.accelerator.is_available(),  # else ranks on CPUs train each for itself
            logging_steps=10,
            report_to="none",
        ),
        train_dataset=data,
        data_collator=data.collate_for_trainer,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
