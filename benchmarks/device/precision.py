"""The precisions that are measured: the dtype of the networks, and what float32 means."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """TF32 multiplies float32 with 10 bits of mantissa, on the GPU's matrix units."""

    name: str
    dtype: torch.dtype
    tf32: bool = False

    def use(self) -> None:
        """Say it to cuDNN and cuBLAS; PyTorch's own default is TF32 in convolutions alone."""
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cuda.matmul.allow_tf32 = self.tf32


FLOAT32 = Precision("float32", torch.float32)
TF32 = Precision("TF32", torch.float32, tf32=True)
FLOAT16 = Precision("float16", torch.float16)
BFLOAT16 = Precision("bfloat16", torch.bfloat16)
PRECISIONS = (FLOAT32, TF32, FLOAT16, BFLOAT16)
