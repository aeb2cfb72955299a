"""A photo with its masks: decoding, transforms, the draw of masks."""
