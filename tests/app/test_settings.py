"""Settings come from the environment and are refused when wrong."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DARKROOM_PORT", "PORT", "DARKROOM_MODELS"):
        monkeypatch.delenv(name, raising=False)


def test_models_are_comma_separated_names_or_paths(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    monkeypatch.setenv("DARKROOM_MODELS", f"digits, {tiny_folder}")
    folders = Settings().folders
    assert list(folders) == ["digits", "tiny"]
    for nothing_named in ("", "digits,"):
        monkeypatch.setenv("DARKROOM_MODELS", nothing_named)
        assert list(Settings().folders) == ["digits"]
    assert folders["tiny"] == tiny_folder.resolve()


def test_models_have_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path
) -> None:
    """By their run, by the repository of a snapshot, or as told; commas may be in paths."""
    paths = ["runs/shoes/model", "runs/a, b/model", "hub/models--owner--pets/snapshots/0a1b"]
    for path in paths:
        (tmp_path / path).mkdir(parents=True)
    given = [f"{tmp_path}/{path}" for path in paths]
    for text in (
        ",".join([*given, f"cats={tiny_folder}"]),
        json.dumps([*given, f"cats={tiny_folder}"]),
    ):
        monkeypatch.setenv("DARKROOM_MODELS", text)
        folders = Settings().folders
        assert list(folders) == ["shoes", "a, b", "pets", "cats"]
        assert folders["shoes"] == (tmp_path / paths[0]).resolve()
        assert folders["cats"] == tiny_folder.resolve()
    monkeypatch.setenv("DARKROOM_MODELS", f"{given[0]},shoes={given[1]}")
    with pytest.raises(
        ValidationError, match=r"two models have the same name: shoes, shoes; .*name=path"
    ):
        Settings()


def test_models_are_files_and_names_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "dream_v8.safetensors"
    file.touch()
    monkeypatch.setenv("DARKROOM_MODELS", f"{file},owner/pets@v2,cats=owner/pets")
    where = {name: str(place) for name, place in Settings().folders.items()}
    assert where == {
        "dream_v8": str(file),
        "pets": "hf://owner/pets@v2",
        "cats": "hf://owner/pets",
    }
    monkeypatch.setenv("DARKROOM_MODELS", "owner/pets,other/pets")
    with pytest.raises(ValidationError, match="two models have the same name: pets, pets"):
        Settings()


def test_the_port_is_ours_or_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().port == 8000
    monkeypatch.setenv("PORT", "8123")
    assert Settings().port == 8123
    monkeypatch.setenv("DARKROOM_PORT", "9000")
    assert Settings().port == 9000
    assert Settings(port=1).port == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DARKROOM_PORT", "99999", "less than or equal to 65535"),
        ("DARKROOM_MODELS", "nothing", "no model 'nothing'; shipped: digits"),
        ("DARKROOM_MODELS", "digits,digits", "two models have the same name"),
        ("DARKROOM_SLOTS", "0", "greater than or equal to 1"),
        ("DARKROOM_MAX_JOBS", "0", "greater than or equal to 1"),
        ("DARKROOM_MAX_PRIORITY", "-1", "greater than or equal to 0"),
        ("DARKROOM_MAX_PRIORITY", "11", "less than or equal to 10"),
        ("DARKROOM_MAX_WORK_SECONDS", "0", "greater than 0"),
        ("DARKROOM_TIMEOUT_SECONDS", "nan", "finite number"),
        ("DARKROOM_HANG_SECONDS", "0", "greater than or equal to 1"),
        ("DARKROOM_HANG_SECONDS", "inf", "finite number"),
        ("DARKROOM_LOAD_SECONDS", "-1", "greater than or equal to 1"),
        ("DARKROOM_REQUIRE_ALL_MODELS", "perhaps", "valid boolean"),
        ("DARKROOM_BACKEND", "tensorrt", "'openvino', 'eager' or 'cuda-graphs'"),
        *(
            ("DARKROOM_DEVICE", wrong, "allowed: auto, cpu, cuda, or a GPU by its number")
            for wrong in ("tpu", "cuda:", "cuda:x", "cpu:0", "cuda:0\n", "cuda:\u0661", "CPU")
        ),
        ("DARKROOM_TRUSTED_PROXIES", "10.0.0.1/8", "allowed: an address, or a network such as"),
        ("DARKROOM_DTYPE", "int8", "'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_a_wrong_value_stops_the_server(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=message):
        Settings()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("DARKROOM_MODEL", "DARKROOM_MODEL is not a setting; nearest: DARKROOM_MODELS"),
        ("DARKROOM_TIMEOUT", "nearest: DARKROOM_TIMEOUT_SECONDS"),
        ("DARKROOM_PROT", "nearest: DARKROOM_PORT"),
        ("darkroom_slot", "DARKROOM_SLOT is not a setting; nearest: DARKROOM_SLOTS"),
        ("DARKROOM_" + "X" * 5000, "is not a setting; see docs/settings.md"),
    ],
)
def test_a_variable_that_means_nothing_is_refused_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ValidationError, match=re.escape(told)) as error:
        Settings()
    assert len(str(error.value)) < 1000


def test_what_kubernetes_says_of_a_service_of_our_name_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kubernetes.io/docs/tutorials/services/connect-applications-service, environment variables."""
    for name, value in {
        "DARKROOM_SERVICE_HOST": "10.0.0.11",
        "DARKROOM_SERVICE_PORT": "8000",
        "DARKROOM_SERVICE_PORT_HTTP": "8000",
        "DARKROOM_PORT": "tcp://10.0.0.11:8000",
        "DARKROOM_PORT_8000_TCP": "tcp://10.0.0.11:8000",
        "DARKROOM_PORT_8000_TCP_PROTO": "tcp",
        "DARKROOM_PORT_8000_TCP_PORT": "8000",
        "DARKROOM_PORT_8000_TCP_ADDR": "10.0.0.11",
        "DARKROOM_GPU_SERVICE_HOST": "10.0.0.12",
        "DARKROOM_GPU_SERVICE_PORT_HTTP": "8000",
        "DARKROOM_GPU_PORT": "tcp://10.0.0.12:8000",
        "DARKROOM_GPU_PORT_8000_TCP_ADDR": "10.0.0.12",
    }.items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 8000
    monkeypatch.setenv("PORT", "8123")
    assert Settings().port == 8123
    monkeypatch.setenv("DARKROOM_GPU_PORT", "8000")
    with pytest.raises(ValidationError, match="DARKROOM_GPU_PORT is not a setting"):
        Settings()


