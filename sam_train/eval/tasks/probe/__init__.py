"""What the image encoder thinks is alike (paper D.6): `evaluate task=probe`."""
