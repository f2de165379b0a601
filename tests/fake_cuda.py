"""A GPU that is not there: `torch.cuda` on the CPU, and strict where a real one is silent.

Tensors of the device are `DeviceTensor`s around tensors of the CPU. Operators run at once, in the
order of the program. Whether a device could run them in another order is found by vector clocks, as
PyTorch's own CUDA sanitizer does it: the host and each stream have a clock; who waits for another
takes over what that one knew; two uses of the same memory, one of them a write, are a race unless
one knew of the other. Host memory that is pinned takes part. Races go into `faults`, so that no
`except` can hide them.

A capture records operators with their tensors, without running them: what they return is garbage.
A replay runs them again over the same tensors. What a real capture refuses is refused: anything
that waits for the device or copies from memory that is not pinned, and a library's first call.
Graphs of one pool, or captured on one stream, share memory, and race if they run side by side.
"""

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from models import layers

aten = torch.ops.aten
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
WAITING = {"item", "_local_scalar_dense", "is_nonzero", "nonzero", "argwhere", "masked_select"}
WAITING |= {"equal", "allclose", "_unique2"}
LIBRARIES = {"conv2d", "convolution", "linear", "addmm", "mm", "bmm"}  # cuDNN, cuBLAS
NAME = "NVIDIA Nothing"


class Agent:
    """What does things in an order of its own: the host, or a stream."""

    def __init__(self) -> None:
        self.clock: dict[Agent, int] = {self: 0}

    def learn(self, clock: "dict[Agent, int]") -> None:
        for agent, count in clock.items():
            self.clock[agent] = max(self.clock.get(agent, 0), count)

    def act(self) -> int:
        self.clock[self] += 1
        return self.clock[self]


def known(clock: dict[Agent, int], agent: Agent, count: int) -> bool:
    return clock.get(agent, 0) >= count


class Block:
    """Memory: of the device, allocated by a stream; or pinned, of the host."""

    def __init__(self, device: "FakeCuda", owner: Agent, size: int, pool: "Pool | None") -> None:
        self._device, self.owner, self._size, self.pool = device, owner, 0, pool
        self._written: tuple[Agent, int] | None = None
        self._read: dict[Agent, int] = {}
        self.recorded: set[Agent] = set()
        (pool or device).take(size)
        self._size = size

    def use(self, agent: Agent, what: str, *, write: bool) -> None:
        """Note a use at the agent's present time; a race if what came before is not known to it."""
        before = [] if self._written is None else [self._written]
        if write:
            before += self._read.items()
        if not all(known(agent.clock, *other) for other in before):
            self._device.faults.append(f"race: {what} {'writes' if write else 'reads'}")
        if write:
            self._written, self._read = (agent, agent.clock[agent]), {}
        else:
            self._read[agent] = agent.clock[agent]

    def __del__(self) -> None:
        (self.pool or self._device).take(-self._size)
        if self.pool or self._device.closed:
            return
        # Its owner may have it again at once, in order with itself and with what the host does.
        clock = {**self.owner.clock}
        for agent, count in self._device.host.clock.items():
            clock[agent] = max(clock.get(agent, 0), count)
        uses = [*self._read.items(), *([self._written] if self._written else [])]
        for agent, count in uses:
            if agent not in self.recorded and not known(clock, agent, count):
                self._device.faults.append("race: memory is freed while another stream uses it")


class Pool:
    """Memory of graphs, which never run side by side: it is reserved for the largest."""

    def __init__(self, device: "FakeCuda") -> None:
        self._device, self._live, self._reserved = device, 0, 0
        self.block = Block(device, device.host, 0, None)

    def take(self, size: int) -> None:
        if (more := self._live + size - self._reserved) > 0:
            self._device.take(more)
            self._reserved += more
        self._live += size

    def __del__(self) -> None:
        self._device.take(-self._reserved)


