"""A GPU as it is seen by a plan: it queues nodes on a stream of its own, and captures them as a CUDA graph.

The stream does not wait for CuPy's default stream, nor that for it; `begin` and `end` put the two in order. Memory
comes from a pool of its own, which a graph can rely on and which goes back to the device when the training ends.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from xpmlp._typing import Array, Device
from xpmlp.backends import HostArray
from xpmlp.runners.cublas import WORKSPACE, Cublas, Product
from xpmlp.runners.cuda_kernels import signatures
from xpmlp.runners.cuda_plan import BLOCK, Node

Program = list[Callable[[], object]]


class Machine:
    """Runs plans on a GPU.

    Parameters
    ----------
    text : str
        The CUDA source of all kernels.
    dtype : {"float32", "float64"}
    device : cupy.cuda.Device
    tf32 : bool
        Whether float32 products may round their factors to TF32.

    Raises
    ------
    Exception
        Of many kinds, where a library is missing or the kernels do not compile.
    """

    def __init__(self, text: str, dtype: str, device: Device, *, tf32: bool = False) -> None:
        cupy = self.xp = import_module("cupy")
        self.device = device
        self._numbers = {"T": np.dtype(dtype).type, "unsigned": np.uint32, "int": np.int32, "long long": np.int64}
        self._types = signatures(text)
        self._cublas: Cublas | None = None
        with device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._pool = cupy.cuda.MemoryPool()
            module = cupy.RawModule(code=text)
            module.compile()  # now, where a failure still leaves the training to another runner
            self._kernels = {name: module.get_function(name) for name in self._types}
            with self.private():
                self._workspace = cupy.empty(WORKSPACE, dtype="uint8")
            self._cublas = Cublas(self._stream, self._workspace, dtype, tf32=tf32)

    def here(self) -> AbstractContextManager[Any]:
        """Within it, arrays are made on this device."""
        device: AbstractContextManager[Any] = self.device
        return device

    def private(self) -> AbstractContextManager[Any]:
        """Within it, arrays come from the pool that is ours alone."""
        context: AbstractContextManager[Any] = self.xp.cuda.using_allocator(self._pool.malloc)
        return context

    @staticmethod
    def upload(array: Array, host: HostArray) -> None:
        """Bring numbers from the host into a contiguous array here."""
        array.set(np.ascontiguousarray(host, dtype=array.dtype).reshape(array.shape))

    def program(self, plan: Sequence[Node]) -> Program:
        """The plan as calls without arguments, each of which queues one node on the current stream."""
        return [self._call(node) for node in plan]

    def _call(self, node: Node) -> Callable[[], object]:
        if isinstance(node, Product):
            assert self._cublas is not None
            return partial(self._cublas.multiply, node)
        types = self._types[node.kernel]
        arguments = tuple(
            value if declared.endswith("*") else self._numbers[declared](value)
            for declared, value in zip(types, node.arguments, strict=True)
        )
        grid = (-(-node.threads // BLOCK), node.networks)
        return partial(self._kernels[node.kernel], grid, (BLOCK,), arguments)

    def run(self, program: Program) -> None:
        """Queue every node."""
        with self.device, self._stream:
            for queue in program:
                queue()

    def capture(self, program: Program, repeats: int) -> Callable[[], object]:
        """A CUDA graph of the program, `repeats` times in a row; the call launches it.

        Raises
        ------
        Exception
            Of many kinds, if the program or the driver does not allow it; the stream is then as it was.
        """
        with self.device, self.private(), self._stream:
            self._stream.begin_capture()
            try:
                for _ in range(repeats):
                    for queue in program:
                        queue()
            finally:
                graph = self._stream.end_capture()
            graph.upload(self._stream)
        return partial(graph.launch, self._stream)

    def begin(self) -> None:
        """What is queued here from now on waits for what the current stream was given so far."""
        self._follow(self.xp.cuda.get_current_stream(), self._stream)

    def end(self) -> None:
        """What the current stream is given from now on waits for what was queued here."""
        self._follow(self._stream, self.xp.cuda.get_current_stream())

    def _follow(self, first: Any, second: Any) -> None:
        with self.device:
            second.wait_event(first.record(self.xp.cuda.Event(disable_timing=True)))

    def wait(self) -> None:
        """Wait until all that was queued has run."""
        self._stream.synchronize()

    def close(self) -> None:
        """Give all back, what depends on another thing before it; the graphs must be gone, and the arrays."""
        if sys.is_finalizing() or self._cublas is None:
            return
        with self.device:
            self.wait()
            self._kernels.clear()
            self._cublas.close()
            self._cublas = self._workspace = None
            self._pool.free_all_blocks()
