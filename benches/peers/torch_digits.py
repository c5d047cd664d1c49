#!/usr/bin/env python3
"""The effect of the auxiliary heads in PyTorch: the comparison of `incept explain --train`, on the same embedded digits.

Trains the paper's GoogLeNet at width 0.25 on 8x8 digits scaled to 64x64, with and without the auxiliary losses from each seed: SGD with learning rate
0.01, momentum 0.9, weight decay 2e-4 on weights, batch size 32, dropout. Prints the mean and standard deviation of the scaled pixels, the validation accuracy after each epoch as a line
of JSON per network, then the mean and range over the seeds. Needs only PyTorch.
"""

import argparse
import gzip
import json
import pathlib

import torch
from torch import nn
from torch.nn import functional as F

from torch_peer import GoogLeNet

DIGITS = pathlib.Path(__file__).parents[2] / "assets" / "digits" / "digits.bin.gz"
SIZE = 64


def digits(pixels):
    """Images and labels of training and validation set; the latter is the last quarter of each class."""
    rows = torch.frombuffer(bytearray(gzip.decompress(DIGITS.read_bytes())), dtype=torch.uint8).view(-1, 65)
    labels = rows[:, 64].long()
    images = rows[:, :64].float().view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=SIZE, mode="bilinear", align_corners=False)
    mean, std = images.mean().item(), images.std().item()
    print(json.dumps({"mean": round(mean, 4), "std": round(std, 4)}), flush=True)
    if pixels != "unit":
        images = images - mean
    if pixels == "standard":
        images = images / std
    validation = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        of_class = (labels == label).nonzero().flatten()
        validation[of_class[-(len(of_class) // 4):]] = True
    images = images.expand(-1, 3, -1, -1).contiguous()
    return (images[~validation], labels[~validation]), (images[validation], labels[validation])


def network(init):
    net = GoogLeNet(0.25, SIZE, 10)
    if init == "glorot":
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
    return net


def curve(args, train, validation, seed, aux):
    """Validation accuracy of the main head after each epoch."""
    torch.manual_seed(seed)
    net = network(args.init)
    weights = [p for n, p in net.named_parameters() if n.endswith("weight")]
    biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 2e-4}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    accuracies = []
    for _ in range(args.epochs):
        net.train()
        for batch in torch.randperm(len(train[1])).split(32):
            losses = [F.cross_entropy(logits, train[1][batch]) for logits in net(train[0][batch])]
            optimizer.zero_grad(set_to_none=True)
            (losses[0] + aux * (losses[1] + losses[2])).backward()
            optimizer.step()
        net.eval()
        with torch.inference_mode():
            right = sum((net(x).argmax(1) == y).sum().item() for x, y in zip(*(t.split(128) for t in validation)))
        accuracies.append(right / len(validation[1]))
    return accuracies


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--init", choices=["xavier", "glorot"], default="xavier", help="Caffe's, or PyTorch's xavier_uniform_")
    parser.add_argument("--pixels", choices=["standard", "centered", "unit"], default="standard",
                        help="mean 0 and std 1 as in incept, only mean 0, or [0, 1]")
    parser.add_argument("--threads", type=int, help="CPU threads; default: PyTorch's")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    train, validation = digits(args.pixels)
    finals = {0.3: [], 0.0: []}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for aux, list_of in finals.items():
            accuracies = curve(args, train, validation, seed, aux)
            list_of.append(accuracies[-1])
            print(json.dumps({"seed": seed, "aux_weight": aux, "accuracies": accuracies}), flush=True)
    better = sum(a > b for a, b in zip(finals[0.3], finals[0.0]))
    spread = {aux: {"mean": sum(v) / len(v), "min": min(v), "max": max(v)} for aux, v in finals.items()}
    print(json.dumps({"init": args.init, "pixels": args.pixels, "epochs": args.epochs, "seeds": args.seeds,
                      "with": spread[0.3], "without": spread[0.0], "better": better}))


if __name__ == "__main__":
    main()
