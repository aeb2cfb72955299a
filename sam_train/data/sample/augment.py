"""Flips and colour of a training photo, together with its masks.

The paper's recipes use neither (A); they are for fine-tuning on few photos. A photo has at most
four flipped views, which an embedding cache can hold. Colour never gives the same view twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sam_train.data.feed.order import STREAM_COLOUR, STREAM_FLIP, hash64
from sam_train.data.sample.scene import Scene
from sam_train.masks.flip import flip

# Shares of red, green and blue in perceived brightness (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

_GREY = 0.25
"""Share of grey photos at colour 1; at 0.8 it is SimCLR's 0.2 (Chen et al. 2020)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """The settings of `data` that change a training photo without moving its scale."""

    hflip: float = 0.0
    """Probability that columns are reversed."""
    vflip: float = 0.0
    """Probability that rows are reversed."""
    colour: float = 0.0
    """Largest change of brightness, contrast and saturation, as a fraction."""

    @property
    def flips(self) -> bool:
        """True where a photo may be flipped."""
        return self.hflip > 0 or self.vflip > 0

    def flipped(self, scene: Scene, *, draw_key: tuple[int, int, int]) -> Scene:
        """Flip photo and masks as (seed, epoch, sample index) decides.

        The scene's compressed strings stay those of the stored photo; only evaluation, which flips
        nothing, reads them.
        """
        across, down = (
            # Strictly below, so that probability 0 never flips.
            hash64(*draw_key, STREAM_FLIP, axis) * 2.0**-64 < probability
            for axis, probability in enumerate((self.hflip, self.vflip))
        )
        if not across and not down:
            return scene
        runs = flip(scene.masks.runs, width=scene.frame.original[1], across=across, down=down)
        image = scene.image[:: -1 if down else 1, :: -1 if across else 1]
        return replace(
            scene,
            # Copied: Pillow and torch take no negative strides.
            image=np.ascontiguousarray(image),
            masks=replace(scene.masks, runs=runs),
            runs=runs,
        )

    def coloured(self, scene: Scene, *, draw_key: tuple[int, int, int]) -> Scene:
        """Change brightness, contrast and saturation by factors that `draw_key` decides.

        A few photos lose their colours altogether, so that shape and texture must do.
        """
        if not self.colour:
            return scene
        *draws, grey = (hash64(*draw_key, STREAM_COLOUR, k) * 2.0**-64 for k in range(4))
        brightness, contrast, saturation = (1 + self.colour * (2 * draw - 1) for draw in draws)
        if grey < _GREY * self.colour:
            saturation = 0.0
        return replace(
            scene, image=_coloured(scene.image, brightness, contrast=contrast, mix=saturation)
        )


def _coloured(
    image: npt.NDArray[np.uint8], brightness: float, *, contrast: float, mix: float
) -> npt.NDArray[np.uint8]:
    """Scale distances from grey by `mix`, from the mean grey by `contrast`, then all values.

    Args:
        image: [h, w, channels]; three are RGB, others are bands that weigh the same.
        brightness, contrast, mix: factors; 1 changes nothing.
    """
    pixels = image.astype(np.float32)
    # Infrared or a dye has no place in what an eye calls bright.
    bands = pixels.shape[2]
    weights = _LUMA if bands == len(_LUMA) else np.full(bands, 1 / bands, dtype=np.float32)
    grey = (pixels @ weights)[..., None]
    # Python's floats keep the array's dtype, numpy's own would widen it.
    mean = float(grey.mean())
    mixed = grey + (pixels - grey) * mix
    changed = (mean + (mixed - mean) * contrast) * brightness
    rounded: npt.NDArray[np.uint8] = np.rint(changed).clip(0, 255).astype(np.uint8)
    return rounded
