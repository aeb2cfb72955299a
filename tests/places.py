"""Folders that tests of every depth read from."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
REAL_DATA = ROOT.parent / "shared" / "data"
"""Real photos, masks and weights that are not part of the project; tests without them skip."""
NANO = ROOT / "sam_train" / "assets" / "nano.safetensors"
"""The small trained model that the package carries."""
