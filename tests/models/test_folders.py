"""Folders as diffusers and its users write them open here, and draw what diffusers draws."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.engine.runner import Runner
from app.engine.wire import Load
from models.checkpoint import CheckpointError
from models.digests import checkpoint_digest, weights_digest
from models.pipeline import LatentDiffusion
from models.sampling import SAMPLERS
from models.schedulers import SchedulerConfig
from tests.models.diffusing import CLASSES, SETTLED, run
from tests.models.hostile import changed
from tests.tiny import UNET, VAE

TOLERANCE = 1e-5  # relative, in float32; as in test_parity.py
PLAIN = "diffusion_pytorch_model.safetensors"
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
SCHEDULER = "scheduler/scheduler_config.json"
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def keywords(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random networks as `save_pretrained` writes them: classes without names, DDIM by epsilon."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("written") / "pets"
    diffusers.UNet2DModel(**keywords(UNET)).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(**keywords(VAE)).save_pretrained(folder / "vae")
    diffusers.DDIMScheduler(**BETAS).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "LatentDiffusion",
        "unet": ["diffusers", "UNet2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "pets"))


def scheduled(kind: str, **values: Any) -> Callable[[Path], None]:
    """The scheduler of another class, which the index names as well."""

    def write(folder: Path) -> None:
        getattr(diffusers, kind)(**BETAS, **values).save_pretrained(folder / "scheduler")
        changed("model_index.json", scheduler=["diffusers", kind])(folder)

    return write


def ddim_from(kind: str, **values: Any) -> Callable[[Path], None]:
    """DDIM made of the configuration of another class, as it was read from a file."""

    def write(folder: Path) -> None:
        getattr(diffusers, kind)(**BETAS, **values).save_pretrained(folder / "other")
        config = getattr(diffusers, kind).from_pretrained(folder / "other").config
        diffusers.DDIMScheduler.from_config(config).save_pretrained(folder / "scheduler")
        shutil.rmtree(folder / "other")

    return write


def renamed(*, convolution: bool) -> Callable[[Path], None]:
    """Attention as early diffusers, or Rombach et al., wrote it."""

    def old(name: str) -> str:
        for new, before in OLD.items():
            name = name.replace(f".{new}.", f".{before}.")
        return name

    def write(folder: Path) -> None:
        for path in folder.glob(f"*/{PLAIN}"):
            tensors = {old(name): tensor for name, tensor in load_file(path).items()}
            assert any("proj_attn" in name for name in tensors)
            for name, tensor in tensors.items():
                if convolution and tensor.ndim == 2 and ".attentions." in name:
                    tensors[name] = tensor[:, :, None, None].contiguous()
            save_file(tensors, path)

    return write


def variant(name: str, size: str = "10GB", *, legacy: bool = False) -> Callable[[Path], None]:
    """Weights under a variant's name alone, in shards where they are larger than `size`."""

    def write(folder: Path) -> None:
        for part, kind in (("unet", diffusers.UNet2DModel), ("vae", diffusers.AutoencoderKL)):
            network = kind.from_pretrained(folder, subfolder=part).half()
            (folder / part / PLAIN).unlink()
            network.save_pretrained(folder / part, variant=name, max_shard_size=size)
            index = folder / part / f"{PLAIN}.index.{name}.json"
            if legacy:
                index.rename(folder / part / f"{PLAIN}.{name}.index.json")

    return write


def sharded(folder: Path) -> None:
    network = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    (folder / "unet" / PLAIN).unlink()
    network.save_pretrained(folder / "unet", max_shard_size="100KB")
    assert len(list(folder.glob("unet/*.safetensors"))) > 1


def in_hub_cache(folder: Path) -> Path:
    """Links to blobs, as huggingface_hub lays them out."""
    repository = folder.parent / "models--owner--pets"
    for path in list(folder.rglob("*.*")):
        snapshot = repository / "snapshots" / "0a1b2c" / path.relative_to(folder)
        blob = repository / "blobs" / path.relative_to(folder).as_posix().replace("/", "-")
        for made in (snapshot, blob):
            made.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blob)
        snapshot.symlink_to(blob)
    return repository / "snapshots" / "0a1b2c"


