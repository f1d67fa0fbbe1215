"""The kernels compile for H100 and H200, which needs no such GPU: the compiler and its assembler come with triton."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

KERNELS = ("_partial_sums", "_dense_tile", "_add_hidden", "_write_head")
"""Those that multiply matrices; the others need no tensor core."""
PASSES = ("_find", "_spread")
"""Over logits that are there."""
SHARED_BYTES = 227 * 1024
"""What one block of threads may have on compute capability 9.0."""


def compile_kernels() -> None:
    """Go through forward and backward with tensors that nothing is computed of; a JSON line for each kernel."""
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from kdcore.labels.soft_labels import TopKLabels
    from kdcore.losses.by_hand import summed
    from kdcore.losses.objective import Objective
    from kdcore.losses.sparse.call import Call
    from kdcore.losses.sparse.head import LogitRules
    from kdcore.losses.sparse.kernels.chunk import fused_chunk_loss
    from kdcore.losses.sparse.kernels.loss import KernelLoss
    from kdcore.losses.sparse.shards import WHOLE
    from kdcore.losses.sparse.support import Support, chunks

    class Device:
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device=None: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))

    driver.set_active(Device())
    run = JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **options):
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        lines = kernel.asm["ptx"].splitlines()
        facts = {
            "name": self.fn.__name__,
            "shared": kernel.metadata.shared,
            "tensor_core": sum("wgmma.mma_async" in line for line in lines),
            "prefetches": sum("cp.async.cg" in line for line in lines),
            "vectors": sum("ld.global" in line and ".v4." in line for line in lines),
            "atomics": sum(".atom." in line or line.strip().startswith(("atom.", "red.")) for line in lines),
        }
        print(json.dumps(facts), flush=True)

    JITFunction.run = compile_only
    tokens, width, classes, k = 256, 512, 1024, 8
    hidden = torch.zeros(tokens, width, dtype=torch.bfloat16, requires_grad=True)
    head = torch.zeros(classes, width, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.arange(k).expand(tokens, k).contiguous()
    labels = TopKLabels(ids, torch.zeros(tokens, k), torch.zeros(tokens), classes)

    def call(rules: LogitRules, gradient_filter: float) -> Call:
        return Call(labels, ids[:, 0], None, Objective(), rules, classes, 1024, True, gradient_filter, WHOLE, True)

    capped = LogitRules(1.0, 30.0)
    for gradient_filter in (0.0, 0.001):
        loss, _ = summed(KernelLoss(call(capped, gradient_filter)), hidden, head, bias)
        torch.autograd.grad(loss, [hidden, head, bias])
    ((part, support),) = chunks(labels, ids[:, 0], None, classes, tokens)
    assert isinstance(support, Support)
    for rules, offset, dtype in ((LogitRules(), None, torch.bfloat16), (capped, bias.detach(), torch.float32)):
        fused_chunk_loss(torch.zeros(tokens, classes), offset, support, call(rules, 0.0), part, None, dtype)


def test_every_kernel_fits_prefetches_and_uses_tensor_cores_and_no_atomics(tmp_path):
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    child = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=240)
    assert child.returncode == 0, child.stderr
    found = [json.loads(line) for line in child.stdout.splitlines()]
    assert {*KERNELS, *PASSES, "_logits_of", "_weighted_rows", "_rows_of_classes", "_write_entries"} == {
        facts["name"] for facts in found
    }
    for facts in found:
        assert facts["shared"] <= SHARED_BYTES
        assert facts["atomics"] == 0
        if facts["name"] in KERNELS:
            assert facts["tensor_core"] > 0, facts
            assert facts["prefetches"] > 0, facts
        if facts["name"] in PASSES:
            assert facts["vectors"] > 0, facts


if __name__ == "__main__":
    compile_kernels()
