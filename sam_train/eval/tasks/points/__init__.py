"""Points to masks on many data sets (paper §7.1, D.1): `evaluate task=points`."""
