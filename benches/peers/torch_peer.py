#!/usr/bin/env python3
"""Measures PyTorch on the rows that `peers` measures: the paper's GoogLeNet, training steps and inference.

Each line of the output is one row as JSON, with images per second as median, least and greatest of the rounds. Rows:
CPU eager f32, and where CUDA is there, CUDA eager f32 (TF32 off) and CUDA with mixed f16 precision and channels last.
With --incept PROGRAM each round of PyTorch is followed by one of `incept bench` in the same precision, and a row has
`ratio` too: images per second of incept by those of PyTorch, round by round. PyTorch is all that it needs.
"""

import argparse
import json
import statistics
import subprocess
import time
import warnings

# PyTorch warns of a missing NumPy, which nothing here uses.
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

# 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def conv(inputs, outputs, kernel, stride=1, padding=0, norm=False):
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not norm)
    if norm:
        return nn.Sequential(layer, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU(inplace=True))
    limit = (3.0 / (inputs * kernel * kernel)) ** 0.5
    nn.init.uniform_(layer.weight, -limit, limit)
    nn.init.constant_(layer.bias, 0.2)
    return nn.Sequential(layer, nn.ReLU(inplace=True))


def linear(inputs, outputs, bias):
    layer = nn.Linear(inputs, outputs)
    limit = (3.0 / inputs) ** 0.5
    nn.init.uniform_(layer.weight, -limit, limit)
    nn.init.constant_(layer.bias, bias)
    return layer


