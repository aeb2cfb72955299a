"""Whether masks of some groups of people are worse (paper §6, C): `evaluate task=fairness`."""
