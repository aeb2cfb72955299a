"""Foreign checkpoint layouts to ours and back: pure functions from names to tensors.

Our names are segment-anything's, so its checkpoints need no conversion at all. The functions here
rename, join and fold; they know nothing of files (`weight_files.py`) nor of the model that will
receive the tensors (`init.py`), and what they leave out they name, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

ENCODER = "image_encoder"
MODULES = (ENCODER, "prompt_encoder", "mask_decoder")

StateDict = dict[str, Tensor]


@dataclass(slots=True, kw_only=True)
class Conversion:
    """A foreign state dict in our names."""

    tensors: StateDict
    """Our names; shapes are still the source's (position table, patch size)."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Source name -> why it was left out. Together with `tensors` nothing is unaccounted for."""
    notes: list[str] = field(default_factory=list)
    """The tensors that were folded or joined on the way, for the report."""


# Official SAM -----------------------------------------------------------------------------------

_PIXEL_BUFFERS = ("pixel_mean", "pixel_std")


def from_official(state: Mapping[str, Tensor]) -> Conversion:
    """Take segment-anything's names, which are ours, without the additions of a wrapper.

    Those are a prefix such as `sam.` or `module.`, and torch.compile's `_orig_mod.`.
    """
    prefix = _common_prefix(state, [f"{module}." for module in MODULES])
    tensors: StateDict = {}
    skipped: dict[str, str] = {}
    for name, tensor in state.items():
        ours = name.removeprefix(prefix).replace("_orig_mod.", "")
        if not name.startswith(prefix):
            skipped[name] = "outside the model"
        elif ours in _PIXEL_BUFFERS:
            # Mean and deviation of pixels, which older files store.
            skipped[name] = "constant of the model"
        else:
            tensors[ours] = tensor
    return Conversion(tensors=tensors, skipped=skipped)


def _common_prefix(state: Mapping[str, Tensor], anchors: list[str]) -> str:
    """Find the text before the first anchor in the first name that has one, else ""."""
    for name in state:
        for anchor in anchors:
            at = name.find(anchor)
            # Between dots only: `my_mask_decoder.` is no anchor.
            if at == 0 or (at > 0 and name[at - 1] == "."):
                return name[:at]
    return ""


# Hugging Face SamModel --------------------------------------------------------------------------

# (ours, theirs) per module, matched between dots. The order matters: Hugging Face calls both the
# neck's and the blocks' norms `layer_norm1`, so the longer name has to be consumed first.
_HF_NAMES: dict[str, list[tuple[str, str]]] = {
    "image_encoder": [
        ("neck.0", "neck.conv1"),
        ("neck.1", "neck.layer_norm1"),
        ("neck.2", "neck.conv2"),
        ("neck.3", "neck.layer_norm2"),
        ("patch_embed.proj", "patch_embed.projection"),
        ("blocks", "layers"),
        ("norm1", "layer_norm1"),
        ("norm2", "layer_norm2"),
    ],
    "prompt_encoder": [
        (
            "pe_layer.positional_encoding_gaussian_matrix",
            "shared_embedding.positional_embedding",
        ),
        ("point_embeddings", "point_embed"),
        ("mask_downscaling.0", "mask_embed.conv1"),
        ("mask_downscaling.1", "mask_embed.layer_norm1"),
        ("mask_downscaling.3", "mask_embed.conv2"),
        ("mask_downscaling.4", "mask_embed.layer_norm2"),
        ("mask_downscaling.6", "mask_embed.conv3"),
    ],
    "mask_decoder": [
        ("output_upscaling.0", "upscale_conv1"),
        ("output_upscaling.1", "upscale_layer_norm"),
        ("output_upscaling.3", "upscale_conv2"),
        ("norm_final_attn", "layer_norm_final_attn"),
        ("norm1", "layer_norm1"),
        ("norm2", "layer_norm2"),
        ("norm3", "layer_norm3"),
        ("norm4", "layer_norm4"),
    ],
}
_HF_MODULES = {
    "image_encoder": "vision_encoder",
    "prompt_encoder": "prompt_encoder",
    "mask_decoder": "mask_decoder",
}
# The MLP heads have three layers in both; one simultaneous table, because 0 -> 1 -> 2 chains.
_HF_HEAD = {"layers.0": "proj_in", "layers.1": "layers.0", "layers.2": "proj_out"}
_HEAD = re.compile(
    r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\."
    r"(layers\.\d+|proj_in|proj_out)\.(\w+)$"
)
_GAUSSIAN = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_HF_SHARED = "shared_image_embedding.positional_embedding"


