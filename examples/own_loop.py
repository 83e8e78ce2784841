"""Compression in a training script of one's own: 8 bits, 40 % zeros and half of the filters, on scikit-learn's digits.

`python examples/own_loop.py` trains the compressed net for 20 epochs in a plain PyTorch loop, deploys it with OpenVINO
and prints both accuracies, about half a minute; `--smoke` takes 2 epochs.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from digits_task import digits
from torch.nn.functional import cross_entropy

from autocompress import LayerRecipe, Recipe, adapt_batch_norm, own_loop
from autocompress.compress import calibrate, compress
from autocompress.deploy import load_openvino, save_openvino, size_bytes, to_openvino
from autocompress.graph import inspect_model
from autocompress.latency import LatencySettings, paired_latency
from autocompress.measure import default_weight_bits, predict_deployed, predict_torch


def main() -> None:
    """Compress, train, deploy, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="2 epochs")
    n_epochs = 2 if parser.parse_args().smoke else 20

    task = digits()  # the trained model and its data loaders
    graph = inspect_model(task.model, task.example_input)
    layer = LayerRecipe(weight_bits=default_weight_bits(), activation_bits=8, sparsity=0.4)
    recipe = Recipe(
        layers={known.name: layer for known in graph.compressible},
        pruning={group.name: 0.5 for group in graph.prunable},
    )
    compressed = compress(task.model, graph, recipe, task.example_input)
    adapt_batch_norm(compressed.module, task.train)
    calibrate(compressed.module, task.train)

    n_steps = n_epochs * len(task.train)
    with own_loop(compressed, n_steps, teacher=task.model) as budget:
        optimizer = torch.optim.AdamW(budget.parameter_groups(learning_rate=3e-3))
        rates = [group["lr"] for group in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=n_steps)
        for _ in range(n_epochs):
            for inputs, targets in task.train:
                loss = cross_entropy(compressed.module(inputs), targets)
                optimizer.zero_grad()
                (loss + budget.compression_loss(targets)).backward()
                optimizer.step()
                schedule.step()
                budget.scheduler.step(loss)
    adapt_batch_norm(compressed.module, task.train)

    with TemporaryDirectory() as folder:
        with compressed.export_form() as module:
            save_openvino(to_openvino(module, task.example_input), Path(folder, "small"))
        save_openvino(to_openvino(task.model, task.example_input), Path(folder, "fp32"))
        paths = [Path(folder, name, "model.xml") for name in ("fp32", "small")]
        fp32, small = (load_openvino(path) for path in paths)
        sizes = [size_bytes(path) for path in paths]
        speedup = paired_latency(fp32, small, [task.example_input.numpy()], LatencySettings(max_seconds=1.0)).speedup
        deployed = predict_deployed(small, task.test, torch.zeros(1, 10), "test", n_threads=1)
    before = predict_torch(task.model, task.test, "test")
    print(f"torch FP32  accuracy {task.score(before.outputs, before.targets):.4f}  {sizes[0]} bytes")
    print(f"deployed    accuracy {task.score(deployed.outputs, deployed.targets):.4f}  {sizes[1]} bytes", end="")
    print(f"  {speedup.value:.2f}x as fast")


if __name__ == "__main__":
    main()
