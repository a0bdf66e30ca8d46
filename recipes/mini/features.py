"""Pictures -> frozen EfficientNet-Lite0 feature maps, once, so that every later step reads them from disk.

    prepare.py's folder (pictures.jsonl, images.u8.npy) -> maps.u8.npy [M, 49, 1280], views.npy [M, 2]

Each picture gives one plain view (view 0) and, when it is for training, some augmented ones: random crop and
scale, mirror, rotation, another background in place of white, grey, inverted or flattened colours, blur.  The maps end
in ReLU6, so a byte (value * 42.5) keeps them to 0.012.  Resumable: a row is computed when its view is not yet marked.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.encoders.efficientnet import EFFICIENTNET_LITE, KEYS, PIXEL_MEAN, PIXEL_STD, fold_batch_norms

SCALE = 42.5
VIEWS = {"tuxpaint": 8, "fluent": 9, "openclipart": 4, "groceries": 6, "cifar10": 2, "quickdraw": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="efficientnet-lite0-57934424.pth")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--limit", type=int, default=None, help="stop after so many rows (a short trial)")
    args = parser.parse_args()
    pictures = [json.loads(line) for line in (args.data / "pictures.jsonl").open()]
    images = np.load(args.data / "images.u8.npy", mmap_mode="r")
    views = plan(pictures)
    np.save(args.data / "views.npy", views)
    encoder = load_encoder(args.weights)
    maps, done = open_maps(args.data, len(views))
    todo = np.flatnonzero(done == 0)[: args.limit]
    for start in range(0, len(todo), args.batch):
        rows = todo[start : start + args.batch]
        pixels = torch.stack([augment(torch.from_numpy(images[p].copy()), int(p), int(v)) for p, v in views[rows]])
        with torch.inference_mode():
            found = encoder(normalise(pixels).contiguous(memory_format=torch.channels_last))
        maps[rows] = (found * SCALE).round().clamp(0, 255).to(torch.uint8).numpy()
        done[rows] = 1
        if start // args.batch % 50 == 0:
            print(f"{start + len(rows)}/{len(todo)}", flush=True)
    maps.flush()
    done.flush()


def plan(pictures: list[dict]) -> np.ndarray:
    """[M, 2] (picture, view): plain views of all pictures first, then the augmented ones of training pictures."""
    rows = [(i, 0) for i in range(len(pictures))]
    most = max(VIEWS.values())
    for view in range(1, most):
        rows += [(i, view) for i, p in enumerate(pictures) if p["split"] == "train" and view < VIEWS.get(p["corpus"], 1)]
    return np.asarray(rows, dtype=np.int32)


def load_encoder(weights: Path) -> torch.nn.Module:
    """EfficientNet-Lite0 with its published weights, batch norms folded, in evaluation mode."""
    encoder = EFFICIENTNET_LITE["lite0"].build()
    KEYS.load(torch.load(weights, map_location="cpu", weights_only=True), encoder)
    return fold_batch_norms(encoder.eval()).to(memory_format=torch.channels_last)


def open_maps(folder: Path, rows: int) -> tuple[np.memmap, np.memmap]:
    """The map file and the marks of the rows already done; made when absent, kept when the plan is unchanged."""
    shape = (rows, 49, 1280)
    mode = "r+" if (folder / "maps.u8.npy").exists() else "w+"
    maps = np.lib.format.open_memmap(folder / "maps.u8.npy", mode=mode, dtype=np.uint8, shape=shape)
    done = np.lib.format.open_memmap(folder / "maps.done.npy", mode=mode, dtype=np.uint8, shape=(rows,))
    if maps.shape != shape:
        raise SystemExit(f"{folder}/maps.u8.npy has {maps.shape[0]} rows, the plan {rows}: delete maps.* and start again")
    return maps, done


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [N, 224, 224, 3] -> float32 [N, 3, 224, 224] as the published weights expect."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)


def augment(image: Tensor, picture: int, view: int) -> Tensor:
    """uint8 [H, W, 3] -> uint8 [H, W, 3]; view 0 is the picture itself, others are seeded by (picture, view)."""
    if view == 0:
        return image
    random = torch.Generator().manual_seed(picture * 64 + view)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=random).item()

    x = image.permute(2, 0, 1).float() / 255
    paper = (x.amin(0, keepdim=True) > 0.985).float()
    angle, zoom = math.radians(uniform(-18, 18)), uniform(0.75, 1.45)
    mirror = -1.0 if uniform(0, 1) < 0.5 else 1.0
    theta = torch.tensor([[mirror * math.cos(angle) * zoom, -math.sin(angle) * zoom, uniform(-0.18, 0.18)],
                          [mirror * math.sin(angle) * zoom, math.cos(angle) * zoom, uniform(-0.18, 0.18)]])
    grid = F.affine_grid(theta[None], [1, 4, *x.shape[1:]], align_corners=False)
    moved = F.grid_sample(torch.cat([x - 1, paper - 1])[None], grid, align_corners=False)[0] + 1
    x, paper = moved[:3], moved[3:].clamp(0, 1)
    choice = uniform(0, 1)
    if choice < 0.18:
        x = x.mean(0, keepdim=True).expand(3, -1, -1)
    elif choice < 0.36:
        levels = int(uniform(2, 5))
        x = (x * levels).round() / levels
    elif choice < 0.46:
        x = F.avg_pool2d(x[None], 5, 1, 2)[0]
    x = (x * uniform(0.75, 1.2) + uniform(-0.08, 0.08)).clamp(0, 1)
    if uniform(0, 1) < 0.4:
        colour = torch.tensor([uniform(0, 1), uniform(0, 1), uniform(0, 1)]).view(3, 1, 1)
        x = x * (1 - paper) + colour * paper
    return (x * 255).round().to(torch.uint8).permute(1, 2, 0)


if __name__ == "__main__":
    main()
