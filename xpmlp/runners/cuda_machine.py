"""A GPU as a runner sees it: work is queued on a stream of its own, and captured as a CUDA graph.

The stream does not wait for CuPy's default stream, nor that for it; `in_order` puts the two in order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from xpmlp._typing import Array, Device
from xpmlp.backends import HostArray
from xpmlp.runners.cublas import WORKSPACE, Cublas, Product
from xpmlp.runners.cuda_kernels import signatures
from xpmlp.runners.cuda_plan import Join, Node

Program = list[Callable[[], object]]


class Stream:
    """A stream on a GPU, and the products that may be queued on it while it captures.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    device : cupy.cuda.Device
    tf32 : bool
        Whether float32 products may round their factors to TF32.

    Raises
    ------
    Exception
        Of many kinds, where a library is missing.
    """

    _sources: Mapping[int, HostArray] = {}  # by the array they were brought into; never changed

    def __init__(self, dtype: str, device: Device, *, tf32: bool = False) -> None:
        cupy = self.xp = import_module("cupy")
        self.device = device
        with device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._streams = [self._stream]  # on which work may be under way
            workspace = cupy.empty(WORKSPACE, dtype="uint8")
            self.cublas = Cublas(cupy.cuda.get_cublas_handle, workspace, dtype, tf32=tf32)

    def upload(self, array: Array, host: HostArray) -> None:
        """Bring numbers from the host into a contiguous array here; they are kept until other ones are brought there.

        CuPy queues the copy and goes on. CUDA does not promise that it has read memory that is not pinned by then.
        """
        source = np.ascontiguousarray(host, dtype=array.dtype).reshape(array.shape)
        self._sources = {**self._sources, id(array): source}
        array.set(source)

    def run(self, program: Program) -> None:
        """Queue every call of a program."""
        with self.device, self._stream:
            self.cublas.use(self._stream)
            for queue in program:
                queue()

    def capture(self, program: Program, repeats: int) -> Callable[[], object]:
        """A CUDA graph of the program, `repeats` times in a row; the call launches it.

        Raises
        ------
        Exception
            Of many kinds, if the program or the driver does not allow it; the stream is then as it was.
        """
        with self.device, self._stream:
            self.cublas.use(self._stream)
            self._stream.begin_capture()
            try:
                for _ in range(repeats):
                    for queue in program:
                        queue()
            except BaseException:
                with suppress(Exception):  # that the capture is void is a symptom
                    self._stream.end_capture()
                raise
            graph = self._stream.end_capture()
            graph.upload(self._stream)
        return partial(graph.launch, self._stream)

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """What is queued here within waits for what the current stream was given before, and that for it afterwards."""
        current = self.xp.cuda.get_current_stream()
        self._follow(current, self._stream)
        try:
            yield
        except BaseException:
            with suppress(Exception):  # an error that lost the device is not to be hidden by one that follows from it
                for stream in self._streams:
                    self._follow(stream, current)
            raise
        self._follow(self._stream, current)

    def _follow(self, first: Any, second: Any) -> None:
        with self.device:
            second.wait_event(first.record(self.xp.cuda.Event(disable_timing=True)))

    def wait(self) -> None:
        """Wait until all that was queued has run."""
        for stream in self._streams:
            stream.synchronize()


class Machine(Stream):
    """Runs plans on a GPU; `text` is the CUDA source of all kernels.

    Raises
    ------
    Exception
        Of many kinds, where a library is missing or the kernels do not compile.
    """

    def __init__(self, text: str, dtype: str, device: Device, *, tf32: bool = False) -> None:
        super().__init__(dtype, device, tf32=tf32)
        self._numbers = {"T": np.dtype(dtype).type, "unsigned": np.uint32, "int": np.int32, "long long": np.int64}
        self._signatures = signatures(text)
        with device:
            self._side = self.xp.cuda.Stream(non_blocking=True)
            self._streams.append(self._side)
            module = self.xp.RawModule(code=text)
            module.compile()  # now, where a failure still leaves the training to another runner
            self._kernels = {name: module.get_function(name) for name in self._signatures}

    def program(self, plan: Sequence[Node]) -> Program:
        """The plan as calls without arguments, each of which queues one node on the current stream."""
        return [self._call(node) for node in plan]

    def _call(self, node: Node) -> Callable[[], object]:
        if isinstance(node, Product):
            return partial(self.cublas.multiply, node)
        if isinstance(node, Join):
            return partial(self._follow, self._side, self._stream)
        arguments = tuple(
            node.values[name] if kind.endswith("*") else self._numbers[kind](node.values[name])
            for kind, name in self._signatures[node.kernel]
        )
        grid, block = node.grid
        call = partial(self._kernels[node.kernel], grid, (block,), arguments)
        return partial(self._aside, call) if node.aside else call

    def _aside(self, call: Callable[[], object]) -> None:
        self._follow(self._stream, self._side)
        with self._side:
            call()
