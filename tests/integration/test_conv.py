"""The quick start with the convolutional encoder: trained, resumed, evaluated, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sam_train.cli import main


def test_a_run_with_another_encoder_from_fit_to_export(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tiny.pack(tmp_path / "sa_000000.tar", tiny.good(4))
    run_dir = tmp_path / "run"
    overrides = [
        *("+experiment=quickstart", *tiny.settings[1:], "model=conv_t", "model.drop_path=0.1"),
        *("model.checkpoint_blocks=selective", "optim.frozen_blocks=1", "optim.tune=norm_bias"),
        *(f"data.train={shards}", f"data.val={shards}", f"run_dir={run_dir}"),
        *("callbacks.validation.images=2", "callbacks.validation.clicks=[1,2]"),
    ]
    main(["fit", *overrides, "trainer.max_steps=1"])
    begun = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    main(["fit", *overrides])
    last = run_dir / "checkpoints" / "last.ckpt"
    ended = torch.load(last, weights_only=True)["state_dict"]
    moved = {name for name in ended if not torch.equal(ended[name], begun[name])}
    assert "sam.image_encoder.layers.1.norm.weight" in moved
    assert not any(
        "patch_embed" in n or "layers.0." in n or "lin1.weight" in n
        for n in moved
        if "image_encoder" in n
    )

    main(
        [
            "validate",
            f"ckpt={last}",
            f"data.val={shards}",
            "trainer.accelerator=cpu",
            "callbacks.validation.clicks=[1]",
            f"run_dir={tmp_path / 'val'}",
        ]
    )
    for name in ("model.safetensors", "model.onnx"):
        main(["export", f"ckpt={last}", f"out={tmp_path / name}"])
        assert "read back by" in capsys.readouterr().out
    for out in ("model.pth", "hf"):
        with pytest.raises(SystemExit):
            main(["export", f"ckpt={last}", f"out={tmp_path / out}"])
        assert "know SAM's ViT only, and model.name=conv_t" in capsys.readouterr().err
