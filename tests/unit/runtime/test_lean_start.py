"""A verb starts without the libraries of metrics that nobody measures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

HEAVY = ("transformers", "scipy.signal", "scipy.stats", "torchmetrics.functional")


def fresh(code: str) -> Any:
    """What a new process prints as JSON, after the start of a verb."""
    start = "from sam_train.runtime.lean_start import postpone_torchmetrics as postpone\n"
    command = [sys.executable, "-c", "import json, sys\n" + start + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_fit_imports_no_metrics_and_whoever_asks_has_them() -> None:
    code = f"""
from sam_train.cli import main
try:
    main(["fit", "data.train="])
except SystemExit as end:
    assert end.code == 2
import sam_train.train.fit
loaded = [name for name in {HEAVY!r} if name in sys.modules]
import torchmetrics, lightning.pytorch.core.module as lightning
same = [lightning.Metric is torchmetrics.Metric]
from torchmetrics import Accuracy, MetricCollection
from torchmetrics.aggregation import MeanMetric
import torch
same += [lightning.MetricCollection is MetricCollection, issubclass(Accuracy, lightning.Metric)]
mean = MeanMetric()
mean.update(torch.tensor([1.0, 2.0]))
half = Accuracy(task="multiclass", num_classes=2)
right = float(half(torch.tensor([0, 1]), torch.tensor([0, 0])))
print(json.dumps([
    loaded,
    all(same),
    float(mean.compute()),
    right,
    type(torchmetrics).__name__,
]))
"""
    assert fresh(code) == [[], True, 1.5, 0.5, "module"]


def test_what_was_imported_before_stays() -> None:
    code = """
sys.modules["torchmetrics"] = before = type(sys)("torchmetrics")
postpone()
print(json.dumps(sys.modules["torchmetrics"] is before))
"""
    assert fresh(code) is True


def test_a_package_in_another_order_is_imported_whole() -> None:
    """Its base class needs a name of the face, which in turn needs the base class."""
    code = """
import pathlib, tempfile
folder = pathlib.Path(tempfile.mkdtemp()) / "torchmetrics"
(folder / "utilities").mkdir(parents=True)
(folder / "__init__.py").write_text("from torchmetrics.metric import Metric\\nNAMES = 1\\n")
(folder / "utilities" / "__init__.py").write_text("import torchmetrics.nowhere\\n")
(folder / "metric.py").write_text("class Metric: pass\\n")
sys.path.insert(0, str(folder.parent))
postpone()
from torchmetrics import Metric
import torchmetrics
print(json.dumps([Metric is torchmetrics.metric.Metric, torchmetrics.NAMES]))
"""
    assert fresh(code) == [True, 1]
