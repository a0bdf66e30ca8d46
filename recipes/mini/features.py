"""Precompute the feature maps of the frozen EfficientNet-Lite0, so that later steps read them from disk.

    output of prepare.py (pictures.jsonl, images.u8.npy) -> NAME.f16 [M, 9, 1984], NAME.jsonl (image id and view)

Each training and validation image has one plain view (view 0); training images also have augmented ones: random crop
and scale, flip, rotation, another background colour instead of white, greyscale or posterised colours, black outlines,
blur.  Only missing views are computed, so it can be interrupted at any time.  `--dtype bfloat16` takes half as long
where the CPU has it, and differs by 3 %.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.encoders.efficientnet import PIXEL_MEAN, PIXEL_STD, PUBLISHED_KEYS, fold_batch_norms
from polymodal.encoders.efficientnet_grid import EfficientNetGrid, EfficientNetGridConfig, grid_keys
from polymodal.weights.read import read_torch

ENCODER = EfficientNetGridConfig()
SHAPE = (ENCODER.tokens, ENCODER.width)
ROW = 2 * SHAPE[0] * SHAPE[1]
VIEWS = {"fluent": 10, "tuxpaint": 7, "openclipart": 5, "groceries": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="efficientnet-lite0-57934424.pth")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--views", choices=("plain", "augmented"), default="plain")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pictures = [json.loads(line) for line in (args.data / "pictures.jsonl").open()]
    images = np.load(args.data / "images.u8.npy", mmap_mode="r")
    index = args.data / f"{args.views}.jsonl"
    done = {tuple(json.loads(line)) for line in index.open()} if index.exists() else set()
    todo = [(p, view) for p, view in plan(pictures, args.views == "augmented") if (p["id"], view) not in done]
    dtype = getattr(torch, args.dtype)
    encoder = load_encoder(args.weights).to(dtype)
    with (args.data / f"{args.views}.f16").open("r+b" if done else "wb") as maps, index.open("a") as lines:
        maps.seek(len(done) * ROW)
        for start in range(0, len(todo), args.batch):
            part = todo[start : start + args.batch]
            pixels = torch.stack([augment(torch.from_numpy(images[p["row"]].copy()), p["id"], v) for p, v in part])
            with torch.inference_mode():
                features = encoder(normalise(pixels).to(dtype).contiguous(memory_format=torch.channels_last)).float()
            maps.write(features.half().contiguous().numpy().tobytes())
            maps.flush()
            lines.writelines(json.dumps([p["id"], v]) + "\n" for p, v in part)
            lines.flush()
            if start // args.batch % 50 == 0:
                print(f"{start + len(part)}/{len(todo)}", flush=True)


def plan(pictures: list[dict], augmented: bool) -> list[tuple[dict, int]]:
    """(image, view): the plain views of training and validation images, or the augmented views of training images."""
    if not augmented:
        return [(p, 0) for p in pictures if p["split"] in ("train", "val")]
    training = [p for p in pictures if p["split"] == "train"]
    return [(p, v) for v in range(1, max(VIEWS.values())) for p in training if v < VIEWS.get(p["corpus"], 1)]


class Stored:
    """The features that features.py wrote, by picture and view."""

    def __init__(self, folder: Path) -> None:
        self.rows: dict[tuple[str, int], tuple[np.memmap, int]] = {}
        for kind in ("plain", "augmented"):
            marks = [json.loads(line) for line in (folder / f"{kind}.jsonl").open()]
            maps = np.memmap(folder / f"{kind}.f16", dtype=np.float16, mode="r", shape=(len(marks), *SHAPE))
            self.rows |= {(picture, view): (maps, row) for row, (picture, view) in enumerate(marks)}

    def half(self, picture: str, view: int) -> np.ndarray:
        """float16 [9, 1984]."""
        maps, row = self.rows[picture, view]
        return np.asarray(maps[row])

    def of(self, picture: str, view: int) -> Tensor:
        """float32 [9, 1984]."""
        return torch.from_numpy(self.half(picture, view).astype(np.float32))


def load_encoder(weights: Path) -> EfficientNetGrid:
    """The frozen encoder with the published weights, batch norms folded, in eval mode."""
    encoder = ENCODER.build()
    encoder.load_state_dict(dict(grid_keys(PUBLISHED_KEYS).apply(read_torch(weights), encoder)))
    encoder.trunk = fold_batch_norms(encoder.trunk)
    return encoder.eval().to(memory_format=torch.channels_last)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [N, 224, 224, 3] -> float32 [N, 3, 224, 224], normalised as the published weights expect."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)


def augment(image: Tensor, picture: str, view: int) -> Tensor:
    """uint8 [H, W, 3] -> uint8 [H, W, 3]; view 0 is the original image, others are seeded by (image, view)."""
    if view == 0:
        return image
    random = torch.Generator().manual_seed(zlib.crc32(f"{picture}/{view}".encode()))

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=random).item()

    x = image.permute(2, 0, 1).float() / 255
    background = (x.amin(0, keepdim=True) > 0.985).float()
    angle, zoom = math.radians(uniform(-18, 18)), uniform(0.75, 1.45)
    mirror = -1.0 if uniform(0, 1) < 0.5 else 1.0
    theta = torch.tensor(
        [
            [mirror * math.cos(angle) * zoom, -math.sin(angle) * zoom, uniform(-0.18, 0.18)],
            [mirror * math.sin(angle) * zoom, math.cos(angle) * zoom, uniform(-0.18, 0.18)],
        ]
    )
    grid = F.affine_grid(theta[None], [1, 4, *x.shape[1:]], align_corners=False)
    moved = F.grid_sample(torch.cat([x - 1, background - 1])[None], grid, align_corners=False)[0] + 1
    x, background = moved[:3], moved[3:].clamp(0, 1)
    choice = uniform(0, 1)
    if choice < 0.18:
        x = x.mean(0, keepdim=True).expand(3, -1, -1)
    elif choice < 0.36:
        levels = int(uniform(2, 5))
        x = (x * levels).round() / levels
    elif choice < 0.46:
        x = F.avg_pool2d(x[None], 5, 1, 2)[0]
    if uniform(0, 1) < 0.3:  # black outlines, as in comics and flat icons
        grey = F.avg_pool2d(x.mean(0)[None, None], 3, 1, 1)
        thick = 2 * int(uniform(1, 4)) + 1
        edges = F.max_pool2d(grey, thick, 1, thick // 2) + F.max_pool2d(-grey, thick, 1, thick // 2)
        x = x * (1 - ((edges[0] - 0.15) * 5).clamp(0, 1))
    x = (x * uniform(0.75, 1.2) + uniform(-0.08, 0.08)).clamp(0, 1)
    if uniform(0, 1) < 0.4:
        colour = torch.tensor([uniform(0, 1), uniform(0, 1), uniform(0, 1)]).view(3, 1, 1)
        x = x * (1 - background) + colour * background
    return (x * 255).round().to(torch.uint8).permute(1, 2, 0)


if __name__ == "__main__":
    main()