class DeviceTensor(torch.Tensor):
    """A tensor of the device: `held` has its values, `block` its memory, as its views have."""

    held: Tensor
    block: Block

    @staticmethod
    def __new__(cls, real: Tensor, block: Block) -> "DeviceTensor":
        with torch.inference_mode():  # without autograd, which asks for a CUDA runtime
            made: DeviceTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                real.size(),
                strides=real.stride(),
                storage_offset=real.storage_offset(),
                dtype=real.dtype,
                device="cuda:0",
            )
        made.held, made.block = real, block
        return made

    def __init__(self, *_: object) -> None:
        pass

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held!r})"

    def __getitem__(self, index: Any) -> Any:  # type: ignore[override]
        part, by = _part(self, index)
        return part if by is None else aten.index(part, by)

    def __setitem__(self, index: Any, value: Any) -> None:  # type: ignore[override]
        part, by = _part(self, index)
        if by is not None:
            values = value if isinstance(value, Tensor) else torch.tensor(value, dtype=part.dtype)
            aten.index_put_(part, by, values)
        elif isinstance(value, Tensor):
            part.copy_(value)
        else:
            part.fill_(value)

    # Others that ask for a CUDA runtime, or do not take subclasses.

    def copy_(self, source: Tensor, non_blocking: bool = False) -> Tensor:  # type: ignore[override]
        return aten.copy_(self, source, non_blocking)

    def new_tensor(self, values: Any, **how: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(values, **{"dtype": self.dtype, "device": self.device, **how})

    def contiguous(self, **how: Any) -> Tensor:  # type: ignore[override]
        return aten.contiguous(self, **how)

    def nonzero(self) -> Tensor:  # type: ignore[override]
        return aten.nonzero(self)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        raise AssertionError(f"{func} on the device, which is closed")


class FakeCuda(TorchDispatchMode):
    """The device, as long as it is entered; `capacity` bytes large.

    `waits` counts how often the host waited for the device; of these, `spins` without sleeping.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.used = capacity, 0
        self.faults: list[str] = []
        self.waits = self.spins = 0
        self.replayed: list[Stream] = []  # where each replay was
        self.closed = False
        self.host = Agent()
        self.streams: list[Stream] = []
        self.home = self.current = Stream(self)
        self.capture: Graph | None = None
        self.blas = "default"  # which library multiplies matrices
        self._pinned: dict[int, tuple[Tensor, Block]] = {}

    def take(self, size: int) -> None:
        if size > 0 and self.used + size > self.capacity:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        self.used += size

    def refuse(self, what: str) -> None:
        """As a capture refuses what it cannot hold."""
        if self.capture is not None:
            self.capture.broken = True
            raise torch.AcceleratorError(
                f"CUDA error: operation not permitted when stream is capturing: {what}"
            )

    def wait(self, agent_clocks: list[dict[Agent, int]], what: str, *, spins: bool = True) -> None:
        """The host waits."""
        self.refuse(what)
        self.waits += 1
        self.spins += spins
        for clock in agent_clocks:
            self.host.learn(clock)

    def enqueue(self, stream: "Stream") -> None:
        stream.learn(self.host.clock)
        stream.act()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # it would import torch._dynamo, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = dict(kwargs or {})
        tensors = _tensors(args) + _tensors(kwargs.values())
        target = kwargs.get("device")
        on_device = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
        name = func.overloadpacket.__name__
        if name in ("to", "type_as"):  # a copy, or nothing
            with self:
                return func._op_dk(COMPOSITE, *args, **kwargs)
        if not on_device and (target is None or torch.device(target).type != "cuda"):
            return self._on_host(func, name, tensors, args, kwargs)
        if name in ("copy_", "_to_copy"):
            ends = (args[1], args[0]) if name == "copy_" else (args[0], None)
            return self._copy(func, *ends, args, kwargs)
        for tensor in tensors:
            if not isinstance(tensor, DeviceTensor) and tensor.dim():
                if not name.startswith("index"):
                    raise RuntimeError(f"{name}: tensors are on different devices")
                self.wait([self.current.clock], f"{name} by a tensor of the host")
        if name in WAITING or (name.startswith("index") and _by_mask(args)):
            self.wait([self.current.clock], name)
        return self._launch(func, name, args, kwargs)

    def _on_host(
        self, func: Any, name: str, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]
    ) -> object:
        """As it is; pinned memory is watched."""
        pinned = kwargs.pop("pin_memory", None)
        self.host.act()
        written = _written(func, args, kwargs)
        for tensor in tensors:
            if block := self._block_of(tensor):
                writes = any(tensor is other for other in written)
                block.use(self.host, f"{name} on the host", write=writes)
        made = func(*args, **kwargs)
        return self.pin(made) if pinned else made

    def pin(self, tensor: Tensor) -> Tensor:
        """As pinned memory; it is never freed, so that an address stands for it."""
        block = Block(self, self.host, 0, None)
        self._pinned[tensor.untyped_storage().data_ptr()] = tensor, block
        return tensor

    def _block_of(self, tensor: Tensor) -> Block | None:
        if isinstance(tensor, DeviceTensor):
            return tensor.block
        if tensor.device.type != "cpu":
            return None
        known = self._pinned.get(tensor.untyped_storage().data_ptr())
        return known[1] if known else None

    def read_on_host(self, tensor: Tensor) -> None:
        """As numpy does, without an operator."""
        if not isinstance(tensor, DeviceTensor) and (block := self._block_of(tensor)):
            self.host.act()
            block.use(self.host, "numpy", write=False)

    def _copy(
        self, func: Any, source: Tensor, into: Tensor | None, args: Any, kwargs: dict[str, Any]
    ) -> object:
        """From or to the host, at least one of the ends being the device."""
        target = into.device if into is not None else torch.device(kwargs.get("device", "cuda"))
        from_host = not isinstance(source, DeviceTensor)
        if not from_host and target.type == "cuda":
            return self._launch(func, "copy", args, kwargs)
        if from_host and not source.dim() and into is not None:
            return self._launch(func, "fill", args, kwargs)  # a number, part of the launch
        asynchronous = kwargs.get("non_blocking", len(args) > 2 and args[2])
        host = source if from_host else into
        pinned = None if host is None else self._block_of(host)
        stays = pinned is not None and asynchronous
        if not stays:
            self.refuse("a copy from or to memory that is not pinned")
        if from_host:
            made = self._launch(func, "copy", args, kwargs)
        else:  # the values themselves are plain
            self.enqueue(self.current)
            self._block_of(source).use(self.current, "a copy to the host", write=False)  # type: ignore[union-attr]
            kwargs |= {"device": torch.device("cpu")} if into is None else {}
            made = func(*_map(_real, args), **kwargs)
        if pinned is not None:
            pinned.use(self.current, "a copy", write=not from_host)
        if not stays:
            self.wait([self.current.clock], "a copy")
        return made

    def _check_blas(self, args: Any) -> None:
        matmul = torch.backends.cuda.matmul
        whole = {
            torch.float16: matmul.allow_fp16_reduced_precision_reduction_split_k,
            torch.bfloat16: matmul.allow_bf16_reduced_precision_reduction_split_k,
        }
        if not whole.get(_tensors(args)[0].dtype, True) and self.blas != "cublaslt":
            raise RuntimeError("allow_splitk=False requires the cuBLASLt backend")

    def _launch(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> object:
        """Run or record an operator of the device."""
        stream, graph = self.current, self.capture
        if graph is not None and stream is not graph.stream:
            self.refuse("a launch on another stream")
        if name in LIBRARIES:
            if graph is not None and name not in stream.warm:
                self.refuse(f"the first {name} on its stream")
            stream.warm.add(name)
            self._check_blas(args)
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        given = _tensors(args, DeviceTensor) + _tensors(kwargs.values(), DeviceTensor)
        written = [t for t in _written(func, args, kwargs) if isinstance(t, DeviceTensor)]
        real_args, real_kwargs = _map(_real, args), {k: _map(_real, v) for k, v in kwargs.items()}
        if graph is not None and written:  # not run
            graph.tape.append((func, real_args, real_kwargs, None))
            graph.note(given, written)
            return written[0]
        made = func(*real_args, **real_kwargs)
        results = _tensors([made])
        blocks = {tensor.held.untyped_storage().data_ptr(): tensor.block for tensor in given}
        fresh = [t for t in results if t.untyped_storage().data_ptr() not in blocks]
        if graph is not None:
            graph.tape.append((func, real_args, real_kwargs, results if fresh else None))
            graph.tape = graph.tape if fresh else graph.tape[:-1]  # a view is where it was
            graph.note(given, [])
        elif fresh or written:
            self.enqueue(stream)
            for tensor in given:
                writes = any(tensor is other for other in written)
                tensor.block.use(stream, name, write=writes)
            stream.workspace.use(stream, name, write=True)
        if written:
            return written[0]

        def wrap(value: object) -> object:
            if not isinstance(value, Tensor):
                return value
            block = blocks.get(value.untyped_storage().data_ptr())
            if block is None:
                block = Block(self, stream, value.nbytes, graph.pool if graph else None)
                if graph is None:
                    block.use(stream, name, write=True)
                else:
                    value.fill_(math.nan if value.is_floating_point() else 0)  # it was not run
            return DeviceTensor(value, block)

        return _map(wrap, made)


class Stream(Agent):
    """In order with itself alone: streams of PyTorch do not wait for the default one."""

    def __init__(self, device: FakeCuda, priority: int = 0) -> None:
        super().__init__()
        self._device, self.priority = device, priority
        self.warm: set[str] = set()
        self.cleared = 0  # how often its workspace was freed
        self.workspace = Block(device, device.host, 0, None)
        device.streams.append(self)

    def wait_stream(self, other: "Stream") -> None:
        self.learn(other.clock)

    def wait_event(self, event: "Event") -> None:
        self.learn(event.clock)

    def synchronize(self) -> None:
        self._device.wait([self.clock], "a wait for a stream")


class Event:
    """What a stream had been given when it was recorded."""

    def __init__(self, device: FakeCuda, *, blocking: bool = False) -> None:
        self._device, self._blocking = device, blocking
        self.clock: dict[Agent, int] = {}
        self._asked = False

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self._device.current
        self._device.enqueue(stream)
        self.clock, self._asked = {**stream.clock}, False

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self._device.current).wait_event(self)

    def query(self) -> bool:
        """Not yet, when it is first asked."""
        self._device.refuse("a query of an event")
        if self._asked:
            self._device.host.learn(self.clock)
        asked, self._asked = self._asked, True
        return asked

    def synchronize(self) -> None:
        self._device.wait([self.clock], "a wait for an event", spins=not self._blocking)


class Graph:
    """What was captured, and the memory outside of it that it reads and writes."""

    def __init__(self, device: FakeCuda) -> None:
        self._device = device
        self.tape: list[tuple[Any, Any, Any, list[Tensor] | None]] = []
        self.pool: Pool | None = None
        self.stream: Stream | None = None
        self.broken = False
        self._outside: dict[int, tuple[weakref.ref[Block], bool]] = {}
        self._cleared = 0

    def note(self, given: list[DeviceTensor], written: list[DeviceTensor]) -> None:
        for tensor in given:
            key, writes = id(tensor.block), any(tensor is other for other in written)
            writes |= key in self._outside and self._outside[key][1]
            self._outside[key] = weakref.ref(tensor.block), writes

    def begin(self, pool: Pool | None, stream: Stream) -> None:
        self.pool, self.stream, self._cleared = pool or Pool(self._device), stream, stream.cleared

    def end(self) -> None:
        """Forget memory that was freed in the capture; results that are kept are overwritten."""
        for key, (block, writes) in list(self._outside.items()):
            held = block()
            if held is None:
                del self._outside[key]
            elif held.pool is self.pool:
                self._outside[key] = block, True
            else:
                self._outside[key] = block, writes

    def replay(self) -> None:
        device = self._device
        device.refuse("a replay")
        device.replayed.append(device.current)
        assert self.stream is not None, "nothing was captured"
        assert self.pool is not None
        if self.broken:
            device.faults.append("a replay of a capture that failed")
        if self._cleared != self.stream.cleared:
            device.faults.append("a replay in a workspace that was freed")
        stream = device.current
        device.enqueue(stream)
        for block, writes in self._outside.values():
            held = block()
            if held is None:
                device.faults.append("a replay uses memory that was freed")
            else:
                held.use(stream, "a replay", write=writes)
        self.pool.block.use(stream, "a replay, beside another of its pool,", write=True)
        self.stream.workspace.use(stream, "a replay, beside another of its capture,", write=True)
        with _disable_current_modes():
            for func, args, kwargs, results in self.tape:
                made = func(*args, **kwargs)
                for old, new in zip(results or [], _tensors([made]), strict=False):
                    old.copy_(new)

    def __del__(self) -> None:
        if self.stream is not None:
            self.stream.cleared += 1  # pytorch issue 193402


def _part(tensor: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None] | None]:
    """Indexing in operators, as PyTorch's own asks for a CUDA runtime: a view, and its indices."""
    by: list[Tensor | None] = []
    for part in index if isinstance(index, tuple) else (index,):
        if part is None:
            tensor = tensor.unsqueeze(len(by))
            by.append(None)
        elif isinstance(part, slice):
            step = 1 if part.step is None else part.step
            tensor = aten.slice(tensor, len(by), part.start, part.stop, step)
            by.append(None)
        elif isinstance(part, Tensor):
            by.append(part)
        else:
            tensor = tensor.select(len(by), part)
    return tensor, by if any(part is not None for part in by) else None


def _real(value: object) -> object:
    return value.held if isinstance(value, DeviceTensor) else value


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """What an operator takes or returns, lists and tuples of values included, with each changed."""
    if isinstance(value, list | tuple):
        return type(value)([_map(change, part) for part in value])
    return change(value)


def _tensors(values: Iterable[Any], kind: type[Tensor] = Tensor) -> list[Any]:
    """The tensors among values, those in lists and tuples included."""
    found = []
    for value in values:
        if isinstance(value, kind):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value, kind)
    return found


