"""How much does one outer step of the few-shot CNN cost, and against whom?

One step: 32 tasks, 5-way 5-shot with 5 queries a class (1,600 images of 28 x 28), 4 second-order inner updates of the
read-out, gradients of the four kernels and the read-out; float32. Contenders, all with the same mathematics in their
group and checked for equal gradients before anything is timed:

  statistics of the support set (``norm="support"``)
    ours        models.maml.meta_gradient
    plain       the loop an expert writes in an hour: task by task F.conv2d, F.relu, the support's mean and variance, an
                autograd inner loop with create_graph, backward. Every ratio is against this one
    learn2learn its MAML(head): clone_module and maml_update (Arnold et al. 2020), on the plain loop's features;
                restated here, for learn2learn 0.2.0 does not build on Python 3.12
    higher      higher.innerloop_ctx on the head (Grefenstette et al. 2019), on the plain loop's features
    torch.func  functional_call, grad and vmap over tasks for the head; features of all tasks in one piece
  each forward its own statistics (``norm="transductive"``), where torch's own fused F.batch_norm can serve
    ours, transductive
    plain, F.batch_norm
  no norm, no head: a floor
    convolutions  the four convolutions forward and backward alone, task by task, in our layout

Expected, one thread, CPU time: ours 0.55 to 0.65 of plain, and 0.9 to 1.0 of plain, F.batch_norm in its group;
learn2learn and higher 1.0 to 1.1, torch.func 1.6 to 1.8; the floor 0.4. The goal is 0.5 of plain and under 1.5 GB. The
published implementation (TensorFlow 2.5) takes 20 s and 6.9 GB a step (29 CPU seconds, 2 threads).

    python benchmarks/fewshot_meta_step.py [--rounds 10] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.maml import meta_gradient
from ovonic.tasks.episodes import EpisodeBatch, EpisodeSpec, sample_episodes
from ovonic.tasks.glyphs import glyph_split

TASKS, WAY, SHOTS, QUERIES, UPDATES, EPS = 32, 5, 5, 5, 4, 1e-3
RATE = torch.tensor(0.1).item()  # the float32 number that the network holds
TOLERANCE = 1e-9  # gradients of one group in float64, relative to their largest entry
REFERENCE = {"support": "plain", "transductive": "plain, F.batch_norm"}


# ------------------------------------------------------------------------------------------ the contenders


def ours(net: FewshotCNN, batch: EpisodeBatch) -> None:
    meta_gradient(net, batch.support, batch.support_labels, batch.query, batch.query_labels)


def ours_transductive(net: FewshotCNN, batch: EpisodeBatch) -> None:
    config = net.config
    net.config = replace(config, norm="transductive")
    ours(net, batch)
    net.config = config


def features_by_hand(kernels: Sequence[Tensor], support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """One task's features, [S, channels] and [Q, channels], normalised by its support set."""
    x, n = torch.cat([support, query]), len(support)
    for kernel in kernels:
        x = F.relu(F.conv2d(x, kernel, stride=2, padding=1))
        mean = x[:n].mean((0, 2, 3), keepdim=True)
        var = x[:n].var((0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(var + EPS)
    x = x.amax((2, 3))
    return x[:n], x[n:]


def features_batch_norm(kernels: Sequence[Tensor], support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """The same, each side by its own statistics."""
    out = []
    for x in (support, query):
        for kernel in kernels:
            x = F.batch_norm(F.relu(F.conv2d(x, kernel, stride=2, padding=1)), None, None, training=True, eps=EPS)
        out.append(x.amax((2, 3)))
    return out[0], out[1]


Features = Callable[[Sequence[Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]


def plain(net: FewshotCNN, batch: EpisodeBatch, features: Features = features_by_hand) -> None:
    for t in range(TASKS):
        support, query = features(net.conv_weights(), batch.support[t], batch.query[t])
        w: Tensor = net.readout.weight
        for _ in range(UPDATES):
            loss = F.cross_entropy(support @ w.T, batch.support_labels[t])
            (slope,) = torch.autograd.grad(loss, w, create_graph=True)
            w = w - RATE * slope
        (F.cross_entropy(query @ w.T, batch.query_labels[t]) / TASKS).backward()


def plain_batch_norm(net: FewshotCNN, batch: EpisodeBatch) -> None:
    plain(net, batch, features_batch_norm)


def learn2learn(net: FewshotCNN, batch: EpisodeBatch) -> None:
    def clone_module(module: nn.Module) -> nn.Module:
        clone = module.__new__(type(module))
        clone.__dict__ = module.__dict__.copy()
        clone._parameters = {k: p if p is None else p.clone() for k, p in module._parameters.items()}  # type: ignore[misc]
        return clone

    def adapt(learner: nn.Module, loss: Tensor) -> None:
        parameters = [p for p in learner._parameters.values() if p is not None]
        slopes = torch.autograd.grad(loss, parameters, retain_graph=True, create_graph=True, allow_unused=False)
        names = [k for k, p in learner._parameters.items() if p is not None]
        for name, p, slope in zip(names, parameters, slopes, strict=True):
            learner._parameters[name] = p + (-RATE * slope)  # type: ignore[assignment]

    for t in range(TASKS):
        support, query = features_by_hand(net.conv_weights(), batch.support[t], batch.query[t])
        learner = clone_module(net.readout)
        for _ in range(UPDATES):
            adapt(learner, F.cross_entropy(learner(support), batch.support_labels[t]))
        (F.cross_entropy(learner(query), batch.query_labels[t]) / TASKS).backward()


def with_higher(net: FewshotCNN, batch: EpisodeBatch) -> None:
    import higher

    for t in range(TASKS):
        support, query = features_by_hand(net.conv_weights(), batch.support[t], batch.query[t])
        optimizer = torch.optim.SGD(net.readout.parameters(), lr=RATE)
        with higher.innerloop_ctx(net.readout, optimizer, copy_initial_weights=False) as (head, steps):
            for _ in range(UPDATES):
                steps.step(F.cross_entropy(head(support), batch.support_labels[t]))
            (F.cross_entropy(head(query), batch.query_labels[t]) / TASKS).backward()


def torch_func(net: FewshotCNN, batch: EpisodeBatch) -> None:
    n = WAY * SHOTS
    x = torch.cat([batch.support, batch.query], dim=1)
    for kernel in net.conv_weights():
        x = F.relu(F.conv2d(x.flatten(0, 1), kernel, stride=2, padding=1)).unflatten(0, x.shape[:2])
        mean = x[:, :n].mean((1, 3, 4), keepdim=True)
        var = x[:, :n].var((1, 3, 4), correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(var + EPS)
    x = x.amax((3, 4))

    def loss_of(head: dict[str, Any], features: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(net.readout, head, (features,)), labels)

    def one_task(support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> Tensor:
        head: dict[str, Any] = dict(net.readout.named_parameters())
        for _ in range(UPDATES):
            slopes = torch.func.grad(loss_of)(head, support, labels)
            head = {k: p - RATE * slopes[k] for k, p in head.items()}
        return loss_of(head, query, query_labels)

    per_task = torch.func.vmap(one_task)(x[:, :n], batch.support_labels, x[:, n:], batch.query_labels)
    per_task.mean().backward()


def convolutions(net: FewshotCNN, batch: EpisodeBatch) -> None:
    """What any method must do: our layout and our first convolution (one matrix product), nothing between them."""
    first, *deeper = [
        w.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for w in net.conv_weights()
    ]
    for t in range(TASKS):
        images = torch.cat([batch.support[t], batch.query[t]])
        x = F.unfold(images, 3, padding=1, stride=2).transpose(1, 2) @ first.flatten(1).T
        x = x.unflatten(1, (14, 14)).permute(0, 3, 1, 2)
        for kernel in deeper:
            x = F.conv2d(x, kernel, stride=2, padding=1)
        x.sum().backward()


CONTENDERS: dict[str, tuple[str, Callable[[FewshotCNN, EpisodeBatch], None]]] = {
    "ours": ("support", ours),
    "plain": ("support", plain),
    "learn2learn": ("support", learn2learn),
    "higher": ("support", with_higher),
    "torch.func": ("support", torch_func),
    "ours, transductive": ("transductive", ours_transductive),
    "plain, F.batch_norm": ("transductive", plain_batch_norm),
    "convolutions": ("floor", convolutions),
}


# --------------------------------------------------------------------------------------------- the measurement


def setting(seed: int, tasks: int = TASKS) -> tuple[FewshotCNN, EpisodeBatch]:
    """A network that has something to learn, and 32 tasks of glyphs."""
    generator = torch.Generator().manual_seed(seed)
    net = FewshotCNN(CNNConfig(), generator)
    with torch.no_grad():
        net.readout.weight.normal_(0, 0.1, generator=generator)
    return net, sample_episodes(glyph_split("test", count=2), EpisodeSpec(WAY, SHOTS, QUERIES), seed, range(tasks))


def checks(names: list[str], net: FewshotCNN, batch: EpisodeBatch) -> tuple[dict[str, float], dict[str, float]]:
    """How far each contender's gradients are from the plain loop of its group, relative to the largest entry.

    Returns: both in float64, which shows whether the mathematics is the same; and in float32 against the plain loop in
    float64, which shows what each loses to rounding.
    """
    net64, batch64 = (
        copy.deepcopy(net).double(),
        replace(batch, support=batch.support.double(), query=batch.query.double()),
    )
    in64: dict[str, float] = {}
    in32: dict[str, float] = {}

    def found(name: str, net: FewshotCNN, batch: EpisodeBatch) -> list[Tensor]:
        return harness.gradients(functools.partial(CONTENDERS[name][1], net, batch), net)

    reference = {group: found(name, net64, batch64) for group, name in REFERENCE.items()}
    for name in names:
        group = CONTENDERS[name][0]
        if group in reference:
            for out, n, b in ((in64, net64, batch64), (in32, net, batch)):
                out[name] = harness.differences(found(name, n, b), reference[group])
    return in64, in32


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time and memory of one outer step of the few-shot CNN.")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds after the warm-up (default: 10)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--peak-of", choices=[*CONTENDERS, "nothing"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = [name for name in CONTENDERS if name != "higher" or find_spec("higher")]
    if not options.peak_of:
        like = ("--seed", str(options.seed), "--threads", str(options.threads))
        peaks = {name: harness.peak_mib(__file__, "--peak-of", name, *like) for name in ["nothing", *names]}
    net, batch = setting(options.seed)
    if options.peak_of:
        for _ in range(0 if options.peak_of == "nothing" else 3):
            harness.gradients(functools.partial(CONTENDERS[options.peak_of][1], net, batch), net)
        print(harness.own_peak_mib())
        return 0
    in64, in32 = checks(names, net, batch)
    print("gradients, largest relative difference from the plain loop of the group in float64:")
    for name in in64:
        print(f"  {name:20s} float64 {in64[name]:.1e}   float32 {in32[name]:.1e}")
    if not max(in64.values()) <= TOLERANCE:
        print(f"not the same mathematics: a difference above {TOLERANCE:g} in float64", file=sys.stderr)
        return 1
    before = harness.machine()
    steps = {name: functools.partial(CONTENDERS[name][1], net, batch) for name in names}
    times = harness.race(steps, options.rounds, net.zero_grad)
    result: dict[str, Any] = {
        "question": "CPU time and memory of one outer step of the few-shot CNN, 32 tasks, 5-way 5-shot 5 queries",
        "machine": before,
        "versions": harness.versions("ovonic", "torch", "numpy", "higher"),
        "seed": options.seed,
        "threads": options.threads,
        "rounds": options.rounds,
        "peak_mib_before_any_step": peaks["nothing"],
        "contenders": {},
    }
    print(
        f"\n{options.rounds} rounds, {options.threads} thread(s), {before['cpu']}, load {before['load_average'][0]:.1f}"
    )
    print(harness.HEADER)
    for name in names:
        measured = result["contenders"][name] = {
            "statistics": CONTENDERS[name][0],
            **harness.timings(times, name),
            "cpu_ratio_in_group": harness.ratio(times, name, REFERENCE.get(CONTENDERS[name][0], "plain")),
            "peak_mib": peaks[name],
            "gradient_difference_float64": in64.get(name),
            "gradient_error_float32": in32.get(name),
        }
        print(harness.row(name, measured))
    ratio = result["contenders"]["ours, transductive"]["cpu_ratio_in_group"]
    print(f"ours, transductive, of plain, F.batch_norm: {ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})")
    print(f"before any step a process holds {peaks['nothing']:.0f} MiB")
    if options.json:
        harness.write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