def with_vqvae(folder: Path) -> None:
    """The autoencoder under the name that diffusers' LDMPipeline has for it."""
    (folder / "vae").rename(folder / "vqvae")
    changed("model_index.json", vae=[None, None], vqvae=["diffusers", "AutoencoderKL"])(folder)


FOLDERS: dict[str, Callable[[Path], Any]] = {
    "as diffusers writes it, no id2label": lambda _: None,
    "PNDM of Stable Diffusion 1": scheduled("PNDMScheduler", skip_prk_steps=True, steps_offset=1),
    "Euler": scheduled("EulerDiscreteScheduler", num_train_timesteps=8, use_karras_sigmas=True),
    "Euler a": scheduled("EulerAncestralDiscreteScheduler", timestep_spacing="trailing"),
    "Heun": scheduled("HeunDiscreteScheduler", use_exponential_sigmas=True),
    "LMS": scheduled("LMSDiscreteScheduler", use_karras_sigmas=True),
    "DPM-Solver++": scheduled("DPMSolverMultistepScheduler", timestep_spacing="trailing"),
    "DPM-Solver++ 3M Karras": scheduled(
        "DPMSolverMultistepScheduler", solver_order=3, use_karras_sigmas=True
    ),
    "DPM-Solver++ SDE": scheduled(
        "DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++", euler_at_final=True
    ),
    "UniPC": scheduled("UniPCMultistepScheduler", solver_order=3, final_sigmas_type="sigma_min"),
    "LCM": scheduled("LCMScheduler", original_inference_steps=40, clip_sample=True),
    "DDIM from DDPM": ddim_from("DDPMScheduler", variance_type="fixed_large"),
    "DDIM from PNDM": ddim_from("PNDMScheduler", set_alpha_to_one=False, steps_offset=1),
    "DDIM from Euler": ddim_from("EulerDiscreteScheduler", timestep_spacing="leading"),
    "old attention": renamed(convolution=False),
    "fp16 alone": variant("fp16"),
    "fp16 in shards": variant("fp16", "50KB"),
    "non_ema alone": variant("non_ema"),
    "shards": sharded,
    "vqvae": with_vqvae,
    "hub cache": in_hub_cache,
}


