"""Models from a hub: a small one on localhost, through huggingface_hub."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from app.cli.main import cli
from models.files import CheckpointError
from models.hub import Repository, fetch
from models.hub_files import Wanted
from models.index import ModelIndex
from models.library import Located, find, locate
from models.pipeline import LatentDiffusion
from models.sheet_file import MAX_BYTES, SHEET
from tests.small_hub import SmallHub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOTHING = {"_class_name": "StableDiffusionPipeline", "id2label": {"0": "cat"}}
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
WANTED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}
UNWANTED = {
    ".gitattributes",
    "README.md",
    "classes.png",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "feature_extractor/preprocessor_config.json",
    "image_encoder/config.json",
    "image_encoder/model.safetensors",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/README.md",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/model.onnx",
    "unet/other/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae_decoder/model.onnx",
}


def write(folder: Path, names: set[str], index: dict[str, Any] | None = None) -> Path:
    """A repository of files that nobody opens here; no two are the same, or one would do."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": name}) if name.endswith(".json") else name)
    if "model_index.json" in names:
        values = NOTHING | CLASSES | {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
        values |= {"safety_checker": ["x", "Y"], "image_encoder": [None, None]} | (index or {})
        (folder / "model_index.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """A hub with the repository `a/b`, an empty cache, and nobody logged in."""
    main = write(tmp_path / "main", WANTED | UNWANTED)
    small = SmallHub({"a/b": {"main": main, "v2": write(tmp_path / "v2", WANTED)}})
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with small.running() as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield small


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refusal(repository: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        find(repository)
    told = str(caught.value)
    assert told.startswith(f"hf://{repository}: ")
    assert told.isprintable()
    assert len(told) < 500
    return told


def test_only_what_a_model_is_opened_from_is_fetched(hub: SmallHub) -> None:
    told: list[object] = []
    folder = find("a/b", told.append)
    assert names(folder) == WANTED == {*hub.asked}
    assert sorted(hub.asked) == sorted(WANTED), "each once"
    assert folder.name == hub.commit("a/b")
    assert locate(str(folder)).name == "b", "the snapshot has the name that the repository has"
    # The index alone was there when the rest was counted.
    size = sum((hub.repositories["a/b"]["main"] / name).stat().st_size for name in WANTED)
    size -= (folder / "model_index.json").stat().st_size
    assert told == [f"hf://a/b: fetching 11 files, {size} bytes, into {constants.HF_HUB_CACHE}"]


def test_what_is_in_the_cache_is_not_fetched_again(
    hub: SmallHub, offline: Callable[[], None]
) -> None:
    told: list[object] = []
    folder = fetch(Repository("a/b"))
    hub.asked.clear()
    assert fetch(Repository("a/b"), told.append) == folder
    assert not hub.asked
    assert not told
    offline()
    assert fetch(Repository("a/b"), told.append) == folder
    assert told == ["hf://a/b: taken from the cache, because HF_HUB_OFFLINE is set"]


def test_fetching_goes_on_where_it_was_interrupted(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut = {"vae/diffusion_pytorch_model.safetensors"}
    assert f"fetching from {hub.url} failed: OSError: " in refusal("a/b")
    hub.cut, before = set(), {*hub.asked} - hub.cut
    hub.asked.clear()
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "it is not complete in the cache, and HF_HUB_OFFLINE is set" in refusal("a/b")
    assert names(find("a/b")) == WANTED
    assert before.isdisjoint(hub.asked)


def test_an_interrupted_update_leaves_the_version_before(
    hub: SmallHub, offline: Callable[[], None], tmp_path: Path
) -> None:
    before = find("a/b")
    hub.repositories["a/b"] = {"main": write(tmp_path / "next", WANTED)}
    (tmp_path / "next/vae/diffusion_pytorch_model.safetensors").write_text("newer")
    hub.cut = {"vae/diffusion_pytorch_model.safetensors"}
    refusal("a/b")
    offline()
    assert find("a/b") == before


def test_a_revision_is_a_branch_a_tag_or_a_commit(
    hub: SmallHub, offline: Callable[[], None]
) -> None:
    commit = hub.commit("a/b", "v2")
    folder = find("a/b@v2")
    assert folder.name == commit
    hub.broken = 503
    assert find(f"hf://a/b@{commit}") == folder, "what is complete is not asked for"
    offline()
    assert find("a/b@v2") == find(f"a/b@{commit}") == folder
    assert "it is not complete in the cache, and HF_HUB_OFFLINE is set" in refusal("a/b")
    assert "it is not complete in the cache, and HF_HUB_OFFLINE is set" in refusal("a/b@v1")


def test_a_hub_that_does_not_answer_is_replaced_by_the_cache(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    folder = find("a/b")
    hub.broken = 500
    assert find("a/b", told.append) == folder
    assert told == [f"hf://a/b: taken from the cache, because {hub.url} answers 500"]


@pytest.mark.parametrize(
    ("status", "repository", "message"),
    [
        (0, "a/nothing", "no such repository at {url}, or a private one that HF_TOKEN does not"),
        (0, "a/b@nothing", "the repository has no such revision at {url}"),
        (0, "a/gated", "the repository is gated; ask for access at {url}/a/gated and set HF_TOKEN"),
        (0, "a/empty", "model_index.json is missing: it is no model in the layout of diffusers"),
        (0, "a/single", "a single file such as 'x.safetensors' is served from a path: download it"),
        (500, "a/b", "{url} answers 500"),
        (403, "a/b", "{url} answers 403"),
    ],
)
def test_refusals_are_one_clear_line(
    hub: SmallHub, tmp_path: Path, status: int, repository: str, message: str
) -> None:
    hub.repositories["a/gated"] = hub.repositories["a/b"]
    hub.gated, hub.broken = {"a/gated"}, status
    hub.repositories["a/empty"] = {"main": write(tmp_path / "empty", {"README.md"})}
    hub.repositories["a/single"] = {"main": write(tmp_path / "single", {"x.safetensors"})}
    assert message.format(url=hub.url) in refusal(repository)


def test_a_token_opens_a_gated_repository(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = {"a/b"}
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert names(find("a/b")) == WANTED


def test_no_network(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://user:secret@127.0.0.1:1")
    told = refusal("a/b")
    assert "fetching from http://127.0.0.1:1 failed: ConnectError: " in told
    assert "secret" not in told


def test_a_disk_that_is_full(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": 10**6})  # for the index it is enough
    with monkeypatch.context() as patched:
        patched.setattr("models.hub.shutil.disk_usage", lambda _: free)
        assert "; 1.0 MB are free on the disk of the cache; HF_HOME" in refusal("a/b")
    assert hub.asked == ["model_index.json"], "told before the rest is fetched"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    assert "the disk of the cache is full; HF_HOME names another place" in refusal("a/b")


def test_a_file_too_large_to_be_read_is_not_fetched(hub: SmallHub) -> None:
    (hub.repositories["a/b"]["main"] / "tokenizer/vocab.json").write_bytes(b" " * (9 << 20))
    assert "tokenizer/vocab.json has 9,437,184 bytes; allowed: up to 8,388,608" in refusal("a/b")
    assert "tokenizer/vocab.json" not in hub.asked


def test_a_class_sheet_is_fetched_unless_it_is_too_large_to_be_shown(
    hub: SmallHub, tiny_folder: Path, tmp_path: Path
) -> None:
    for revision, size in (("main", MAX_BYTES), ("large", MAX_BYTES + 1)):
        folder = shutil.copytree(tiny_folder, tmp_path / revision / "tiny")
        (folder / SHEET).write_bytes(bytes(size))
        hub.repositories.setdefault("a/tiny", {})[revision] = folder
    assert (find("a/tiny") / SHEET).stat().st_size == MAX_BYTES
    folder = find("a/tiny@large")
    assert names(folder) == names(tiny_folder)


def test_what_is_wrong_with_a_file_is_told_without_where_the_cache_is(hub: SmallHub) -> None:
    (hub.repositories["a/b"]["main"] / "model_index.json").write_text("[]")
    told = refusal("a/b")
    assert told == "hf://a/b: model_index.json: a JSON object is needed, found list"


def test_shards_are_those_of_the_index(hub: SmallHub, tmp_path: Path) -> None:
    single = "unet/diffusion_pytorch_model.safetensors"
    shards = {f"unet/diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)}
    folder = write(tmp_path / "sharded", (WANTED - {single}) | shards | {f"{single}.index.json"})
    weight_map = {name: Path(name).name for name in shards}
    index = folder / f"{single}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    hub.repositories["a/b"]["main"] = folder
    assert names(find("a/b")) == (WANTED - {single}) | shards | {f"{single}.index.json"}
    for wrong in (
        "../vae/diffusion_pytorch_model.safetensors",
        "x.safetensors",
        "config.json",
        3,
        ["x"],
    ):
        index.write_text(json.dumps({"weight_map": {**weight_map, "z": wrong}}))
        hub.repositories[f"a/wrong{len(hub.repositories)}"] = {"main": folder}
        assert "index.json: weight_map " in refusal([*hub.repositories][-1])


def parsed(**index: object) -> ModelIndex:
    return ModelIndex.parse(NOTHING | CLASSES | index, Path("model_index.json"))


def wanted(names: set[str], **index: object) -> set[str]:
    found = Wanted.of(parsed(**index), names)
    return {*found.small, *found.weights}


def test_a_variant_is_wanted_where_there_is_no_plain_file() -> None:
    plain = {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}
    variant = {name.replace(".safetensors", ".fp16.safetensors") for name in plain}
    assert wanted((WANTED - plain) | variant) == (WANTED - plain) | variant
    part = {"unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"}
    index = {"unet/diffusion_pytorch_model.safetensors.index.fp16.json"}
    rest = WANTED - {"unet/diffusion_pytorch_model.safetensors"}
    assert Wanted.of(parsed(), rest | part | index).indices == (*index,)


def test_a_second_text_encoder_and_a_vqvae_are_wanted_by_the_index() -> None:
    both = {name.replace("text_encoder/", "text_encoder_2/") for name in WANTED}
    both |= {name.replace("tokenizer/", "tokenizer_2/") for name in WANTED}
    second = {
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    assert wanted(WANTED | both, **second) == WANTED | both
    assert wanted(WANTED | both) == WANTED
    old = {name.replace("vae/", "vqvae/") for name in WANTED}
    assert wanted(old, vae=None, vqvae=["diffusers", "AutoencoderKL"]) == old


def test_one_file_may_be_the_whole_tokenizer() -> None:
    alone = (WANTED - {"tokenizer/vocab.json", "tokenizer/merges.txt"}) | {
        "tokenizer/tokenizer.json"
    }
    assert wanted(alone) == alone
    assert wanted(alone | WANTED) == alone, "transformers reads no other file then"


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        ("unet/config.json", "", "unet/config.json is missing"),
        ("scheduler/scheduler_config.json", "", "scheduler/scheduler_config.json is missing"),
        ("tokenizer/vocab.json", "", "tokenizer/vocab.json is missing"),
        (
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.bin: a pickle file can run code .* to convert it",
        ),
        ("text_encoder/model.safetensors", "", "text_encoder: model.safetensors is missing"),
    ],
)
def test_a_file_that_is_not_there_is_named(removed: str, added: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        wanted((WANTED - {removed}) | {added})


def test_several_variants_without_a_plain_one_are_refused() -> None:
    names = {f"vae/diffusion_pytorch_model.{v}.safetensors" for v in ("fp16", "bf16")}
    with pytest.raises(
        CheckpointError, match=r"vae: .* several variants: bf16, fp16; allowed: one"
    ):
        wanted((WANTED - {"vae/diffusion_pytorch_model.safetensors"}) | names)


OTHERS: dict[str, tuple[dict[str, object], str]] = {
    "Flux": (
        {"unet": None, "transformer": ["diffusers", "FluxTransformer2DModel"]},
        "unet is None; allowed: 'UNet2DModel', 'UNet2DConditionModel'",
    ),
    "no autoencoder": ({"vae": None}, "vae is None; allowed: 'AutoencoderKL'"),
    "no scheduler": ({"scheduler": None}, "scheduler is None; allowed: 'DDIMScheduler'"),
    "flow matching": (
        {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]},
        "scheduler is 'FlowMatchEulerDiscreteScheduler' (flow matching is not DDIM)",
    ),
    "a codebook": ({"vae": ["diffusers", "VQModel"]}, "vae is 'VQModel'"),
    "a video UNet": ({"unet": ["diffusers", "UNet3DConditionModel"]}, "'UNet3DConditionModel'"),
    "T5": ({"text_encoder": ["transformers", "T5EncoderModel"]}, "text_encoder is 'T5Encoder"),
    "a refiner": (
        {"text_encoder": [None, None], "tokenizer": [None, None]},
        "text_encoder is None; allowed: 'CLIPTextModel'",
    ),
    "another tokenizer": ({"tokenizer": ["transformers", "T5Tokenizer"]}, "tokenizer is 'T5Tok"),
    "a ControlNet": (
        {"controlnet": ["diffusers", "ControlNetModel"]},
        "component 'controlnet' is not built",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_kind_of_model_is_refused_before_its_weights_are_fetched(
    hub: SmallHub, tmp_path: Path, kind: str
) -> None:
    other, message = OTHERS[kind]
    hub.repositories["a/b"]["main"] = write(tmp_path / "other", WANTED, other)
    told = refusal("a/b")
    assert told.startswith("hf://a/b: model_index.json: ")
    assert message in told
    assert hub.asked == ["model_index.json"]


@pytest.mark.parametrize(
    ("text", "repository"),
    [
        ("a/b", Repository("a/b")),
        ("Some-Org/sd_1.5", Repository("Some-Org/sd_1.5")),
        ("a/b@v1.0", Repository("a/b", "v1.0")),
        ("a/b@refs/pr/4", Repository("a/b", "refs/pr/4")),
        ("hf://a/b@main", Repository("a/b", "main")),
    ],
)
def test_names_of_the_hub(tmp_path: Path, text: str, repository: Repository) -> None:
    assert locate(text) == Located(repository.name, repository)
    assert Repository.parse(str(repository)) == repository
    assert locate(f"mine={text}") == Located("mine", repository)


_PATHS = ("b", "a/b/c", "./a/b", "../a/b", "/a/b", "~/b", "a/b.safetensors", "a/b.CKPT")
_IDS = ("a--b/c", "a/b..c", "a/.b", "a/b.git", "é/b", "a/b?c", "a/b#1", "a/b c", "a/b\n")
_REVISIONS = ("a/b@", "a/b@..", "a/b@x/../y", "a/b@/x", "a/b@x@y", "a/b@" + "x" * 129)


@pytest.mark.parametrize("text", [*_PATHS, *_IDS, *_REVISIONS, f"a/{'b' * 96}"])
def test_what_is_no_name_of_the_hub(text: str) -> None:
    assert Repository.parse(text) is None
    with pytest.raises(CheckpointError, match=r"no model .*owner/name of the Hugging Face hub"):
        locate(text)
    with pytest.raises(CheckpointError, match="is no name of the hub; allowed: hf://owner/name"):
        locate(f"hf://{text}")


def test_a_path_that_exists_goes_before_a_name_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/b", "hf:/a/b"):
        (tmp_path / path).mkdir(parents=True)
    assert locate("a/b").place == tmp_path / "a/b"
    assert locate("hf://a/b").place == Repository("a/b")
    assert locate("a/b@v1").place == Repository("a/b", "v1")


def test_without_huggingface_hub_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=r"no model 'a/b' here; .*: pip install hugg"):
        locate("a/b")
    with pytest.raises(CheckpointError, match=r"hf://a/b: .*not installed: pip install hugg"):
        fetch(Repository("a/b"))


def test_the_server_s_process_does_not_import_huggingface_hub() -> None:
    code = (
        "import sys; from app.main import create_app; from app.settings import Settings;"
        "s = Settings(models=('a/b@v1', 'digits')); create_app(s); import app.cli.main;"
        "assert {n: str(p) for n, p in s.folders.items()}['b'] == 'hf://a/b@v1';"
        "assert not {'torch', 'huggingface_hub'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_model_of_the_hub_draws_as_the_folder_that_it_was_made_of(
    hub: SmallHub, tiny: LatentDiffusion, tiny_folder: Path
) -> None:
    hub.repositories["a/tiny"] = {"v1": tiny_folder}
    fetched = LatentDiffusion.open("a/tiny@v1")
    wanted = {"steps": 2, "seeds": [3]}
    assert fetched.sample(["dog"], **wanted).equal(tiny.sample(["dog"], **wanted))
    told = CliRunner().invoke(cli, ["models", "a/tiny@v1"]).output
    assert "class-conditional" in told
    assert hub.commit("a/tiny", "v1") in told
    nothing = CliRunner().invoke(cli, ["models", "a/nothing"])
    assert nothing.output.startswith("Error: hf://a/nothing: no such repository")


@pytest.mark.slow
def test_sample_and_verify_take_names_of_the_hub(
    hub: SmallHub, tiny_folder: Path, tmp_path: Path
) -> None:
    hub.repositories["a/tiny"] = {"main": tiny_folder}
    out = str(tmp_path / "dog.png")
    flags = ["--model", "a/tiny", "--class", "dog", "--steps", "2", "--seed", "3", "--out", out]
    for command in (["sample", *flags], ["verify", out, "--model", "hf://a/tiny"]):
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert "same: all 256 pixels" in result.output


@pytest.mark.slow
def test_the_library_s_own_variables_are_honoured(hub: SmallHub, tmp_path: Path) -> None:
    code = "import sys; from models.library import find; print(find(sys.argv[1]))"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }
    hub.gated = {"a/b"}
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", code, "a/b"],
            env=environment | more,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        folder = Path(done.stdout.strip())
        assert folder.is_relative_to(tmp_path / "home/hub")
        assert names(folder) == WANTED
    assert sorted(hub.asked) == sorted(WANTED)
