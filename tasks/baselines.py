"""Classifiers without an inner loop, on the same tasks: what the learned head must be compared with.

Each takes support features [tasks, S, D], labels [tasks, S] and query features [tasks, Q, D] and returns scores
[tasks, Q, n_way]; the largest wins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.tasks.episodes import EpisodeBatch

__all__ = ["baseline_scores", "nearest_class_mean", "random_features", "ridge"]


def nearest_class_mean(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Minus the squared Euclidean distance to each class's mean support feature (Snell et al. 2017, prototypes)."""
    members = F.one_hot(labels, n_way).to(support.dtype)
    means = members.transpose(1, 2) @ support / members.sum(1).unsqueeze(-1)
    return -torch.cdist(query, means).square()


def ridge(support: Tensor, labels: Tensor, query: Tensor, n_way: int, penalty: float = 1.0) -> Tensor:
    """Ridge regression of the one-hot labels (Bertinetto et al. 2019), features centred on the support set.

    ``penalty`` is relative to the mean squared norm of the centred features.
    """
    centre = support.mean(1, keepdim=True)
    x, targets = support - centre, F.one_hot(labels, n_way).to(support.dtype) - 1.0 / n_way
    gram = x @ x.transpose(1, 2)
    scale = penalty * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    dual = torch.linalg.solve(
        gram + scale[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype, device=x.device), targets
    )
    return (query - centre) @ x.transpose(1, 2) @ dual


def random_features(n_way: int, channels: int, seed: int) -> FewshotCNN:
    """The same network with random kernels: what the architecture does without meta-training."""
    generator = torch.Generator().manual_seed(seed)
    return FewshotCNN(CNNConfig(n_way=n_way, channels=channels), generator)


def baseline_scores(batch: EpisodeBatch, support: Tensor, query: Tensor, n_way: int) -> dict[str, Tensor]:
    """Scores of every baseline that needs no training of its own.

    Args: support, query: the model's features [tasks, S, D] and [tasks, Q, D] of the batch's images.
    Returns: scores [tasks, Q, n_way] by name; ``pixels_*`` see the images alone.
    """
    labels = batch.support_labels
    pixels_s, pixels_q = batch.support.flatten(2), batch.query.flatten(2)
    return {
        "nearest_class_mean": nearest_class_mean(support, labels, query, n_way),
        "ridge": ridge(support, labels, query, n_way),
        "pixels_nearest_class_mean": nearest_class_mean(pixels_s, labels, pixels_q, n_way),
        "pixels_ridge": ridge(pixels_s, labels, pixels_q, n_way),
    }
