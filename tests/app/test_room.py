"""How many graphs OpenVINO compiles, by the memory there is."""

import logging

import pytest

from app.engine.backends.base import TooLittleMemory
from app.engine.backends.choice import pick_backend
from app.engine.backends.openvino import fitting
from models.memory import BLOCK_ROWS
from models.pipeline import LatentDiffusion

MIB, GIB = 1 << 20, 1 << 30
DIGITS = 109 * MIB, 3 * MIB  # ten times the UNet's weights, and the VAE's


def test_less_memory_is_fewer_graphs_and_never_more_than_fit() -> None:
    rooms = [8192, 2048, 1100, 900, 700, 620, 560, 520, 430]
    sets = [fitting(*DIGITS, room * MIB) for room in rooms]
    assert [len(buckets) for buckets in sets] == sorted(map(len, sets), reverse=True)
    assert len(sets[0]) == 7
    assert sets[-1] == (BLOCK_ROWS,)
    for room, buckets in zip(rooms, sets, strict=True):
        assert BLOCK_ROWS in buckets, "the plain loop's own shape"
        assert DIGITS[0] * (len(buckets) + 1) < room * MIB


def test_what_fits_nowhere_is_told_with_both_figures() -> None:
    with pytest.raises(TooLittleMemory, match=r"needs 418 MiB .*; 300 MiB are free"):
        fitting(*DIGITS, 300 * MIB)


def test_a_large_model_has_few_graphs_however_much_memory_there_is() -> None:
    assert fitting(3 * GIB, GIB // 4, 100 * GIB) == (4, 16)
    assert fitting(3 * GIB, GIB // 4, None) == (4, 16)
    assert fitting(3 * GIB, GIB // 4, 15 * GIB) == (16,)


def test_where_openvino_does_not_fit_auto_takes_what_does_and_says_so(
    tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.engine.backends.choice.free_memory", lambda: 64 * MIB)
    with caplog.at_level(logging.WARNING):
        assert pick_backend(tiny, "auto", compiled=False).name == "eager"
    assert "64 MiB are free: the backend 'eager' is used" in caplog.text
    with pytest.raises(TooLittleMemory, match="OpenVINO needs"):
        pick_backend(tiny, "openvino", compiled=False)
    monkeypatch.setattr("app.engine.backends.choice.free_memory", lambda: GIB)
    assert pick_backend(tiny, "auto", compiled=False).name == "openvino"
