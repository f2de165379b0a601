"""What a machine is called where pixels depend on it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from app.engine.backends import hardware
from app.engine.backends.hardware import device_name, platform_of

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor
microcode\t: 0x1
cpu MHz\t\t: 2300.000
flags\t\t: fpu sse sse4_2 avx fma avx2 avx512f ibrs
bugs\t\t: spectre_v1

processor\t: 1
vendor_id\t: GenuineIntel
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "_CPUINFO", path)
    return path


def test_processors_and_their_instruction_sets_are_told_apart(cpuinfo: Path) -> None:
    machines = [
        XEON,
        XEON.replace(" avx512f", ""),
        XEON.replace(" avx512f", " avx512f amx_tile"),
        XEON.replace("GenuineIntel", "AuthenticAMD"),
        XEON.replace("Xeon(R) Processor", "Xeon(R) E5"),
        ARM,
        ARM.replace(" sve", ""),
        ARM.replace("0xd40", "0xd0c"),
    ]
    told = set()
    for machine in machines:
        cpuinfo.write_text(machine)
        told.add(platform_of(CPU, "eager"))
    cpuinfo.unlink()  # no Linux
    told.add(platform_of(CPU, "eager"))
    assert len(told) == len(machines) + 1


def test_what_changes_from_boot_to_boot_is_left_out(cpuinfo: Path) -> None:
    cpuinfo.write_text(XEON)
    told = platform_of(CPU, "eager")
    for old, new in (("2300.000", "3100.5"), ("0x1", "0x2"), ("ibrs", "md_clear ibpb")):
        cpuinfo.write_text(XEON.replace(old, new))
        assert platform_of(CPU, "eager") == told
    assert "avx512f" in told


def test_what_torch_was_told_to_use_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = platform_of(CPU, "eager")
    assert f"torch {torch.__version__}" in told
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert platform_of(CPU, "eager") != told


def test_only_libraries_that_are_used_count(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, openvino = platform_of(CPU, "eager"), platform_of(CPU, "openvino")
    monkeypatch.setattr(hardware, "version", lambda _: "0.0")
    assert platform_of(CPU, "eager") == eager
    assert platform_of(CPU, "openvino") != openvino


def test_a_gpu_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a kind are one, whatever their numbers."""
    gpu = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert device_name(GPU) == device_name(torch.device("cuda:1")) == "NVIDIA H100 80GB HBM3"
    assert device_name(CPU) == "cpu"
    told = platform_of(GPU, "eager")
    assert platform_of(torch.device("cuda:1"), "eager") == told
    gpu.multi_processor_count = 66  # a part of one
    assert platform_of(GPU, "eager") != told