@functools.cache
def _writes(func: Any) -> tuple[tuple[int, str], ...]:
    """The places and names of the arguments that an operator overwrites."""
    schema = enumerate(func._schema.arguments)
    return tuple((k, a.name) for k, a in schema if a.alias_info and a.alias_info.is_write)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operator overwrites."""
    values = [args[k] if k < len(args) else kwargs.get(name) for k, name in _writes(func)]
    return _tensors(values)


def _by_mask(args: Any) -> bool:
    return any(index.dtype == torch.bool for index in _tensors(args[1:2]))


@contextlib.contextmanager
def installed(capacity: int = 1 << 40) -> Iterator[FakeCuda]:
    """The device in place of `torch.cuda`'s; when it is left, there must have been no faults."""
    device = FakeCuda(capacity)

    def set_stream(stream: Stream) -> None:
        device.current = stream

    @contextlib.contextmanager
    def use(stream: Stream) -> Iterator[None]:
        before, device.current = device.current, stream
        try:
            yield
        finally:
            device.current = before

    class Capturing:
        """As `torch.cuda.graph`, which leaves its stream the current one if the capture fails."""

        def __init__(self, graph: Graph, pool: Pool | None = None, stream: Any = None) -> None:
            self._graph, self._pool, self._stream = graph, pool, stream or Stream(device)

        def __enter__(self) -> Self:
            synchronize()
            device.waits, device.spins = device.waits - 1, device.spins - 1
            assert device.capture is None
            assert self._stream is not device.home, "the default stream cannot be captured"
            self._home, device.current = device.current, self._stream
            self._graph.begin(self._pool, self._stream)
            device.capture = self._graph
            return self

        def __exit__(self, *_: object) -> None:
            device.capture = None
            self._graph.end()
            if self._graph.broken:
                raise torch.AcceleratorError("CUDA error: operation failed due to a previous error")
            device.current = self._home

    def synchronize(_: object = None) -> None:
        device.wait([stream.clock for stream in device.streams], "a wait for the device")

    def set_device(to: torch.device | str | int) -> None:
        if not isinstance(to, int) and torch.device(to).index is None:
            raise ValueError(f"Expected a torch.device with a specified index, but got: {to}")

    def prefer(library: str) -> None:
        device.blas = library

    gpu = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    numpy = torch.Tensor.numpy

    def to_numpy(tensor: Tensor, **how: Any) -> object:
        device.read_on_host(tensor)
        return numpy(tensor, **how)

    cuda: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda _=None: NAME,
        "get_device_properties": lambda _=None: gpu,
        "mem_get_info": lambda _=None: (device.capacity - device.used, device.capacity),
        "set_device": set_device,
        "empty_cache": lambda: None,
        "current_stream": lambda _=None: device.current,
        "default_stream": lambda _=None: device.home,
        "set_stream": set_stream,
        "stream": use,
        "synchronize": synchronize,
        "graph_pool_handle": lambda: Pool(device),
        "Stream": lambda _=None, priority=0: Stream(device, priority),
        "Event": lambda **how: Event(device, **how),
        "CUDAGraph": lambda: Graph(device),
        "graph": Capturing,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cuda.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.backends.cuda, "preferred_blas_library", prefer)
        patch.setattr(layers, "convolution", None)  # its kernels are the device's own
        patch.setattr(torch.Tensor, "numpy", to_numpy)
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: device.pin(tensor.clone()))
        patch.setattr(
            torch.Tensor, "record_stream", lambda tensor, stream: tensor.block.recorded.add(stream)
        )
        lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with device:
                yield device
        finally:
            torch._C._set_only_lift_cpu_tensors(lifting)
            device.closed = True