def drawn(folder: Path, seed: int, steps: int, label: int) -> torch.Tensor:
    """What diffusers draws with the components of a folder: (1, C, H, W), -1 to 1."""
    vae_folder = "vqvae" if (folder / "vqvae").exists() else "vae"
    parts = {"unet": diffusers.UNet2DModel, vae_folder: diffusers.AutoencoderKL}
    networks = []
    for part, kind in parts.items():
        names = [path.name.split(".") for path in folder.glob(f"{part}/*.safetensors")]
        found = {part[1].partition("-000")[0] for part in names if len(part) == 3}
        networks.append(
            kind.from_pretrained(
                folder, subfolder=part, variant=next(iter(found), None), torch_dtype=torch.float32
            ).eval()
        )
    unet, vae = networks
    kind = json.loads((folder / SCHEDULER).read_text())["_class_name"]
    scheduler = getattr(diffusers, kind).from_pretrained(folder, subfolder="scheduler")
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return torch.randn(1, 2, 8, 8, generator=generator)

    def network(x: torch.Tensor, t: float) -> torch.Tensor:
        # As a tensor: diffusers makes a whole number of anything else.
        output: torch.Tensor = unet(x, torch.tensor(t), class_labels=torch.tensor([label])).sample
        return output

    with torch.inference_mode():
        x, _ = run(scheduler, steps, network, noise(), noise)
        image: torch.Tensor = vae.decode(x / vae.config.scaling_factor).sample
    return image.clamp(-1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_draws_what_diffusers_draws(name: str, folder: Path) -> None:
    folder = FOLDERS[name](folder) or folder
    expected = drawn(folder, seed=3, steps=8, label=1)
    model = LatentDiffusion.open(folder)
    made = model.sample(["1"], [3], steps=8)
    assert expected.std() > 0.01
    assert (made - expected).norm() / expected.norm() <= TOLERANCE
    assert len(checkpoint_digest(folder)) == 64


def test_attention_may_be_convolutions_of_one_position(written: Path, folder: Path) -> None:
    """diffusers itself opens no such file: the same weights as linear maps are the oracle."""
    renamed(convolution=True)(folder)
    expected = LatentDiffusion.open(written).sample([0], [1], steps=2)
    assert torch.equal(LatentDiffusion.open(folder).sample([0], [1], steps=2), expected)


def test_an_index_of_an_older_variant_is_found(written: Path, folder: Path) -> None:
    variant("fp16", "50KB", legacy=True)(folder)
    model, expected = LatentDiffusion.open(folder), load_file(written / "unet" / PLAIN)
    for name, tensor in model.unet.state_dict().items():
        assert torch.equal(tensor, expected[name].half().float())


def test_the_plain_weights_go_before_a_variant(written: Path, folder: Path) -> None:
    """They alone are opened, and are in the digest."""
    for path in folder.glob(f"*/{PLAIN}"):
        zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}
        save_file(zeros, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    model = LatentDiffusion.open(folder)
    assert torch.equal(model.unet.conv_in.weight, LatentDiffusion.open(written).unet.conv_in.weight)
    assert not any("fp16" in note for note in model.notes)
    assert checkpoint_digest(folder) == checkpoint_digest(written)


def test_the_digest_is_of_the_weights_that_are_opened(folder: Path) -> None:
    before = checkpoint_digest(folder)
    variant("fp16")(folder)
    halved, of_vae = checkpoint_digest(folder), weights_digest(folder / "vae")
    assert halved != before
    path = folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    path.rename(path.with_name(PLAIN))  # the same bytes by the plain name
    assert (checkpoint_digest(folder), weights_digest(folder / "vae")) == (halved, of_vae)
    other = load_file(path.with_name(PLAIN))
    save_file(other | {"encoder.conv_in.bias": torch.ones(8).half()}, path.with_name(PLAIN))
    assert checkpoint_digest(folder) != halved


def test_a_whole_pipeline_of_diffusers_draws_the_same(written: Path, tmp_path: Path) -> None:
    """LDMPipeline, saved and called as a whole; it calls the autoencoder `vqvae`."""
    torch.manual_seed(1)
    unet = diffusers.UNet2DModel(**keywords(replace(UNET, num_class_embeds=None)))
    vae = diffusers.AutoencoderKL.from_pretrained(written, subfolder="vae")
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
    pipeline = diffusers.LDMPipeline(vqvae=vae, unet=unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(5)
    expected = pipeline(generator=generator, num_inference_steps=4, output_type="np").images
    made = LatentDiffusion.open(tmp_path).sample([None], [5], steps=4)
    ours = (made / 2 + 0.5).permute(0, 2, 3, 1).numpy()
    assert abs(ours - expected).max() <= TOLERANCE


REAL = json.loads((Path(__file__).parent / "scheduler_configs.json").read_text())


@pytest.mark.parametrize("name", REAL)
def test_the_scheduler_of_a_real_folder_draws_what_diffusers_draws(name: str, folder: Path) -> None:
    """Of models that many people have, at few steps and at more."""
    config = REAL[name]["config"]
    (folder / SCHEDULER).write_text(json.dumps(config))
    changed("model_index.json", scheduler=["diffusers", config["_class_name"]])(folder)
    model = LatentDiffusion.open(folder)
    for steps in (1, 4, 11):
        if steps == 1 and model.schedule.own.timestep_spacing == "linspace":
            continue  # diffusers begins at the clean end
        expected = drawn(folder, seed=3, steps=steps, label=1)
        made = model.sample(["1"], [3], steps=steps)
        assert (made - expected).norm() / expected.norm() <= 1e-4, steps


def test_ddpm_is_ddim_with_eta_one(folder: Path) -> None:
    """Its steps add no noise in the last, and what they add is of the smaller variance."""
    scheduled("DDPMScheduler", clip_sample=False)(folder)
    expected = drawn(folder, seed=3, steps=8, label=1)
    made = LatentDiffusion.open(folder).sample(["1"], [3], steps=8, eta=1.0)
    assert (made - expected).norm() / expected.norm() <= TOLERANCE


KINDS = [kind for kind in diffusers.DDIMScheduler._compatibles if kind != "EDMEulerScheduler"]
KINDS += ["SASolverScheduler", "DDPMParallelScheduler", "LCMScheduler"]
NEEDED: dict[str, dict[str, Any]] = {"PNDMScheduler": {"skip_prk_steps": True}}
# Every class here takes what is of the network; what a solver cannot do, it does as another.
OURS = {"rescale_betas_zero_snr", "solver_type", "algorithm_type", "disable_corrector"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, about what KDPM2 gives it
@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_reads_the_file_of_every_class_as_its_own_does(
    kind: str, folder: Path
) -> None:
    """As `OtherClass.from_config` reads that file, every key of it."""
    if kind == "DPMSolverSDEScheduler":  # it cannot be made without another package
        (folder / SCHEDULER).write_text(json.dumps({"_class_name": kind, **BETAS}))
    else:
        scheduled(kind, **NEEDED.get(kind, {}))(folder)
    ours, notes = SchedulerConfig.read(folder / SCHEDULER)
    file = json.loads((folder / SCHEDULER).read_text())
    for sampler, name in CLASSES.items():
        settled = SETTLED.get(sampler, {})
        theirs = getattr(diffusers, name).from_config({**file, **settled}).config
        for key, value in keywords(ours.config(sampler)).items():
            assert key in OURS or value == theirs[key], (sampler, key)
    assert ours.samplers == tuple(SAMPLERS)
    known = kind in CLASSES.values()
    assert known or f"{SCHEDULER}: {kind} is read as DDIMScheduler" in notes
    assert known or ours.sampler == "ddim"
    LatentDiffusion.open(folder)


@pytest.mark.parametrize("sampler", CLASSES)
def test_a_sampler_that_is_asked_for_reads_the_file_as_its_own_class(
    sampler: str, folder: Path
) -> None:
    """The file is of another class, and leaves out what both have a default for."""
    write = "DDIMScheduler" if CLASSES[sampler] == "EulerDiscreteScheduler" else None
    config = {"_class_name": write or "EulerDiscreteScheduler", **BETAS, "use_karras_sigmas": True}
    (folder / SCHEDULER).write_text(json.dumps(config))
    made = LatentDiffusion.open(folder).sample(["1"], [3], steps=8, sampler=sampler)
    kind = getattr(diffusers, CLASSES[sampler])
    kind.from_config({**config, **SETTLED.get(sampler, {})}).save_pretrained(folder / "scheduler")
    expected = drawn(folder, seed=3, steps=8, label=1)
    assert (made - expected).norm() / expected.norm() <= 1e-4


def test_values_that_were_defaults_are_not_taken_over(folder: Path) -> None:
    """A configuration written by hand from `scheduler.config` says which ones were."""
    config = dict(diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True).config)
    config["_class_name"] = "PNDMScheduler"
    assert "set_alpha_to_one" in config["_use_default_values"]
    (folder / SCHEDULER).write_text(json.dumps(config))
    assert config["set_alpha_to_one"] is False
    assert diffusers.DDIMScheduler.from_config(config).config.set_alpha_to_one is True
    read, _ = SchedulerConfig.read(folder / SCHEDULER)
    assert not read.own.ends_clean
    assert read.config("ddim").ends_clean


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "beta sigmas": ("Euler", {"use_beta_sigmas": True}, "use_beta_sigmas is True; allowed: False"),
    "sigmas by logarithm": ("Euler", {"interpolation_type": "log_linear"}, "interpolation_type is"),
    "a lowest level": ("Euler", {"sigma_min": 0.1}, "sigma_min is 0.1; allowed: null"),
    "a highest level": ("LMS", {"sigma_max": 14.6}, "sigma_max is 14.6; allowed: null"),
    "both spacings": (
        "Heun",
        {"use_karras_sigmas": True, "use_exponential_sigmas": True},
        "use_karras_sigmas and use_exponential_sigmas are both true",
    ),
    "Lu's lambdas": ("DPM", {"use_lu_lambdas": True}, "use_lu_lambdas is True; allowed: False"),
    "another algorithm": ("DPM", {"algorithm_type": "dpmsolver"}, "algorithm_type is 'dpmsolver'"),
    "order 1": ("DPM", {"solver_order": 1}, "solver_order is 1; allowed: 2, 3"),
    "an SDE of order 3": (
        "DPM",
        {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
        "solver_order is 3; allowed with algorithm_type sde-dpmsolver\\+\\+: 2",
    ),
    "clipped lambdas": ("DPM", {"lambda_min_clipped": -5.1}, "lambda_min_clipped is -5.1"),
    "thresholding": ("UniPC", {"thresholding": True}, "thresholding is True; allowed: False"),
    "order 4": ("UniPC", {"solver_order": 4}, "solver_order is 4; allowed: .*1 to 3"),
    "no corrector": ("UniPC", {"disable_corrector": [0]}, "disable_corrector has 1 values"),
    "noise prediction": ("UniPC", {"predict_x0": False}, "predict_x0 is False; allowed: True"),
    "a predictor": ("UniPC", {"solver_p": {}}, "solver_p is {}; allowed: null"),
    "Runge-Kutta steps": ("PNDM", {"skip_prk_steps": False}, "skip_prk_steps is False; allowed"),
    "Runge-Kutta by default": ("PNDM", {}, "skip_prk_steps is False; allowed: True"),
    "noise levels for timesteps": (
        "Euler",
        {"timestep_type": "continuous"},
        "timestep_type is 'continuous'; allowed: 'discrete'",
    ),
    "more to distil than timesteps": (
        "LCM",
        {"original_inference_steps": 2000},
        "original_inference_steps is 2000; num_train_timesteps is 1000",
    ),
    "a key that is spelt almost as another": (
        "Euler",
        {"use_kerras_sigmas": True},
        "unknown key 'use_kerras_sigmas' for EulerDiscreteScheduler; known: use_karras_sigmas",
    ),
    "a key of a later version of the family": (
        "Euler",
        {"use_cosine_sigmas": True},
        "unknown key 'use_cosine_sigmas' for EulerDiscreteScheduler",
    ),
    "many unknown keys": ("Euler", {f"mine_{i}": 1 for i in range(17)}, "has 17 unknown keys"),
}
FULL = {"Euler": "EulerDiscrete", "LMS": "LMSDiscrete", "Heun": "HeunDiscrete"} | {
    "DPM": "DPMSolverMultistep",
    "UniPC": "UniPCMultistep",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_would_change_the_picture_is_refused_by_name(name: str, folder: Path) -> None:
    kind, values, message = REFUSED[name]
    config = {"_class_name": f"{FULL.get(kind, kind)}Scheduler", **BETAS, **values}
    (folder / SCHEDULER).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"scheduler_config\.json: .*{message}"):
        LatentDiffusion.open(folder)


def test_what_another_class_would_not_draw_leaves_the_model_its_own(folder: Path) -> None:
    """Beta sigmas change nothing for DDIM; a sampler that reads them cannot be asked for."""
    changed(SCHEDULER, use_beta_sigmas=True)(folder)
    model = LatentDiffusion.open(folder)
    assert model.schedule.samplers == ("ddim", "euler_a", "dpmpp_2s_a", "pndm", "lcm")
    with pytest.raises(ValueError, match="sampler is 'euler'; allowed with this model: ddim, "):
        model.sample(["1"], [3], steps=2, sampler="euler")


def test_a_key_that_nobody_knows_is_noted_as_diffusers_does(written: Path, folder: Path) -> None:
    changed(SCHEDULER, my_note="trained twice", colour=0.5)(folder)
    model, plain = LatentDiffusion.open(folder), LatentDiffusion.open(written)
    assert f"{SCHEDULER}: without effect here: 'colour', 'my_note'" in model.notes
    assert torch.equal(model.sample([2], [1], steps=2), plain.sample([2], [1], steps=2))


UNCHANGING: dict[str, dict[str, Any]] = {
    SCHEDULER: {
        "final_sigmas_type": "zero",
        "interpolation_type": "linear",
        "lambda_min_clipped": float("-inf"),
        "predict_epsilon": True,
        "sigma_max": 14.6,
        "sigma_min": None,
        "skip_prk_steps": True,
        "solver_order": 2,
        "tensor_format": "pt",
        "timestep_type": "discrete",
        "timestep_values": None,
        "use_beta_sigmas": False,
        "use_exponential_sigmas": False,
        "use_karras_sigmas": True,
        "variance_type": "fixed_small",
    },
    "unet/config.json": {
        "conv_in_kernel": 3,
        "cross_attention_dim": 1280,
        "encoder_hid_dim": None,
        "quantization_config": None,
        "resnet_out_scale_factor": 1.0,
        "upcast_attention": False,
    },
    "vae/config.json": {"double_z": True, "norm_type": "group", "sample_size": [16, 16]},
}


def test_keys_that_change_nothing_are_passed_over_and_named(written: Path, folder: Path) -> None:
    for file, values in UNCHANGING.items():
        changed(file, **values)(folder)
    model, plain = LatentDiffusion.open(folder), LatentDiffusion.open(written)
    assert torch.equal(model.sample([2], [1], steps=2), plain.sample([2], [1], steps=2))
    for file, values in UNCHANGING.items():
        keys = ", ".join(sorted(values.keys() - {"sample_size"}))
        assert f"{file}: without effect here: {keys}" in model.notes
    assert all(note.isprintable() for note in model.notes)


def test_what_is_assumed_is_noted(written: Path, folder: Path) -> None:
    model = LatentDiffusion.open(written)
    assert model.classes.names == ("0", "1", "2", "3")
    assert model.classes.null is None
    assert model.notes == (
        "model_index.json: id2label is missing: classes are called 0 to 3, none is the null class",
        "scheduler/scheduler_config.json: clip_sample is true: predicted latents are kept within "
        "-1 to 1",
    )
    for nothing in (None, {}):
        changed("model_index.json", id2label=nothing)(folder)
        assert LatentDiffusion.open(folder).notes == model.notes
    variant("non_ema")(folder)
    alone = "vae/diffusion_pytorch_model.non_ema.safetensors: the only weights there"
    assert alone in LatentDiffusion.open(folder).notes
    changed("model_index.json", id2label={str(i): f"pet {i}" for i in range(3)})(folder)
    changed(SCHEDULER, clip_sample=False, timestep_spacing="linspace")(folder)
    notes = LatentDiffusion.open(folder).notes
    assert not [note for note in notes if "id2label" in note or "clip_sample" in note]
    assert [note for note in notes if "timestep_spacing is linspace" in note]


def test_a_shipped_or_trained_model_needs_no_notes(tiny: LatentDiffusion) -> None:
    assert tiny.notes == ()


def test_notes_are_logged_by_the_engine(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As warnings: the worker writes them into the log, the command line to standard error."""
    load = Load({}, "cpu", "float32", "eager", compile=False, slots=1, rows=None)
    notes = LatentDiffusion.open(folder).notes
    Runner.open("pets", folder, load)
    assert [record.message for record in caplog.records] == [f"pets: {note}" for note in notes]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
