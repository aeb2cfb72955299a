"""Instance segmentation: masks for the boxes of a detector (paper §7.4, D.4)."""
