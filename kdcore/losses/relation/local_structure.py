"""LSP: how a node of a graph is related to its neighbours. A function for networks of graphs, which no recipe trains.

Yang et al., "Distilling Knowledge from Graph Convolutional Networks" (arXiv 2003.10477), with the Gaussian kernel. The
authors' code takes the divergence the other way round, and a kernel of absolute differences.
"""

import torch
from torch import Tensor

from kdcore.losses.numerics import wide

__all__ = ["local_structure", "neighbour_log_probabilities"]


def local_structure(student: Tensor, teacher: Tensor, edges: Tensor, width: float = 100.0) -> Tensor:
    """mean over nodes with neighbours of KL(LS_s, LS_t), of node features [N, D]; widths may differ.

    `edges` int64 [2, E] are pairs (i, j), j a neighbour of i. LS_ij is the softmax over j of
    exp(-||z_i - z_j||^2 / (2 width)).
    """
    ours, theirs = (neighbour_log_probabilities(one, edges, width) for one in (student, teacher))
    nodes = edges[0].unique().numel()
    return (ours.exp() * (ours - theirs)).sum() / max(1, nodes)


def neighbour_log_probabilities(nodes: Tensor, edges: Tensor, width: float) -> Tensor:
    """log LS of each edge, [E]."""
    nodes = wide(nodes)
    squares = (nodes[edges[0]] - nodes[edges[1]]).square().sum(1)
    kernel = (-squares / (2 * width)).exp()
    # Kernels lie between 0 and 1: their exponentials need no shift.
    sums = torch.zeros_like(nodes[:, 0]).index_add(0, edges[0], kernel.exp())
    return kernel - sums[edges[0]].log()
