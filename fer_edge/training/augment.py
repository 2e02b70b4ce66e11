"""Random changes of training images, a whole batch at once: warp, contrast, brightness, erasing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fer_edge.preprocessing import SIZE, Preprocessing
from fer_edge.runs.recipe import Augment

__all__ = ["Draw", "augment", "draw_augmentation", "normalise", "view_size"]

_PADDING = {"reflect": "reflection", "border": "border", "mean": "zeros"}


@dataclass(frozen=True, eq=False)
class Draw:
    """The random changes of N images. All tensors are on the CPU.

    ``theta`` f32[N, 2, 3] maps output to input coordinates, both in -1..1; ``contrast``
    and ``brightness`` f32[N] are factors; ``box`` f32[N, 4] is top, bottom, left, right of
    the erased rectangle in 0..1, empty when nothing is erased.
    """

    theta: Tensor
    contrast: Tensor
    brightness: Tensor
    box: Tensor

    def rows(self, rows: Tensor) -> Draw:
        """Return the changes of these rows, ``i64[n]``."""
        return Draw(self.theta[rows], self.contrast[rows], self.brightness[rows], self.box[rows])


def draw_augmentation(count: int, recipe: Augment, random: np.random.Generator) -> Draw:
    """Draw random changes for ``count`` images."""

    def either_way(extent: float) -> np.ndarray:
        return random.uniform(-extent, extent, count)

    angle = np.deg2rad(either_way(recipe.rotate))
    zoom = 1 + either_way(recipe.scale)
    mirror = np.where(random.random(count) < recipe.flip, -1.0, 1.0)
    # In grid coordinates an image has the width 2 and the height 2.
    across, down = 2 * either_way(recipe.shift), 2 * either_way(recipe.shift)
    if recipe.warp < 1:
        # With shifts by whole pixels, interpolation does not smooth the image.
        sharp = random.random(count) >= recipe.warp
        angle, zoom = np.where(sharp, 0.0, angle), np.where(sharp, 1.0, zoom)
        across, down = (np.where(sharp, _whole_pixels(way), way) for way in (across, down))
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    theta = np.stack(
        [np.stack([mirror * cosine, -sine, across], 1), np.stack([mirror * sine, cosine, down], 1)],
        1,
    )
    contrast, brightness = 1 + either_way(recipe.contrast), 1 + either_way(recipe.brightness)

    # Random erasing (Zhong et al. 2017, arXiv 1708.04896): area and aspect ratio, then place.
    area = random.uniform(min(0.02, recipe.erase_area), recipe.erase_area, count)
    aspect = np.exp(random.uniform(math.log(0.3), math.log(1 / 0.3), count))
    height = np.minimum(np.sqrt(area * aspect), 1)
    width = np.minimum(np.sqrt(area / aspect), 1)
    top, left = random.random(count) * (1 - height), random.random(count) * (1 - width)
    height = np.where(random.random(count) < recipe.erase, height, 0)
    box = np.stack([top, top + height, left, left + width], 1)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32))

    return Draw(tensor(theta), tensor(contrast), tensor(brightness), tensor(box))


def _whole_pixels(way: np.ndarray) -> np.ndarray:
    """Return shifts in grid coordinates, rounded to whole pixels of an image of the usual size."""
    rounded: np.ndarray = np.round(way * SIZE / 2) * 2 / SIZE
    return rounded


def view_size(recipe: Augment, full: int, part_done: float) -> int:
    """Return the side of the views when ``part_done`` (0..1) of the run is over.

    It grows linearly in steps of 4 pixels, so that stride-2 stages halve it almost exactly.
    """
    start = min(recipe.start_size or full, full)
    if part_done >= recipe.full_size_at or start == full:
        return full
    grown = start + (full - start) * part_done / recipe.full_size_at
    return max(start, int(grown) // 4 * 4)


def augment(
    images: Tensor,
    draw: Draw,
    recipe: Augment,
    preprocessing: Preprocessing,
    size: int | None = None,
) -> Tensor:
    """Return ``images``, u8[N, 1, H, W], with the changes ``draw``: normalised f32, same shape.

    With ``size`` the views are that many pixels high and wide.
    """
    device = images.device
    mean = 255.0 * preprocessing.mean
    # Centred first, so that the zeros outside the image are the mean gray.
    x = images.to(torch.float32).sub_(mean)
    height, width = (size, size) if size is not None else (x.shape[-2], x.shape[-1])
    resized = (height, width) != tuple(x.shape[-2:])
    if resized or recipe.rotate or recipe.scale or recipe.shift or recipe.flip:
        grid = _grid(draw.theta.to(device), height, width)
        x = F.grid_sample(x, grid, "bilinear", _PADDING[recipe.fill], align_corners=False)
    # Brightness scales a pixel; contrast scales its distance from the mean of the image. Both
    # and the division by std are one multiplication and one addition per pixel.
    contrast = draw.contrast.to(device).view(-1, 1, 1, 1)
    brightness = draw.brightness.to(device).view(-1, 1, 1, 1)
    scale = 1.0 / (255.0 * preprocessing.std)
    own_mean = x.mean((1, 2, 3), keepdim=True)
    lift = brightness * own_mean * (1 - contrast) + (brightness - 1) * mean
    x = x.mul_(brightness * contrast * scale).add_(lift * scale)
    if recipe.erase:
        x = x.masked_fill_(_boxes(draw.box.to(device), x.shape[-2], x.shape[-1]), 0.0)
    return x


def _grid(theta: Tensor, height: int, width: int) -> Tensor:
    """Return f32[N, height, width, 2] as ``affine_grid`` does, but much faster on a CPU.

    Each of the two coordinates is one plane in memory, which ``grid_sample`` reads fastest.
    """
    x = ((torch.arange(width, device=theta.device) * 2 + 1) / width - 1).view(1, 1, 1, -1)
    y = ((torch.arange(height, device=theta.device) * 2 + 1) / height - 1).view(1, 1, -1, 1)
    by_x, by_y, shift = theta[..., None, None].unbind(2)
    return (by_x * x + (by_y * y + shift)).permute(0, 2, 3, 1)


def _boxes(box: Tensor, height: int, width: int) -> Tensor:
    """Return the mask ``bool[N, 1, height, width]`` of the pixels whose centre is in the box."""
    y = ((torch.arange(height, device=box.device) + 0.5) / height).view(1, 1, -1, 1)
    x = ((torch.arange(width, device=box.device) + 0.5) / width).view(1, 1, 1, -1)
    top, bottom, left, right = box.view(-1, 4, 1, 1, 1).unbind(1)
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return ``images``, u8 of any shape, as normalised f32, with the reference's arithmetic."""
    scale = 1.0 / (255.0 * preprocessing.std)
    return images.to(torch.float32) * scale - preprocessing.mean / preprocessing.std
