"""DeepSpeed's ZeRO under Lightning: whole gradients in, whole and named states out.

DeepSpeed takes averaging, clipping and the update over from Lightning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_train.errors import UserError
from sam_train.model.encoders.base import Unit
from sam_train.model.mask_decoder import MaskDecoder
from sam_train.model.prompt_encoder import PromptEncoder


class ZeroPrecision(DeepSpeedPrecision):
    """float32 weights under autocast, as with the other strategies.

    DeepSpeed's own bf16 mode rounds norms, position codes and the image's normalisation, too.
    """

    def __init__(self, precision: str, *, device: str) -> None:
        # So that Lightning tells DeepSpeed nothing of bf16, and casts neither model nor batch.
        super().__init__("32-true")
        self._autocast = torch.bfloat16 if precision == "bf16-mixed" else None
        self._device = device

    def forward_context(self) -> AbstractContextManager[Any]:
        """Open autocast for the model's forward passes."""
        if self._autocast is None:
            return super().forward_context()
        return torch.autocast(self._device, self._autocast)

    def backward(  # type: ignore[override]
        self, tensor: Tensor, model: LightningModule, optimizer: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Go back without dividing by the number of micro-batches, as Lightning did already."""
        engine: Any = model.trainer.model
        engine.backward(tensor, *args, scale_wrt_gas=False, **kwargs)


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy; on CPU processes too, to try a recipe without GPUs."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config=config)

    @property
    def _on_cpu(self) -> bool:
        return isinstance(self.accelerator, CPUAccelerator)

    @property
    def root_device(self) -> torch.device:
        """The process's device; Lightning's CPU devices have no index, DeepSpeed wants one."""
        device = super().root_device
        return torch.device("cpu", self.local_rank) if device.type == "cpu" else device

    def setup_environment(self) -> None:
        """Set up as Lightning does, which would refuse CPUs."""
        # Hundreds of them come from DeepSpeed's own calls; that it clips is wanted.
        warnings.filterwarnings("ignore", message=".*`torch.distributed.* is deprecated.*")
        warnings.filterwarnings("ignore", message=".*handles gradient clipping internally.*")
        # ZeRO 3 replaces it for the whole process; `teardown` puts it back.
        self._linear = torch.nn.functional.linear
        self._spare_kept_products()
        if self._on_cpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
            import deepspeed  # noqa: PLC0415 - it chooses its accelerator when imported

            # Its own all-reduce would be compiled first, which takes a compiler and minutes.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            # The class above the one that refuses.
            DDPStrategy.setup_environment(self)
        else:
            super().setup_environment()

    def teardown(self) -> None:
        """Close as Lightning does, and restore torch for the rest of this process."""
        super().teardown()
        torch.nn.functional.linear = self._linear

    def _spare_kept_products(self) -> None:
        """Use torch's own linear layers where recomputation is selective.

        ZeRO 3's add the bias in place, to products that were kept for the backward pass. There it
        would be added once more, and gradients would be wrong. They exist to let go of a block's
        whole weights after its forward pass, which recomputation does anyway.
        """
        assert self.lightning_module is not None
        units = (m for m in self.lightning_module.modules() if isinstance(m, Unit))
        if any(unit.recompute == "selective" for unit in units):
            assert isinstance(self.config, dict)
            self.config.setdefault("zero_optimization", {})["memory_efficient_linear"] = False

    def setup_distributed(self) -> None:
        """Set up as Lightning does, which would look for GPU numbers."""
        if not self._on_cpu:
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step through DeepSpeed's forward pass, with autocast opened inside of it.

        On GPUs DeepSpeed's forward pass ends what is open around it, so Lightning's way is shut.
        """
        module, engine = self.lightning_module, self.model
        assert module is not None
        assert engine is not None
        return self._forward_redirection(engine, module, "step_under_autocast", *args, **kwargs)

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Step as Lightning does, then give the module the norm that DeepSpeed clipped by."""
        result = super().optimizer_step(optimizer, closure, model, **kwargs)
        module: Any = self.lightning_module
        # None before DeepSpeed's first update.
        if (norm := self.deepspeed_engine.get_global_grad_norm()) is not None:
            module.last_grad_norm = torch.as_tensor(norm)
        # DeepSpeed does so behind an update, but not behind one that it skips.
        self._bring_back()
        return result

    def _bring_back(self) -> None:
        """Restore the weights that every rank holds whole under ZeRO 3, if something took them."""
        zero = self.deepspeed_engine.optimizer
        if self.zero_stage_3 and zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    def _setup_model_and_optimizer(self, model: nn.Module, *optimizer: Any) -> Any:
        """Set up as Lightning does; under ZeRO 3 split the encoder by units alone."""
        import deepspeed  # noqa: PLC0415 - an extra

        if self.zero_stage_3:
            units = {type(m) for m in model.modules() if isinstance(m, Unit)}
            # As leaves, units are fetched in one piece each: one message a unit, not one a weight.
            deepspeed.utils.set_z3_leaf_modules(model, list(units))
        engine, zero = super()._setup_model_and_optimizer(model, *optimizer)
        if self.zero_stage_3:
            _keep_whole(zero, [m for m in model.modules() if isinstance(m, WHOLE)])
        return engine, zero

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: Lightning hands the optimizer's state to `load_optimizer_state_dict`."""
        return True

    def _parameters(self) -> list[nn.Parameter]:
        """List the trained parameters in the order of their numbers in a checkpoint."""
        module: Any = self.lightning_module
        return [module.get_parameter(name) for group in module.optimizer_names for name in group]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the model's whole tensors on the first rank; a collective."""
        return self.whole_weights(everywhere=False)

    @property
    def splits_weights(self) -> bool:
        """True where a forward pass needs all ranks at once."""
        return bool(self.zero_stage_3)

    def whole_weights(self, *, everywhere: bool) -> dict[str, Tensor]:
        """Gather the model's whole tensors on every rank, or in the first one's CPU memory."""
        assert self.lightning_module is not None
        whole = {}
        for name, value in self.lightning_module.state_dict(keep_vars=True).items():
            # Every rank opens it, in the same order: gathering is a collective.
            with self._gathered(value):
                if not (everywhere or self.is_global_zero):
                    continue
                whole[name] = value.detach()
                if self.zero_stage_3:
                    # One at a time: a card that holds its part only has no room for all of them.
                    place = value.device if everywhere else torch.device("cpu")
                    whole[name] = value.detach().to(place, copy=True)
        self._bring_back()
        return whole

    def _gathered(self, value: Tensor, *, write: bool = False) -> AbstractContextManager[Any]:
        import deepspeed  # noqa: PLC0415 - an extra

        # Buffers, and all weights of ZeRO 1 and 2, are whole already.
        if not hasattr(value, "ds_id"):
            return nullcontext()
        gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
            # With a writer DeepSpeed sends the first rank's values to all when it closes.
            [value],
            modifier_rank=0 if write else None,
        )
        return gathered

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather the state as torch's optimizer has it, on the first rank; a collective."""
        from deepspeed.utils import safe_get_full_optimizer_state  # noqa: PLC0415 - an extra

        inner = _inner(optimizer)
        flat = [moments for moments in inner.state.values() if moments]
        if flat:
            self._link_moments()
        state: dict[int, dict[str, Any]] = {}
        for number, parameter in enumerate(self._parameters() if flat else []):
            whole: dict[str, Any] = {
                key: value.detach().clone()
                # The step counter, which DeepSpeed has once per flat part and torch once per
                # parameter.
                if value.ndim == 0
                else safe_get_full_optimizer_state(parameter, key).cpu()
                for key, value in flat[0].items()
            }
            if self.is_global_zero:
                state[number] = whole
        module: Any = self.lightning_module
        groups, first = [], 0
        for names, group in zip(module.optimizer_names, inner.param_groups, strict=True):
            # The inner groups hold one flat tensor each; a checkpoint lists parameters.
            numbers = list(range(first, first + len(names)))
            first += len(numbers)
            groups.append(
                {key: value for key, value in group.items() if key != "params"}
                | {"params": numbers}
            )
        return {"state": state, "param_groups": groups}

    def _link_moments(self) -> None:
        """Let ZeRO 1 and 2 find each parameter's moments.

        DeepSpeed does so behind the first update of the first optimizer group, when the others
        have no moments yet.
        """
        zero = self.deepspeed_engine.optimizer
        if not self.zero_stage_3:
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Read one file for all ranks, each of which takes its part of every tensor."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy whole tensors into the model and into DeepSpeed's own copy of its part."""
        assert self.lightning_module is not None
        own, stored = self.lightning_module.state_dict(keep_vars=True), checkpoint["state_dict"]
        if strict and own.keys() != stored.keys():
            raise RuntimeError(f"other tensors: {sorted(own.keys() ^ stored.keys())}")
        for name, value in own.items():
            if name in stored:
                with self._gathered(value, write=True):
                    value.data.copy_(stored[name])
        self._bring_back()
        # Its own float32 copy would overwrite what was just loaded at the first update.
        self.deepspeed_engine.optimizer.refresh_fp32_params()

    @torch.no_grad()
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Copy whole moments into the flat parts that DeepSpeed keeps."""
        from deepspeed.utils import safe_set_full_optimizer_state  # noqa: PLC0415 - an extra

        (state,) = checkpoint["optimizer_states"]
        zero = self.deepspeed_engine.optimizer
        inner = _inner(zero)
        for group, saved in zip(inner.param_groups, state["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        if not state["state"]:
            return
        moments = state["state"][0]
        for flat in _flat_parts(zero):
            # Empty moments of the flat part's size, into which the loop below writes each
            # parameter's.
            inner.state[flat] = {
                key: value.to(flat.device, copy=True) if value.ndim == 0 else torch.zeros_like(flat)
                for key, value in moments.items()
            }
        self._link_moments()
        for number, parameter in enumerate(self._parameters()):
            for key, value in state["state"][number].items():
                if value.ndim or moments[key].ndim:
                    safe_set_full_optimizer_state(parameter, value.to(self.root_device), key)


WHOLE = (PromptEncoder, MaskDecoder)


def _keep_whole(zero: Any, modules: list[nn.Module]) -> None:
    """Keep weights whole on every rank under ZeRO 3; their parts are gathered after each step."""
    parameters: list[Any] = [p for module in modules for p in module.parameters()]
    for parameter in parameters:
        if not parameter.ds_persist:
            parameter.ds_persist = True
            zero.persistent_parameters.append(parameter)
    parameters[0].all_gather(parameters)
    for part in (part for module in modules for part in module.modules()):
        # DeepSpeed's hooks fetch and release weights in a recorded order. Rounds differ from step
        # to step, and each has a backward pass of its own within the forward pass.
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()


def _inner(zero: Any) -> Any:
    """Return torch's optimizer inside DeepSpeed's (and that inside Lightning's)."""
    zero = getattr(zero, "_optimizer", zero)
    return zero.optimizer


def _flat_parts(zero: Any) -> list[Tensor]:
    """List this rank's parts of the weights, as torch's optimizer sees them."""
    # ZeRO 3's name, then that of ZeRO 1 and 2.
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
        if hasattr(zero, name):
            return list(getattr(zero, name))
    raise UserError("trainer.deepspeed: only ZeRO 1, 2 and 3 can go on from a checkpoint")