def to_huggingface(state: Mapping[str, Tensor]) -> StateDict:
    """Rename ours to Hugging Face's `SamModel`, bit for bit.

    Hugging Face keeps the random Fourier matrix twice, under the prompt encoder and beside it.

    Note that `SamMaskDecoderConfig.layer_norm_eps` defaults to 1e-6 where segment-anything (and
    this project) has 1e-5 in the two-way transformer: set it to 1e-5 for equal outputs.
    """
    tensors = {_rename(name, to_hf=True): tensor for name, tensor in state.items()}
    if _GAUSSIAN in state:
        tensors[_HF_SHARED] = state[_GAUSSIAN]
    return tensors


def from_huggingface(state: Mapping[str, Tensor]) -> Conversion:
    """Rename Hugging Face's `SamModel` to ours, bit for bit.

    Raises:
        ValueError: the two copies of the random Fourier matrix differ.
    """
    anchors = [f"{module}." for module in _HF_MODULES.values()]
    prefix = _common_prefix(state, anchors)
    tensors: StateDict = {}
    skipped: dict[str, str] = {}
    for full_name, tensor in state.items():
        name = full_name.removeprefix(prefix)
        if name != _HF_SHARED:
            tensors[_rename(name, to_hf=False)] = tensor
    shared = state.get(prefix + _HF_SHARED)
    # The matrix is one tensor here: prompts and image share their positions.
    if shared is not None:
        # Either copy may be missing. Two that differ would place points and image differently.
        if not torch.equal(tensors.setdefault(_GAUSSIAN, shared), shared):
            raise ValueError(f"{_HF_SHARED} differs from its copy in the prompt encoder")
        skipped[prefix + _HF_SHARED] = "same as the prompt encoder's"
    return Conversion(tensors=tensors, skipped=skipped)


def _rename(name: str, *, to_hf: bool) -> str:
    if head := _HEAD.match(name):
        table = _HF_HEAD if to_hf else {theirs: ours for ours, theirs in _HF_HEAD.items()}
        layer = table.get(head[2])
        return f"{head[1]}.{layer}.{head[3]}" if layer else name
    for ours, theirs in _HF_MODULES.items():
        old, new = (ours, theirs) if to_hf else (theirs, ours)
        if not name.startswith(f"{old}."):
            continue
        # A dot at either end, so that the last part is matched whole, too.
        inner = name[len(old) :] + "."
        for a, b in _HF_NAMES[ours]:
            source, target = (a, b) if to_hf else (b, a)
            inner = inner.replace(f".{source}.", f".{target}.")
        return new + inner[:-1]
    return name


# MAE --------------------------------------------------------------------------------------------

_MAE_SKIPPED = (
    (re.compile(r"^cls_token$"), "class token"),
    (re.compile(r"^mask_token$"), "MAE's mask token"),
    (re.compile(r"^decoder_"), "MAE's decoder"),
    (re.compile(r"^(fc_)?norm\."), "final norm; SAM's neck follows"),
    (re.compile(r"^head\."), "classifier"),
)


_MAE_NAMES = re.compile(
    r"^patch_embed\.proj\.|^blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)$"
)


def from_mae(state: Mapping[str, Tensor]) -> Conversion:
    """Rename an official MAE checkpoint (timm's ViT names, fine-tuned or not) to ours (§A).

    Only the image encoder without its neck and relative positions. The class token and its entry
    in the position table are dropped; the table becomes [1, h, w, D].

    Raises:
        ValueError: the position table is not a square grid with one class token, or a name is
            not a plain ViT's (the output would not be that ViT's without it).
    """
    result = Conversion(tensors={})
    for name, tensor in state.items():
        reason = next((why for pattern, why in _MAE_SKIPPED if pattern.match(name)), None)
        if reason is not None:
            result.skipped[name] = reason
        elif name == "pos_embed":
            result.tensors[f"{ENCODER}.pos_embed"] = _grid_of_positions(tensor)
        elif _MAE_NAMES.match(name):
            ours = name.replace(".mlp.fc", ".mlp.lin")
            result.tensors[f"{ENCODER}.{ours}"] = tensor
        else:
            raise ValueError(f"{name} is not in an MAE encoder; this is another kind of ViT")
    return result


