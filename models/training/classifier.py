"""The small classifier whose features and answers evaluation measures with.

Trained once on the real training set and cached; its hash is part of every report, because a
Fréchet distance means nothing without the network it was taken in.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.training.images import Images
from models.training.randomness import batch_indices, generator, mix

_EPOCHS, _BATCH, _RATE, _SEED = 8, 128, 2e-3, 0
_MIN_STEPS = 200  # where eight epochs of a small data set would be fewer
_FEATURES = 128
_CHUNK = 500


class Classifier(nn.Module):
    """Three strided stages of convolutions, 128 features, one linear layer to the classes."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        widths = [channels, 32, 64, 128]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for before, after in pairwise(widths)
            )
        )
        self.to_features = nn.Linear(128 * (size // 8) ** 2, _FEATURES)
        self.to_classes = nn.Linear(_FEATURES, classes)
        self.dropout = nn.Dropout(0.3)

    def features(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] -> (B, 128)."""
        out: Tensor = F.relu(self.to_features(self.dropout(self.stages(images).flatten(1))))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] -> logits, (B, classes)."""
        out: Tensor = self.to_classes(self.dropout(self.features(images)))
        return out


@dataclass(frozen=True)
class Judge:
    """A trained classifier with its name: the first 12 digits of the SHA-256 of its weights."""

    network: Classifier
    digest: str
    device: torch.device

    @torch.inference_mode()
    def measure(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] -> features (N, 128) float64 and predicted classes (N,)."""
        features, classes = [], []
        for some in images.split(_CHUNK):
            made = self.network.features(some.to(self.device))
            features.append(made.double().cpu())
            classes.append(self.network.to_classes(made).argmax(1).cpu())
        return torch.cat(features), torch.cat(classes)


def train_judge(train: Images, cache: Path, device: torch.device) -> Judge:
    """The classifier of a data set, from the cache or trained into it.

    The cache is keyed by the data and this recipe, so another data set never meets it.
    """
    channels, size = train.pixels.shape[1], train.pixels.shape[-1]
    network = Classifier(channels, size, len(train.classes))
    key = hashlib.sha256(train.pixels.numpy().tobytes() + train.labels.numpy().tobytes())
    key.update(f"{_epochs(train)} {_BATCH} {_RATE} {_SEED} {network}".encode())
    path = cache / f"classifier-{key.hexdigest()[:16]}.safetensors"
    if path.is_file():
        network.load_state_dict(load_file(path))
    else:
        _fit(network, train, device)
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({k: v.cpu().contiguous() for k, v in network.state_dict().items()}, partial)
        partial.replace(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Judge(network.to(device).eval(), digest, device)


def _fit(network: Classifier, train: Images, device: torch.device) -> None:
    torch.manual_seed(mix(_SEED, "classifier", 0))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.reset_parameters()
    network.to(device).train()
    steps = _epochs(train) * _batches(train)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    for step in range(steps):
        indices = batch_indices(_SEED, step, _BATCH, len(train))
        images = _shift(train.scaled(indices), step).to(device)
        F.cross_entropy(network(images), train.labels[indices].to(device)).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def _epochs(train: Images) -> int:
    return max(_EPOCHS, -(-_MIN_STEPS // _batches(train)))


def _batches(train: Images) -> int:
    return max(len(train) // _BATCH, 1)


def _shift(images: Tensor, step: int) -> Tensor:
    """Move the batch each way by up to a sixteenth of its side: two pixels of 32."""
    reach = images.shape[-1] // 16
    draw = generator(_SEED, "shift", step)
    right, down = torch.randint(-reach, reach + 1, (2,), generator=draw).tolist()
    return images.roll((down, right), dims=(2, 3))
