"""An emulated accelerator: tensors with values, on a torch without CUDA, that do not mix with the CPU's.

A tensor on device ``emu`` wraps a CPU tensor. As on a GPU, an operation that mixes it with a CPU tensor fails, reading
a value back waits for the device (a sync), and computing launches a kernel; both are counted. What torch lists as
having no deterministic form on CUDA fails too. Import this only in a process of its own (`scene.in_fork`): it
registers a backend and changes torch.

What it cannot show: autocast does nothing, attention takes torch's plain path, and branches on ``cuda`` stay dark.
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten


class Backend:
    """What torch asks of a device's module."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass


backend_registration._setup_privateuseone_for_python_backend("emu", backend_module=Backend)
DEVICE = torch.device("emu", 0)

# Views and allocations launch nothing.
FREE = set(
    """
    detach lift_fresh alias view _unsafe_view t transpose permute expand slice select unsqueeze squeeze split
    unbind as_strided empty empty_like empty_strided split_with_sizes is_same_size new_empty new_empty_strided _reshape_alias unfold diagonal set_
    """.split()  # noqa: SIM905
)
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "is_nonzero"}
INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"}
# torch.use_deterministic_algorithms: what raises on CUDA, as far as language models could meet it.
REFUSED = {"histc", "kthvalue", "median", "nll_loss2d_forward", "put_", "grid_sampler_2d", "logcumsumexp", "_ctc_loss"}
REFUSED_FLOAT = {"cumsum", "bincount"}


class Tally:
    """Counts since the last `reset`, and where in the library syncs happened."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.kernels: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    def wait(self) -> None:
        """Note a sync by the line of the library that caused it."""
        for frame in reversed(traceback.extract_stack()):
            if "/isotone/" in frame.filename or "/transformers/" in frame.filename:
                self.syncs[f"{frame.filename.split('/isotone/')[-1].split('site-packages/')[-1]}:{frame.name}"] += 1
                return
        self.syncs["elsewhere"] += 1


TALLY = Tally()


class Emulated(torch.Tensor):
    """A tensor on the emulated device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Emulated:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_: Any) -> str:
        return f"Emulated({self.inner!r})"

    def tolist(self) -> Any:
        TALLY.wait()
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("an emulated tensor is not the CPU's: say .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(function, args, kwargs or {})


def on_emulated(device: Any) -> bool:
    return device is not None and torch.device(device).type == "emu"


def _bare(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "emu" else value
    return value.inner if isinstance(value, Emulated) else value


def _wrap(value: Any) -> Any:
    return Emulated(value) if isinstance(value, torch.Tensor) and not isinstance(value, Emulated) else value


def _changed(function: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that an operation writes to."""
    names = [
        argument for argument in function._schema.arguments if argument.alias_info and argument.alias_info.is_write
    ]
    places = {argument.name: index for index, argument in enumerate(function._schema.arguments)}
    return [
        args[places[argument.name]] if places[argument.name] < len(args) else kwargs[argument.name]
        for argument in names
    ]


def _check_mixture(function: Any, name: str, args: Any, host: list[torch.Tensor]) -> None:
    """Fail as CUDA would: only scalars may come from the CPU, and indices, which are sent over."""
    fine = all(value.dim() == 0 for value in host) and (torch.Tag.pointwise in function.tags or "fill" in name)
    if name in INDEXING:
        values = args[2] if len(args) > 2 else None
        fine = isinstance(args[0], Emulated) and (values is None or isinstance(values, Emulated) or values.dim() == 0)
    if not fine:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found emu:0 and cpu in {function}")


def _count(function: Any, name: str, args: Any) -> None:
    if name in REFUSED or (name in REFUSED_FLOAT and args[0].is_floating_point()):
        raise RuntimeError(f"{function} has no deterministic form on CUDA")
    masks = name in INDEXING and any(
        isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1] if index is not None
    )
    if masks or name in WAITING:
        TALLY.wait()
    elif name not in FREE:
        TALLY.kernels[name] += 1


def execute(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, wherever its tensors are."""
    name = function._schema.name.split("::")[1]
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    here = [value for value in tensors if isinstance(value, Emulated)]
    host = [value for value in tensors if not isinstance(value, Emulated)]
    device = kwargs.get("device")
    if device is None:
        device = next((value for value in args if isinstance(value, torch.device)), None)
    if not here and not on_emulated(device):
        return function(*args, **kwargs)
    bare = {key: _bare(torch.device(value)) if key == "device" and value else value for key, value in kwargs.items()}
    bare = tree_map(_bare, bare)
    bare.pop("pin_memory", None)
    if name in ("_to_copy", "to"):
        made = function(*tree_map(_bare, args), **bare)
        stays = on_emulated(device) if device is not None else bool(here)
        if here and not stays:
            TALLY.wait()
        elif here:
            TALLY.kernels[name] += 1
        return Emulated(made) if stays else made
    if name in ("copy_", "copy"):
        function(*tree_map(_bare, args), **bare)
        if isinstance(args[1], Emulated) and not isinstance(args[0], Emulated):
            TALLY.wait()
        else:
            TALLY.kernels[name] += 1
        return args[0]
    if here and host:
        _check_mixture(function, name, args, host)
    _count(function, name, args)
    made = function(*tree_map(_bare, args), **bare)
    if changed := _changed(function, args, kwargs):
        count = len(function._schema.returns)
        return None if count == 0 else changed[0] if count == 1 else tuple(changed[:count])
    if device is not None and not on_emulated(device):
        return made
    return tree_map(_wrap, made)


class Emulation(TorchDispatchMode):
    """While it lasts, factories with ``device="emu"`` make emulated tensors."""

    def __enter__(self) -> Any:
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(data, device=...) then goes through `to`
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(False)
        super().__exit__(*details)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(function, args, kwargs or {})


torch.Tensor.pin_memory = lambda self, device=None: self  # type: ignore[method-assign]
torch.inference_mode = lambda mode=True: torch.no_grad()  # type: ignore[assignment, misc] # wrappers cannot be inference tensors


def move(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its parameters and buffers on the emulated device; what is tied stays tied."""
    moved: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None and not isinstance(value, Emulated):
                if id(value) not in moved:
                    held = Emulated(value.detach().clone())
                    moved[id(value)] = torch.nn.Parameter(held, requires_grad=value.requires_grad)
                module._parameters[name] = moved[id(value)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and not isinstance(buffer, Emulated):
                module._buffers[name] = Emulated(buffer.detach().clone())
    return model


def back(value: Any) -> Any:
    """A tensor, or a model's state, as the CPU holds it."""
    return tree_map(_bare, value)