def _grid_of_positions(table: Tensor) -> Tensor:
    """Drop the class token, which is first: [1, 1 + n*n, D] -> [1, n, n, D]."""
    side = round((table.shape[1] - 1) ** 0.5) if table.dim() == 3 else 0
    if side < 1 or side * side + 1 != table.shape[1]:
        raise ValueError(
            f"the position table is {list(table.shape)}, not [1, 1 + n*n, D] with a class token"
        )
    # Row by row, as patches are numbered.
    return table[:, 1:].reshape(1, side, side, table.shape[2])


# DINOv2 -----------------------------------------------------------------------------------------

_DINOV2_SKIPPED = {
    "embeddings.cls_token": "class token",
    "embeddings.mask_token": "DINOv2's mask token",
    "embeddings.register_tokens": "register tokens",
    "layernorm.weight": "final norm; SAM's neck follows",
    "layernorm.bias": "final norm; SAM's neck follows",
}
_DINOV2_NAMES = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.lin1",
    "mlp.fc2": "mlp.lin2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",  # transformers >= 5
}
_DINOV2_QKV = (
    ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),  # transformers >= 5
)
# LayerScale multiplies what a residual branch adds, so it is one factor per output row of the
# branch's last linear layer.
_DINOV2_SCALED = {"layer_scale1.lambda1": "attn.proj", "layer_scale2.lambda1": "mlp.lin2"}
_DINOV2_PATCH = "embeddings.patch_embeddings.projection."
_DINOV2_LAYER = re.compile(r"^encoder\.layer\.(\d+)\.(.+)$")


def from_dinov2(state: Mapping[str, Tensor]) -> Conversion:
    """Rename Hugging Face's `Dinov2Model` to ours.

    Only the image encoder without its neck and relative positions.

    q, k and v become one matrix, LayerScale is folded into the last linear layer of its branch
    (in float32), the class token is dropped. The patch size stays the source's; see
    `resize_patch_kernel`.

    Raises:
        ValueError: q, k or v of a block is missing, the position table is not a square grid, or
            a name is not of DINOv2 with a plain MLP (the "giant" has a gated one).
    """
    prefix = _common_prefix(state, ["embeddings.patch_embeddings."])
    result = Conversion(tensors={})
    layers: dict[int, StateDict] = {}
    for full_name, tensor in state.items():
        name = full_name.removeprefix(prefix)
        if match := _DINOV2_LAYER.match(name):
            layers.setdefault(int(match[1]), {})[match[2]] = tensor
        elif name in _DINOV2_SKIPPED:
            result.skipped[full_name] = _DINOV2_SKIPPED[name]
        elif name == "embeddings.position_embeddings":
            result.tensors[f"{ENCODER}.pos_embed"] = _grid_of_positions(tensor)
        elif name.startswith(_DINOV2_PATCH):
            ours = name.removeprefix(_DINOV2_PATCH)
            result.tensors[f"{ENCODER}.patch_embed.proj.{ours}"] = tensor
        elif name.startswith("classifier."):
            result.skipped[full_name] = "classifier"
        else:
            raise ValueError(f"{full_name} is not in a DINOv2 ViT; this is another model")
    folded = 0
    for index, layer in sorted(layers.items()):
        folded += any(name in layer for name in _DINOV2_SCALED)
        block = _dinov2_block(layer, index=index)
        result.tensors |= {f"{ENCODER}.blocks.{index}.{k}": v for k, v in block.items()}
    if folded:
        result.notes.append(f"LayerScale of {folded} blocks folded into attn.proj and mlp.lin2")
    if layers:
        result.notes.append(f"q, k, v of {len(layers)} blocks joined into attn.qkv")
    return result


