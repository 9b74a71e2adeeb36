"""A GPU that is not there: tensors that say cuda:0, obey CUDA's rules on devices, and compute on the CPU.

    with DryGPU(count=2) as gpu:
        model.to("cuda:0")
        with gpu.stage("score"):
            ...
        gpu.stages["score"].launches, .syncs, .copies, .attention, .peak

With `values=False` floating-point tensors have a shape and no values, so that models of published sizes fit into any
machine; integers and booleans stay real, as they decide the control flow. What is not there: kernels and how they
round, the allocator, streams, and backward passes.
"""

import os
import sys
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

aten = torch.ops.aten
ROOT = Path(__file__).parents[1]
OURS = tuple(f"{ROOT / name}/" for name in ("flexselect", "lightning_modules", "datamodules"))
MEMORY = 80 * 10**9
SYNCS = {  # operations whose result, or its shape, the CPU waits for
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.is_nonzero.default,
    aten.repeat_interleave.Tensor,
}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
FREE = {aten.detach.default, aten.alias.default, aten._unsafe_view.default, aten.lift_fresh.default}
FREE |= {aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default}
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default}
MIXED = {aten.copy_.default, aten._to_copy.default}  # operations that may see two devices


class DryTensor(torch.Tensor):
    """A tensor that says it is on a GPU; `held` has its values, or its shape alone."""

    @staticmethod
    def __new__(cls, held, device, token):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )

    def __init__(self, held, device, token):
        self.held, self.token = held, token

    def __repr__(self):
        return f"DryTensor({self.held}, device={self.device})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a tensor of a GPU that is gone")


class _Bytes:
    """Counts a storage as live while a tensor uses it."""

    def __init__(self, gpu, device, storage):
        self.gpu, self.device, self.key = gpu, device, storage._cdata
        gpu._allocate(device, self.key, storage.nbytes())

    def __del__(self):
        self.gpu._free(self.device, self.key)


@dataclass
class Attention:
    """One call of scaled_dot_product_attention."""

    query: tuple
    key: tuple
    mask: tuple | None
    causal: bool
    dtype: torch.dtype
    cudnn: bool  # whether cuDNN's kernel may be chosen
    blind: bool  # whether a row of the mask allows nothing
    line: str


@dataclass
class Stage:
    """What was done between two moments."""

    launches: int = 0
    syncs: list = field(default_factory=list)  # source lines that wait for a value
    pauses: list = field(default_factory=list)  # source lines that wait for all work
    copies: list = field(default_factory=list)  # (from, to, bytes, source line)
    attention: list = field(default_factory=list)
    float32: Counter = field(default_factory=Counter)  # matrix products in float32, by class and function
    peak: dict = field(default_factory=dict)  # bytes by device


class DryGPU:
    """See the top of this file."""

    def __init__(self, count=1, values=True):
        self.count, self.values = count, values
        self.live, self._uses, self._sizes = defaultdict(int), Counter(), {}
        self.stages, self._now = {}, Stage()

    # -- memory

    def _allocate(self, device, key, size):
        self._uses[device, key] += 1
        if self._uses[device, key] == 1:
            self._sizes[device, key] = size
            self.live[str(device)] += size
            self._now.peak[str(device)] = max(self._now.peak.get(str(device), 0), self.live[str(device)])

    def _free(self, device, key):
        self._uses[device, key] -= 1
        if self._uses[device, key] == 0:
            self.live[str(device)] -= self._sizes.pop((device, key))
            del self._uses[device, key]

    # -- tensors

    def wrap(self, real, device):
        """A tensor on a GPU, from one on the CPU or on meta."""
        if not self.values and real.is_floating_point() and not real.is_meta:
            real = torch.empty_strided(real.size(), real.stride(), dtype=real.dtype, device="meta")
        with torch.inference_mode(False):  # else views of weights could not be made
            return DryTensor(real, device, _Bytes(self, device, real.untyped_storage()))

    @contextmanager
    def stage(self, name):
        """Count under a name; a stage may be begun several times."""
        before, self._now = self._now, self.stages.setdefault(name, Stage())
        for device, size in self.live.items():
            self._now.peak[device] = max(self._now.peak.get(device, 0), size)
        try:
            yield self._now
        finally:
            self._now = before

    def __enter__(self):
        assert not torch.cuda.is_available(), "there is a real one"
        torch._C._ensureCUDADeviceGuardSet()
        self._stack = ExitStack()
        properties = SimpleNamespace(total_memory=MEMORY, major=9, minor=0, name="dry", multi_processor_count=132)
        answers = {
            "is_available": lambda: True,
            "device_count": lambda: self.count,
            "current_device": lambda: 0,
            "is_initialized": lambda: True,
            "_lazy_init": lambda: None,
            "set_device": lambda device: None,
            "synchronize": lambda device=None: self._now.pauses.append(line()),
            "empty_cache": lambda: None,
            "get_device_properties": lambda device=None: properties,
            "get_device_capability": lambda device=None: (9, 0),
            "get_device_name": lambda device=None: "dry",
            "mem_get_info": lambda device=None: (MEMORY, MEMORY),
            "memory_reserved": lambda device=None: 0,
            "memory_allocated": lambda device=None: 0,
            "is_bf16_supported": lambda including_emulation=True: True,
            "manual_seed_all": lambda seed: None,
            "device": lambda device: ExitStack(),
        }
        for name, answer in answers.items():
            self._stack.enter_context(patch.object(torch.cuda, name, answer))
        self._stack.enter_context(patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1"))  # modes are of one thread
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        self._stack.enter_context(_Functions(self))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)


