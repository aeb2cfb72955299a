"""Masks that the image encoder finds alike (paper D.6): `evaluate task=probe`."""
