"""Train the sample's feature network: a small classifier of emoji, whose last hidden layer compares sets of pictures.

Usage: python tools/train_features.py build/emoji elit_edge/data/sample-features.onnx     # two minutes on one core
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from rich.progress import track
from torch import Tensor, nn

from emoji_batches import SIDE, EmojiBatches

CHANNELS = (3, 16, 32, 48, 48)
STRIDES = (1, 2, 2, 2)
FEATURES = 32
STEPS = 2000
BATCH = 64
LEARNING_RATE = 3e-3
SEED = 7
OPSET = 17
IR_VERSION = 8
"""Old enough for every ONNX Runtime that elit-edge takes."""


class FeatureNetwork(nn.Module):
    """Samples [B, 3, 32, 32] in [-1, 1] -> features [B, 32]; `classes` makes logits of them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        pairs = list(zip(CHANNELS, CHANNELS[1:], STRIDES, strict=False))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, s, padding=1, bias=False) for i, o, s in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _ in pairs)
        self.features = nn.Linear(CHANNELS[-1], FEATURES)
        self.classes = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return self.features(x.mean((2, 3)))


def train(batches: EmojiBatches) -> FeatureNetwork:
    torch.manual_seed(SEED)
    network = FeatureNetwork(len(batches.class_names))
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for step in track(range(STEPS), description="train"):
        samples, labels = batches(step)
        loss = F.cross_entropy(network.classes(F.relu(network(samples))), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: FeatureNetwork, pictures: EmojiBatches) -> float:
    """Share of pictures, as they are, whose class is found."""
    logits = network.classes(F.relu(network(pictures.plain(torch.arange(len(pictures.labels))))))
    return float((logits.argmax(1) == pictures.labels).float().mean())


@torch.no_grad()
def onnx_model(network: FeatureNetwork) -> onnx.ModelProto:
    """The graph up to the features, with the norms folded into the convolutions before them."""
    nodes, weights, x = [], {}, "samples"
    for i, (convolution, norm) in enumerate(zip(network.convolutions, network.norms, strict=True)):
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        weights[f"kernel_{i}"] = convolution.weight * gain[:, None, None, None]
        weights[f"bias_{i}"] = norm.bias - norm.running_mean * gain
        names = [x, f"kernel_{i}", f"bias_{i}"]
        nodes.append(helper.make_node("Conv", names, [f"conv_{i}"], strides=[STRIDES[i]] * 2, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"conv_{i}"], [x := f"relu_{i}"]))
    weights["projection"], weights["projection_bias"] = network.features.weight, network.features.bias
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "projection", "projection_bias"], ["features"], transB=1),
    ]
    samples = helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", FEATURES])
    tensors = [numpy_helper.from_array(np.ascontiguousarray(w.numpy()), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "features", [samples], [features], tensors)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="elit-edge")
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    batches = EmojiBatches(args.pictures / "train.npz", BATCH, SEED)
    network = train(batches)
    onnx.save(onnx_model(network), args.output)
    held_out = EmojiBatches(args.pictures / "held_out.npz", BATCH, SEED)
    print(f"accuracy {accuracy(network, batches):.3f} on the training pictures, {accuracy(network, held_out):.3f} on")
    print(f"{len(held_out.labels)} of vendors never seen; {args.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
