"""`fcgpu train --epochs 1` in PyTorch: read the digits, train one full-batch epoch, score both sets, save the model."""

import gzip
import sys
from pathlib import Path

import numpy as np
import torch

DIGITS = Path(__file__).parents[2] / "fcgpu" / "data" / "mnist"


def read(name, header):
    return np.frombuffer(gzip.decompress((DIGITS / name).read_bytes()), np.uint8, offset=header)


def part(name):
    X = read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
    y = read(f"{name}-labels-idx1-ubyte.gz", 8)
    return torch.from_numpy(X.copy()).float().mul_(1 / 255), torch.from_numpy(y.astype(np.int64))


def main(path):
    torch.manual_seed(0)
    (X, y), (X_test, y_test) = part("train"), part("t10k")
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    torch.nn.functional.cross_entropy(model(X), y).backward()
    optimizer.step()
    with torch.inference_mode():
        for features, labels in ((X, y), (X_test, y_test)):
            print(float((model(features).argmax(dim=1) == labels).float().mean()))
    torch.save(model.state_dict(), path)


if __name__ == "__main__":
    main(sys.argv[1])