def line():
    """The innermost line of this project, else of any library, that is running."""
    frame, outer = sys._getframe(2), None
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(OURS):
            return f"{Path(name).relative_to(ROOT)}:{frame.f_lineno}"
        if (outer is None and "transformers" in name) or "accelerate" in name:
            outer = f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return outer or "elsewhere"


def _function():
    """The innermost function outside PyTorch that is running, with its class, or its module if it has none."""
    frame = sys._getframe(2)
    while f"{os.sep}torch{os.sep}" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
        frame = frame.f_back
    owner = frame.f_locals.get("self")
    name = frame.f_code.co_name
    return f"{frame.f_globals['__name__']}.{name}" if owner is None else f"{type(owner).__name__}.{name}"


def _numbered(value):
    """cuda as cuda:0: the driver would be asked which GPU is the current one."""
    if isinstance(value, torch.device):
        return torch.device("cuda", 0) if value.type == "cuda" and value.index is None else value
    return torch.device("cuda", 0) if isinstance(value, str) and value == "cuda" else value


class _Functions(TorchFunctionMode):
    """What must be caught before PyTorch looks for a driver, or before it chooses an attention kernel."""

    def __init__(self, gpu):
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args = tuple(_numbered(value) for value in args)
        kwargs = {name: _numbered(value) for name, value in (kwargs or {}).items()}
        if func is torch.Tensor.cuda:
            return args[0].to(torch.device("cuda", 0))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            made = args[0] if isinstance(args[0], torch.Tensor) else func(*args, **kwargs)
            return made.to(device=device, dtype=kwargs.get("dtype"))
        if args and isinstance(args[0], DryTensor):
            if func is torch.Tensor.numpy:
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            if func is torch.Tensor.tolist:
                self.gpu._now.syncs.append(line())
                return args[0].held.tolist()
            if func is torch.nn.functional.scaled_dot_product_attention:
                return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **kwargs):
        if torch.is_autocast_enabled("cuda"):
            query, key, value = (tensor.to(torch.get_autocast_dtype("cuda")) for tensor in (query, key, value))
        tensors = [tensor for tensor in (query, key, value, attn_mask) if tensor is not None]
        places = {str(tensor.device) for tensor in tensors}
        assert len(places) == 1, f"attention on {sorted(places)} at {line()}"
        shape = None if attn_mask is None else tuple(attn_mask.shape)
        blind = attn_mask is not None and not attn_mask.held.is_meta and _is_blind(attn_mask.held)
        shapes, cudnn = (tuple(query.shape), tuple(key.shape), shape), torch.backends.cuda.cudnn_sdp_enabled()
        call = Attention(*shapes, is_causal, query.dtype, cudnn, blind, line())
        self.gpu._now.attention.append(call)
        self.gpu._now.launches += 1
        if self.gpu.values:
            real = [None if tensor is None else tensor.held for tensor in (query, key, value, attn_mask)]
            with torch._C.DisableTorchFunction():
                out = torch.nn.functional.scaled_dot_product_attention(
                    *real, dropout_p=dropout_p, is_causal=is_causal, scale=scale, **kwargs
                )
        else:
            batch, heads, rows, _ = query.shape
            out = torch.empty(batch, rows, heads, value.shape[-1], dtype=query.dtype, device="meta").transpose(1, 2)
        return self.gpu.wrap(out, query.device)


def _is_blind(mask):
    """Whether a row allows nothing: all false, or all as low as a mask that is added."""
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return not bool(allowed.any(-1).all())