@pytest.mark.parametrize(
    ("given", "host"), [("[::1]", "::1"), ("LocalHost", "localhost"), ("::", "::")]
)
def test_a_host_is_read_as_people_write_it(given: str, host: str) -> None:
    assert Settings(host=given).host == host


@pytest.mark.parametrize("path", ["darkroom", "/", "/a/", "//a", "/a b", "/a?b", "/ä", "/a/.."])
def test_a_root_path_is_a_plain_path(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("DARKROOM_ROOT_PATH", path)
    with pytest.raises(ValidationError, match="allowed: such as /darkroom"):
        Settings()
    monkeypatch.setenv("DARKROOM_ROOT_PATH", "/a/b-c.d")
    assert Settings().root_path == "/a/b-c.d"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if line.startswith("| `DARKROOM_"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    listed = re.findall(r"`(DARKROOM_\w+)`", " ".join(variables for variables, _, _ in rows))
    named = {f"DARKROOM_{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert sorted(listed) == sorted(named), "each once, and no other"
    assert set(re.findall(r"DARKROOM_[A-Z0-9]\w*", text)) <= named.keys()
    for variables, told, _ in rows:
        names = re.findall(r"`(DARKROOM_\w+)`", variables)
        if not re.fullmatch(r"`[^`]*`(, `[^`]*`)*", told):  # in words, or none
            assert all(named[name].default in (None, (), "") for name in names), names
            continue
        for name, default in zip(names, re.findall(r"`([^`]*)`", told), strict=True):
            assert _written(named[name].default) == default, name


def _written(default: object) -> str:
    """A default as the page writes it, which is how a variable is set."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_readme_and_other_pages_name_no_setting_that_does_not_exist() -> None:
    root = Path(__file__).parents[2]
    known = {f"DARKROOM_{name.upper()}" for name in Settings.model_fields}
    pages = [*root.glob("*.md"), *root.glob("docs/*.md")]
    for page in pages:
        if page.name not in ("CHANGELOG.md", "decisions.md"):  # these tell of what was
            told = page.read_text(encoding="utf-8").replace("DARKROOM_PORT=tcp", "")
            assert set(re.findall(r"\bDARKROOM_[A-Z][A-Z_]*[A-Z]\b", told)) <= known, page


def test_model_folders_are_absolute_and_each_is_named_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("a", "b, c", "home/mine"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    expected = (tmp_path / "a", tmp_path / "b, c", tmp_path / "home" / "mine")
    monkeypatch.setenv("DARKROOM_MODEL_FOLDERS", f"a,{tmp_path}/b, c,~/mine, {tmp_path}/a")
    assert Settings().model_folders == expected
    monkeypatch.setenv("DARKROOM_MODEL_FOLDERS", '["a", "b, c", "~/mine"]')
    assert Settings().keeping.folders == expected
    monkeypatch.setenv("DARKROOM_MODEL_FOLDERS", "")
    assert Settings().keeping.folders == ()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("nothing", "'nothing' is no folder; allowed: paths of folders"),
        ("file", "'file' is no folder"),
        ("broken", "'broken' is no folder"),
        ("~nobody-of-this-name/x", "is no folder"),
        ("x" * 300, r"x' is no folder|\.\.\..* is no folder"),
        ("bell\a", "is no folder"),
        ("a,file", "'file' is no folder"),
        ('["a", 1]', "is no JSON list of texts"),
    ],
)
def test_what_is_no_folder_of_models_stops_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "bell\a").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nothing")
    monkeypatch.setenv("DARKROOM_MODEL_FOLDERS", value)
    with pytest.raises(ValidationError, match=told) as raised:
        Settings()
    assert len(str(raised.value)) < 600


def test_a_folder_that_is_closed_to_us_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(tempfile.mkdtemp())
    (place / "shut").mkdir(0o700)
    was = os.geteuid()
    try:
        for closed, asked, told in (
            (place / "shut", place / "shut", "shut' may not be read by this user"),
            (place, place / "shut", "shut' is in a folder that this user may not look into"),
        ):
            place.chmod(0o755)
            closed.chmod(0)
            monkeypatch.setenv("DARKROOM_MODEL_FOLDERS", str(asked))
            if was == 0:  # may read everything
                os.seteuid(65_534)
            with pytest.raises(ValidationError, match=told):
                Settings()
            os.seteuid(was)
    finally:
        os.seteuid(was)
        place.chmod(0o755)
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("models", "folders", "most", "told"),
    [
        ("digits", "", 1, None),
        ("digits", ".", 2, None),
        ("digits", ".", 1, "DARKROOM_MAX_LOADED is 1; allowed: at least 2, .*one of model_folders"),
        ("digits,twin=digits", "", 1, "allowed: at least 2, for the 2 of DARKROOM_MODELS"),
    ],
)
def test_what_stays_leaves_room_for_one_that_comes(
    monkeypatch: pytest.MonkeyPatch, models: str, folders: str, most: int, told: str | None
) -> None:
    monkeypatch.setenv("DARKROOM_MODELS", models)
    monkeypatch.setenv("DARKROOM_MODEL_FOLDERS", folders)
    monkeypatch.setenv("DARKROOM_MAX_LOADED", str(most))
    if told is None:
        assert Settings().keeping.most == most
    else:
        with pytest.raises(ValidationError, match=told):
            Settings()