class Inception(nn.Module):
    def __init__(self, inputs, conv1, reduce3, conv3, reduce5, conv5, project, norm=False):
        super().__init__()
        # torchvision's third branch has kernels of 3x3.
        last = 3 if norm else 5
        self.branch1 = conv(inputs, conv1, 1, norm=norm)
        self.branch2 = nn.Sequential(
            conv(inputs, reduce3, 1, norm=norm), conv(reduce3, conv3, 3, padding=1, norm=norm)
        )
        self.branch3 = nn.Sequential(
            conv(inputs, reduce5, 1, norm=norm), conv(reduce5, conv5, last, padding=last // 2, norm=norm)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(inputs, project, 1, norm=norm))
        self.outputs = conv1 + conv3 + conv5 + project

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxHead(nn.Module):
    def __init__(self, inputs, channels, hidden, classes, norm=False):
        super().__init__()
        self.conv = conv(inputs, channels, 1, norm=norm)
        self.hidden = linear(16 * channels, hidden, 0.2)
        self.dropout = nn.Dropout(0.7)
        self.classifier = linear(hidden, classes, 0.0)

    def forward(self, x):
        # 5x5 with stride 3 gives 4 x 4 from the 14 x 14 of 224; other inputs are pooled to 4 x 4.
        x = F.avg_pool2d(x, 5, 3) if x.shape[-1] == 14 else F.adaptive_avg_pool2d(x, 4)
        x = self.conv(x).flatten(1)
        return self.classifier(self.dropout(F.relu(self.hidden(x))))


class GoogLeNet(nn.Module):
    def __init__(self, width, size, classes, norm=False):
        super().__init__()

        def scale(n):
            return max(1, int(n * width + 0.5))

        stem = [scale(n) for n in (64, 64, 192)]
        self.conv1 = conv(3, stem[0], 7, 2 if size >= 64 else 1, 3, norm)
        self.conv2 = conv(stem[0], stem[1], 1, norm=norm)
        self.conv3 = conv(stem[1], stem[2], 3, padding=1, norm=norm)
        self.norm = nn.Identity() if norm else nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels = stem[2]
        self.blocks = nn.ModuleDict()
        self.aux = nn.ModuleDict()
        for name, counts in BLOCKS.items():
            self.blocks[name] = Inception(channels, *[scale(n) for n in counts], norm=norm)
            channels = self.blocks[name].outputs
            if name in ("4a", "4d"):
                self.aux[name] = AuxHead(channels, scale(128), scale(1024), classes, norm)
        self.dropout = nn.Dropout(0.4)
        self.classifier = linear(channels, classes, 0.0)

    def forward(self, x):
        x = self.norm(self.pool(self.conv1(x)))
        x = self.pool(self.norm(self.conv3(self.conv2(x))))
        aux = []
        for name, block in self.blocks.items():
            x = block(x)
            if self.training and name in self.aux:
                aux.append(self.aux[name](x))
            if name in ("3b", "4e"):
                x = self.pool(x)
        x = self.classifier(self.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return [x, *aux] if self.training else x


class Side:
    """One device with one precision."""

    def __init__(self, name, device, amp):
        self.name, self.device, self.amp = name, torch.device(device), amp
        self.format = torch.channels_last if amp else torch.contiguous_format

    def autocast(self):
        return torch.autocast(self.device.type, torch.float16, enabled=self.amp)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def network(self, args):
        torch.manual_seed(1)
        norm = args.variant == "torchvision"
        return GoogLeNet(args.width, args.input, args.classes, norm).to(self.device, memory_format=self.format)

    def upload(self, images):
        return images.to(self.device, non_blocking=True).to(memory_format=self.format)


def step_of(side, args, images, labels):
    """A whole training step: upload, forward, three losses, backward, SGD with momentum and weight decay."""
    net = side.network(args).train()
    weights = [p for n, p in net.named_parameters() if n.endswith("weight")]
    biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 2e-4}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler(side.device.type, enabled=side.amp)

    def step():
        x, y = side.upload(images), labels.to(side.device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        with side.autocast():
            main, aux1, aux2 = net(x)
            loss = F.cross_entropy(main, y) + 0.3 * (F.cross_entropy(aux1, y) + F.cross_entropy(aux2, y))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def inference_of(side, args, images, _labels):
    """Images on the host to probabilities on the host."""
    net = side.network(args).eval()

    def infer():
        with torch.inference_mode(), side.autocast():
            return net(side.upload(images)).softmax(1).cpu()

    return infer


def measure(side, work, batch, args):
    def block(times):
        start = time.perf_counter()
        for _ in range(times):
            work()
        side.wait()
        return (time.perf_counter() - start) / times

    for _ in range(max(args.warm_up, 1)):
        work()
    side.wait()
    times = max(1, round(args.block / 1e3 / block(2)))
    rates, ratios = [], []
    for _ in range(args.rounds):
        rates.append(batch / block(times))
        if args.incept:
            ratios.append(incept(side, batch, args) / rates[-1])
    return rates, ratios


def incept(side, batch, args):
    """Images per second of one round of `incept bench`, which warms up first."""
    command = [args.incept, "bench", "--rounds", "1", "--json", "--precision", "f16" if side.amp else "f32"]
    command += ["--device", "cpu" if side.device.type == "cpu" else "gpu", "--variant", args.variant]
    if side.device.type == "cpu" and args.threads:
        command += ["--threads", str(args.threads)]
    command += ["--width", str(args.width), "--input", str(args.input), "--classes", str(args.classes), "--batch", str(batch)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    return result["train" if args.what == "step" else "infer"]["images_per_s"]["median"]


class OnnxSide(Side):
    """onnxruntime on the CPU, with a network that `incept export` wrote."""

    def __init__(self, file):
        super().__init__("onnxruntime cpu f32", "cpu", False)
        self.file = file


def onnx_of(side, args, images, _labels):
    """Images on the host to probabilities on the host."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(side.file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    feed = {name: images.numpy()}

    def infer():
        logits = torch.from_numpy(session.run(None, feed)[0])
        return logits.softmax(1)

    return infer


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["step", "infer"])
    parser.add_argument("--variant", choices=["paper", "torchvision"], default="paper")
    parser.add_argument("--width", type=float, default=0.25, help="factor on all channel counts")
    parser.add_argument("--input", type=int, default=64, help="height and width of the images")
    parser.add_argument("--batch", default="32", help="images of a batch; several, with commas, make several rows")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--block", type=float, default=500, help="milliseconds of one block, about")
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--threads", type=int, help="CPU threads; default: PyTorch's")
    parser.add_argument("--incept", metavar="PROGRAM", help="take turns with this program and print ratios")
    parser.add_argument("--onnx", metavar="FILE", help="measure onnxruntime on the CPU with this export of incept")
    parser.add_argument("--no-cpu", action="store_true", help="leave the CPU out")
    args = parser.parse_args()
    try:
        batches = [int(batch) for batch in args.batch.split(",")]
    except ValueError:
        parser.error(f"--batch takes whole numbers, not {args.batch}")
    if min(batches) < 1 or args.input < 32 or args.classes < 2:
        parser.error("--batch must be above 0, --input at least 32, --classes at least 2")
    if args.threads:
        torch.set_num_threads(args.threads)

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    sides = [] if args.no_cpu else [Side("cpu eager f32", "cpu", False)]
    if torch.cuda.is_available():
        sides += [Side("cuda eager f32", "cuda", False), Side("cuda amp f16 channels-last", "cuda", True)]

    if args.onnx and args.what == "infer":
        sides.append(OnnxSide(args.onnx))

    for batch in batches:
        torch.manual_seed(1)
        images = torch.rand(batch, 3, args.input, args.input) * 2 - 1
        labels = torch.arange(batch) * 7 % args.classes
        for side in sides:
            if side.device.type == "cuda":
                pinned = images.pin_memory(), labels.pin_memory()
            else:
                pinned = images, labels
            of = step_of if args.what == "step" else inference_of
            if isinstance(side, OnnxSide):
                of = onnx_of
            rates, ratios = measure(side, of(side, args, *pinned), batch, args)
            on_cuda = side.device.type == "cuda"
            row = {
                "bench": args.what,
                "variant": args.variant,
                "peer": "onnxruntime" if isinstance(side, OnnxSide) else f"torch {torch.__version__}",
                "side": side.name,
                "device": torch.cuda.get_device_name(side.device) if on_cuda else f"{torch.get_num_threads()} threads",
                "width": args.width,
                "input": args.input,
                "classes": args.classes,
                "batch": batch,
                "images_per_s": spread(rates),
                **({"ratio": spread(ratios)} if ratios else {}),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
