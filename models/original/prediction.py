"""What the UNet of a single file predicts. Only some files say it."""

from models.original.families import SD2, Family, Training
from models.sampling import Prediction
from models.tensor_file import TensorFile, Wanted

_SAID: dict[str, Prediction] = {
    "eps": "epsilon",
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "velocity": "v_prediction",
}
_KEY = "modelspec.prediction_type"  # github.com/Stability-AI/ModelSpec
_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
_MOST = 1 << 16  # bytes; that of 2.x has 320 numbers
_SPREAD = 0.09  # the standard deviation of that bias is below it in 2.x of 512 pixels only


def predicts(file: TensorFile, family: Family, training: Training) -> tuple[Prediction, str | None]:
    """What the network of a file predicts, and a note where that is a guess.

    In this order: the empty tensor `v_pred`; `modelspec.prediction_type` in the header; epsilon for
    1.x, SDXL, SD-Turbo and 2.x for inpainting. Other files of 2.x say nothing: as in ComfyUI, the
    spread of one bias tells 768-v from 512-base.
    """
    if "v_pred" in file.entries:
        return "v_prediction", None
    if (said := file.metadata.get(_KEY, "").lower()) in _SAID:
        return _SAID[said], None
    if family is not SD2 or training.turbo or training.inpaints:
        return "epsilon", None
    spread = 0.0
    if _BIAS in file.entries and file.entries[_BIAS].size <= _MOST:
        (bias,) = file.read([Wanted(_BIAS)])
        spread = bias.float().std(correction=0).item()
    guess: Prediction = "v_prediction" if spread > _SPREAD else "epsilon"
    return guess, (
        f"the file does not say what its UNet predicts: {guess} is assumed, as a bias spreads by "
        f"{spread:.2g}; v_prediction above {_SPREAD}"
    )