class _Operations(TorchDispatchMode):
    """Runs each operation on the CPU, after CUDA's rules were checked."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # under inference mode these arrive whole
                return func.decompose(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        target = kwargs.get("device")
        target = None if target is None else torch.device(target)
        dry = [tensor for tensor in tensors if isinstance(tensor, DryTensor)]
        if not dry and (target is None or target.type != "cuda"):
            return func(*args, **kwargs)
        device = self._device(func, tensors, dry, target)
        self._count(func, args, tensors, dry, device)
        return self._run(func, args, kwargs, device)

    def _device(self, func, tensors, dry, target):
        """Where the result is; CUDA's rule: one GPU, and from the CPU numbers and indices alone."""
        if func is aten.copy_.default:
            return tensors[0].device
        if target is not None:
            return target
        places = {tensor.device for tensor in dry}
        if func not in MIXED and len(places) > 1:
            raise RuntimeError(f"{func}: tensors on {sorted(map(str, places))} at {line()}")
        others = [tensor for tensor in tensors if not isinstance(tensor, DryTensor)]
        indices_alone = func in INDEXED and self._indices_alone(*tensors, count=len(others))
        if func not in MIXED and any(tensor.dim() > 0 for tensor in others) and not indices_alone:
            raise RuntimeError(f"{func}: tensors on cpu and {', '.join(map(str, places))} at {line()}")
        return dry[0].device

    @staticmethod
    def _indices_alone(indexed, *rest, count):
        """Whether all tensors from the CPU are integers or masks: not what is indexed, nor the values put there."""
        from_cpu = [tensor for tensor in rest if not isinstance(tensor, DryTensor)]
        whole = all(not tensor.is_floating_point() for tensor in from_cpu)
        return isinstance(indexed, DryTensor) and len(from_cpu) == count and whole

    def _count(self, func, args, tensors, dry, device):
        now = self.gpu._now
        if func in SYNCS and dry:
            now.syncs.append(line())
        if func in INDEXED and any(index is not None and index.dtype == torch.bool for index in args[1]):
            now.syncs.append(line())
        if func in MIXED:
            source = tensors[1] if func is aten.copy_.default else tensors[0]
            if source.device != device:
                size = source.numel() * source.element_size()
                now.copies.append((str(source.device), str(device), size, line()))
                if device.type == "cpu":
                    now.syncs.append(line())
        if not (func.is_view or func in FREE):
            now.launches += 1
        if func in PRODUCTS and any(tensor.dtype == torch.float32 for tensor in tensors):
            now.float32[_function()] += 1

    def _run(self, func, args, kwargs, device):
        owners = {id(leaf.held): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, DryTensor)}
        real = tree_map(lambda leaf: leaf.held if isinstance(leaf, DryTensor) else leaf, (args, dict(kwargs)))
        shapes = not self.gpu.values and any(
            leaf.is_meta for leaf in tree_leaves(real) if isinstance(leaf, torch.Tensor)
        )
        out = self._shapes(func, *real) if shapes else self._values(func, *real)

        def finish(leaf):
            if not isinstance(leaf, torch.Tensor) or device.type == "cpu":
                return leaf
            return owners[id(leaf)] if id(leaf) in owners else self.gpu.wrap(leaf, device)

        return tree_map(finish, out)

    def _values(self, func, args, kwargs):
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        return func(*args, **{name: value for name, value in kwargs.items() if name != "pin_memory"})

    def _shapes(self, func, args, kwargs):
        """Run on meta; results that are no floats become real: zeros, or 0, 1, 2, ... of a sort."""
        if func is aten._local_scalar_dense.default:
            return 1.0
        to_cpu = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
        if func in INDEXED:  # a mask decides the shape
            args = (args[0], [place for index in args[1] for place in self._places(index)], *args[2:])
        flat, form = tree_flatten((args, kwargs))
        moved = [leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf for leaf in flat]
        args_on_meta, kwargs_on_meta = tree_unflatten(moved, form)
        if "device" in kwargs_on_meta:
            kwargs_on_meta["device"] = torch.device("meta")
        out = func(*args_on_meta, **kwargs_on_meta)
        given = {id(new): old for new, old in zip(moved, flat) if isinstance(new, torch.Tensor)}

        def finish(leaf):
            if not isinstance(leaf, torch.Tensor):
                return leaf
            if id(leaf) in given:
                return given[id(leaf)]
            if to_cpu or not leaf.is_floating_point():
                made = torch.zeros(leaf.shape, dtype=leaf.dtype)
                sorts = func in (aten.sort.stable, aten.sort.default, aten.topk.default)
                return made + torch.arange(leaf.shape[-1]) if sorts and leaf.dtype == torch.long else made
            return leaf

        return tree_map(finish, out)

    @staticmethod
    def _places(index):
        return [index] if index is None or index.dtype != torch.bool else index.nonzero(as_tuple=True)
