"""How a GPU computes products: their precision, and the same bits whatever the batch.

PyTorch and CUDA's libraries take these settings per process, and keep them once they have started.
"""

import os

import torch

# cuBLAS splits a long sum over K among blocks of threads where the batch alone would not fill the
# GPU: another order of summation for another batch. Without memory for partial sums it cannot.
# Batch-invariant inference in vLLM is built on the same two variables.
_NO_ROOM = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "CUBLASLT_WORKSPACE_SIZE": "1"}  # KiB


def set_precision(*, tf32: bool) -> None:
    """Set what products of float32 are on a GPU; call it before the first one.

    Args:
        tf32: round factors to ten bits of mantissa, which tensor cores multiply. By PyTorch's
            default convolutions do that and matrix products do not. Otherwise all are IEEE float32,
            but those of our kernels in a network of `models.layers.allow_tf32`.
    """
    os.environ.update(_NO_ROOM)
    # Not `fp32_precision`, the newer names: torch.compile reads these, and raises if both are used.
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False  # it would choose kernels by timing
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.preferred_blas_library("cublaslt")  # only it can be told not to split
    # (sums in half precision, split-K)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = (False, False)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)