def _dinov2_block(layer: StateDict, *, index: int) -> StateDict:
    block: StateDict = {}
    rest = dict(layer)
    for kind in ("weight", "bias"):
        for names in _DINOV2_QKV:
            # Taken out: what is left over has no place in SAM's block.
            parts = [rest.pop(f"{name}.{kind}", None) for name in names]
            found = [part for part in parts if part is not None]
            if len(found) == len(parts):
                # In this order, by rows, as segment-anything splits them again.
                block[f"attn.qkv.{kind}"] = torch.cat(found)
            elif found:
                raise ValueError(f"block {index} holds only some of q, k and v ({kind})")
    for name, tensor in rest.items():
        if name not in _DINOV2_SCALED:
            stem, _, kind = name.rpartition(".")
            if stem not in _DINOV2_NAMES:
                raise ValueError(f"block {index} holds {name}, which SAM's ViT has no place for")
            block[f"{_DINOV2_NAMES[stem]}.{kind}"] = tensor
    for name, target in _DINOV2_SCALED.items():
        scale = rest.get(name)
        for kind in ("weight", "bias"):
            key = f"{target}.{kind}"
            if scale is not None and key in block:
                # Folded in float32: a product of two bfloat16 would be rounded once more.
                value = block[key].float()
                factor = scale.float()
                block[key] = value * (factor[:, None] if value.dim() == 2 else factor)
    return block


# Other sizes ------------------------------------------------------------------------------------


def resize_position_table(table: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize absolute positions [1, h, w, D] -> [1, *size, D], bicubic in float32.

    Antialiased where it shrinks (an official 1024 checkpoint at 512): the table's finest waves
    would otherwise fold into wrong positions. Enlarging is plain bicubic, as MAE and DINOv2 do.
    """
    grid = table.float().permute(0, 3, 1, 2)
    # Either axis: antialiasing is for both or none in torch.
    shrinks = size[0] < grid.shape[2] or size[1] < grid.shape[3]
    grid = F.interpolate(grid, size, mode="bicubic", align_corners=False, antialias=shrinks)
    return grid.permute(0, 2, 3, 1).contiguous()


def resize_relative_positions(table: Tensor, length: int) -> Tensor:
    """Resize relative positions [2q - 1, d] -> [length, d], linearly.

    As segment-anything's `get_rel_pos` when the table does not fit; distance zero stays in the
    middle.
    """
    rows = table.float().t()[None]
    return F.interpolate(rows, size=length, mode="linear")[0].t().contiguous()


def widen_patch_kernel(kernel: Tensor, channels: int) -> Tensor:
    """Make a patch kernel for `channels` bands of one for RGB: [D, 3, p, p] to [D, channels, p, p].

    Each band gets the mean of the three, times 3 / channels: a photo whose bands are all equal
    gives the tokens that it gave as grey RGB.
    """
    mean = kernel.mean(dim=1, keepdim=True)
    return mean.repeat(1, channels, 1, 1) * (3 / channels)


def resize_patch_kernel(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a patch embedding [D, 3, p, p] -> [D, 3, *size] by the pseudo-inverse.

    After FlexiViT (arXiv 2212.08013, §3.4).

    With R the matrix of bilinear resizing a p x p patch to `size`, the new kernel w' solves R^T w'
    = w in the least-squares sense. An enlarged patch then gives the embedding that the patch itself
    gave, exactly so where `size` is larger. Plain resizing of the kernel would change the scale of
    the embeddings by the ratio of areas.
    """
    p, q = kernel.shape[2:]
    # float64: the pseudo-inverse of a large kernel would lose digits that show in float32.
    basis = torch.eye(p * q, dtype=torch.float64).reshape(p * q, 1, p, q)
    resize = F.interpolate(basis, size, mode="bilinear", align_corners=False)
    inverse = torch.linalg.pinv(resize.reshape(p * q, -1))  # of R^T: [size, p * q]
    flat = kernel.double().reshape(*kernel.shape[:2], p * q)
    resized: Tensor = flat @ inverse.t()
    return resized.reshape(*kernel.shape[:2], *size).float()
