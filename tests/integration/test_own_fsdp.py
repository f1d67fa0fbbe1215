"""A loop of one's own under torch's fully_shard: two ranks have the gradients of one process with both batches."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from transformers import LlamaConfig, LlamaForCausalLM

from kdcore import with_distillation_loss
from kdcore.labels.soft_labels import DenseLabels
from kdcore.training.batches import TextBatch

CLASSES, TOKENS = 64, 9
CASES = [(False, torch.float32, 1e-4), (True, torch.float32, 1e-4), (False, torch.bfloat16, 0.1)]
"""Whether embeddings and head are one, the type of parameters in a pass, and the share that gradients may differ by."""


def model(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=CLASSES, tie_word_embeddings=tied, **shape))
    return with_distillation_loss(made, hard_weight=0.1)


def batch(rank: int) -> TextBatch:
    draw = torch.Generator().manual_seed(rank)
    tokens = torch.randint(0, CLASSES, (2, TOKENS), generator=draw)
    positions = torch.arange(2 * TOKENS).view(2, TOKENS)[:, :-1].flatten()
    labels = DenseLabels(torch.randn(len(positions), CLASSES, generator=draw).log_softmax(-1))
    return TextBatch(tokens, positions, tokens[:, 1:].flatten(), labels, None, None, TOKENS)


def work(rank: int, folder: Path) -> None:
    """What each rank does; it asserts itself."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for tied, dtype, tolerance in CASES:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        whole, sharded = model(tied), model(tied)
        for part in (*sharded.model.layers, sharded):
            fully_shard(part, mesh=mesh, mp_policy=policy)
        sharded(batch=batch(rank))["loss"].backward()
        for other in range(2):
            (whole(batch=batch(other))["loss"] / 2).backward()
        for ours, expected in zip(sharded.parameters(), whole.parameters(), strict=True):
            assert ours.grad is not None
            assert expected.grad is not None
            largest = float(expected.grad.abs().max())
            assert largest > 0
            found = ours.grad.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
            torch.testing.assert_close(found, expected.grad, atol=tolerance * largest, rtol=0)
    dist.destroy_process_group()


def test_two_ranks_under_fully_shard_have_the_gradients_of_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (tmp_path,), nprocs=2)
