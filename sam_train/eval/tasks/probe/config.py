"""Settings of `task=probe`."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.settings.sections import section, setting


@section("probe", order=130, resume="harmless")
@dataclass
class ProbeConfig:
    """The masks that are embedded, how, and what is drawn."""

    masks_per_image: int = setting(8, minimum=1)
    """The largest masks of each photo are taken: each costs two runs of the image encoder."""
    margin: float = setting(0.1, minimum=0)
    """Added to each side of a mask's box before it is cut out, in parts of the box's longer side
    (the paper says "around a mask")."""
    batch: int = setting(8, minimum=1)
    """Crops encoded at once; bounds memory."""
    queries: int = setting(8, minimum=1)
    """Rows of the picture: masks spread evenly over the data, and what is most like each."""
    neighbours: int = setting(7, minimum=1)
    """Masks beside each; none of the query's own photo, and one of any other."""
    groups: str = setting("", path="one")
    """A CSV as of `fairness.groups`, such as the masks' categories: then it is measured how often
    the nearest masks are of the same group."""
    columns: list[str] = setting([])
    """Columns of the CSV that are looked at; empty: all."""
