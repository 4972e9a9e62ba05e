"""Ways to run a network many times on inputs of one shape: as it is, compiled, and as one CUDA graph."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)

WARM_UPS = 3  # passes before a capture: they compile, choose cuDNN's algorithms and allocate workspaces, none of which a graph may hold

# On Hopper cuDNN's attention is the quickest of the exact ones; where it does not apply (float32, other devices) the next one does.
ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attention(values: Tensor) -> AbstractContextManager[None]:
    """Within it attention takes the first of `ATTENTION` that applies: for half precision on a CUDA device; else torch chooses.

    Derivatives are taken in float32, and the quickest kernels have none of every kind.

    Args:
        values: Such as go through the network.
    """
    half = values.dtype in (torch.bfloat16, torch.float16)
    chosen: AbstractContextManager[None] = sdpa_kernel(ATTENTION, set_priority=True) if values.is_cuda and half else nullcontext()
    return chosen


class NetworkRunner:
    """Calls a frozen network of tensors, quickly where the same shapes come again and again.

    A UNet of Stable Diffusion launches some thousand kernels a pass, which takes the processor longer than they take the GPU at small
    batches. A CUDA graph launches them as one; compiling fuses what lies between matrix products. Both give the numbers of the plain
    call within the rounding of the network's dtype.

    Args:
        network: Takes tensors, gives a tuple whose first item is the result.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._compiled: Any = None
        self._broken = False
        self._recorded: _Recorded | None = None

    def __call__(self, *inputs: Tensor, graph: bool = False, compiled: bool = False) -> Tensor:
        """The network's result.

        Args:
            *inputs: As the network takes them.
            graph: Replay a CUDA graph, recorded the first time that inputs of this form come; on a CUDA device only.
            compiled: Run what `torch.compile` makes of the network, which takes a minute or more the first time.
        """
        with attention(inputs[0]):
            if not graph or not inputs[0].is_cuda:
                return self._call(inputs, compiled)
            form = (compiled and not self._broken, *((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs))
            if self._recorded is None or self._recorded.form != form:
                self._recorded = None  # first, so that there is never memory for two
                self._recorded = _Recorded(form, inputs, lambda *static: self._call(static, compiled))
            return self._recorded(inputs)

    def _call(self, inputs: tuple[Tensor, ...], compiled: bool) -> Tensor:
        if compiled and not self._broken:
            try:
                if self._compiled is None:
                    self._compiled = torch.compile(self.network, dynamic=False)
                result: Tensor = self._compiled(*inputs)[0]
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler may lack: a C compiler, Triton, room for its files
                self._broken = True
                log.warning("the network cannot be compiled here (%s): it runs as it is", str(error).strip().partition("\n")[0])
            else:
                return result
        plain: Tensor = self.network(*inputs)[0]
        return plain


class _Recorded:
    """A CUDA graph of one call, with the tensors that it reads and writes.

    Args:
        form: What inputs it is for.
        inputs: Such inputs.
        call: What is recorded.
    """

    def __init__(self, form: tuple[Any, ...], inputs: tuple[Tensor, ...], call: Any) -> None:
        self.form = form
        self.inputs = [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                call(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output: Tensor = call(*self.inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for static, tensor in zip(self.inputs, inputs, strict=True):
            static.copy_(tensor)
        self.graph.replay()
        return self.output.clone()  # the next replay writes over it
