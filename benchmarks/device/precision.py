"""The precisions that are measured, and how CUDA's libraries are told of them."""

import os
from dataclasses import dataclass

import torch

from models import layers
from models.precision import set_precision

_WORKSPACES = ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE")


@dataclass(frozen=True)
class Precision:
    """The dtype of the networks; `tf32` rounds factors of float32 to 10 bits of mantissa."""

    name: str
    dtype: torch.dtype
    tf32: bool = False

    def use(self) -> None:
        """From here on, as the engine does."""
        set_precision(tf32=self.tf32)


FLOAT32 = Precision("float32", torch.float32)
TF32 = Precision("TF32", torch.float32, tf32=True)
FLOAT16 = Precision("float16", torch.float16)
BFLOAT16 = Precision("bfloat16", torch.bfloat16)
PRECISIONS = (FLOAT32, TF32, FLOAT16, BFLOAT16)


def loosen() -> None:
    """Let the libraries choose as PyTorch leaves them, cuDNN's convolutions among them.

    Call it before the first product.
    """
    layers.convolution = None
    for name in _WORKSPACES:
        os.environ.pop(name, None)
    torch.backends.cudnn.deterministic = False
    torch.backends.cuda.preferred_blas_library("default")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
