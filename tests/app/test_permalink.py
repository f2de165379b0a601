"""Ids of images: one each, back and forth, and nothing else is one."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.job import MAX_SEED, SamplingParams
from app.engine.model_info import ModelInfo
from app.errors import UnknownImage
from app.files import ids
from app.files.ids import MAX_ID, entity_tag, image_id, params_of
from models.conditioning import MAX_PROMPT, Classes, Condition, Prompt
from models.sampling import SAMPLERS
from models.sizes import Sizes
from tests.fakes import INFO, TEXT, drawn

SIZES = Sizes(32, 32, step=8, least=16, most=64)
ONE = dataclasses.replace(INFO, digest="ab" * 32)
TWO = dataclasses.replace(
    INFO, name="two", digest="cd" * 32, classes=Classes(("a", "b")), sizes=SIZES
)
MODELS = {"fake": ONE, "two": TWO, "text": TEXT}
fractions = st.floats(0, 1)


def conditions(info: ModelInfo) -> st.SearchStrategy[Condition]:
    if info.prompts is None:
        return st.sampled_from([None, 0, 1] if info.classes.optional else [0, 1]).map(Condition)
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
    prompts = st.builds(Prompt, text, text, st.integers(0, info.prompts.clip_skip))
    return prompts.map(lambda prompt: Condition(prompt=prompt))


@st.composite
def wanted(draw: st.DrawFn) -> tuple[SamplingParams, ModelInfo]:
    info = draw(st.sampled_from(list(MODELS.values())))
    sampler = draw(st.sampled_from(list(SAMPLERS.values())))
    sizes = [(info.sizes.width, info.sizes.height)]
    if not info.sizes.fixed:
        sizes += [(16, 24), (32, 16)]
    width, height = draw(st.sampled_from(sizes))
    params = SamplingParams(
        model=info.name,
        condition=draw(conditions(info)),
        sampler=sampler.name,
        spacing=draw(st.sampled_from(sampler.spacings)),
        width=width,
        height=height,
        steps=draw(st.integers(1, 1000)),
        guidance_scale=draw(st.floats(0, 30)),
        guidance_interval=tuple(sorted((draw(fractions), draw(fractions)))),  # type: ignore[arg-type]
        eta=draw(fractions),
        seed=draw(st.integers(0, MAX_SEED)),
        n=draw(st.integers(1, 16)),
    )
    return params.canonical(info), info


@given(wanted(), st.integers(0, 15))
def test_an_id_stands_for_its_image(want: tuple[SamplingParams, ModelInfo], image: int) -> None:
    params, info = want
    image %= params.n
    name = image_id(params, image, info)
    assert name is not None
    assert len(name) <= (120 if info.prompts is None else MAX_ID)
    assert name.replace("-", "").replace("_", "").isalnum()
    alone = dataclasses.replace(params, seed=params.seed_of(image), n=1)
    assert params_of(name, MODELS) == alone


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda b: b.hex()))
def test_anything_else_is_no_id(name: str) -> None:
    with pytest.raises(UnknownImage):
        params_of(name, MODELS)


@given(wanted(), st.data())
def test_a_damaged_id_is_another_images_or_nobodys(
    want: tuple[SamplingParams, ModelInfo], data: st.DataObject
) -> None:
    """Whatever comes of it is named by that id: no image has two."""
    name = image_id(want[0], 0, want[1])
    assert name is not None
    place = data.draw(st.integers(0, len(name) - 1))
    other = data.draw(st.sampled_from("ABCXYZabcxyz0189-_="))
    damaged = name[:place] + other + name[place + 1 :]
    try:
        params = params_of(damaged, MODELS)
    except UnknownImage:
        return
    assert image_id(params, 0, MODELS[params.model]) == damaged


def prompted(prompt: Prompt, **more: object) -> SamplingParams:
    params = drawn("text", None, 10, 1.5, (0.0, 1.0), 0.0, 1, 1, width=8, height=8)
    return dataclasses.replace(params, condition=Condition(prompt=prompt), **more)


def test_an_id_is_given_up_where_it_would_be_too_long() -> None:
    """To the byte: the longest is one of an address, and one letter more has none."""
    lengths = [len(image_id(prompted(Prompt("x" * n)), 0, TEXT) or "") for n in range(1000)]
    last = max(n for n, length in enumerate(lengths) if length)
    assert MAX_ID - 4 < lengths[last] <= MAX_ID
    assert all(lengths[: last + 1])
    assert not any(lengths[last + 1 :])


@pytest.mark.parametrize(
    "prompt",
    [Prompt("a\0"), Prompt("a", "\0"), Prompt("a", clip_skip=3), Prompt("a", clip_skip=-1)],
    ids=repr,
)
def test_an_id_of_what_no_request_can_ask_is_nobodys(prompt: Prompt) -> None:
    name = image_id(prompted(prompt), 0, TEXT)
    assert name is not None
    with pytest.raises(UnknownImage):
        params_of(name, MODELS)
    assert not TEXT.takes.knows(Condition(prompt=Prompt("x" * (MAX_PROMPT + 1))))


def test_a_class_is_no_prompt_and_a_prompt_no_class() -> None:
    prompt = Condition(prompt=Prompt("a"))
    for info, condition in ((ONE, prompt), (TEXT, Condition(0)), (TEXT, Condition())):
        params = dataclasses.replace(
            drawn(info.name, 0, 9, 1.0, (0.0, 1.0), 0.0, 1, 1), condition=condition
        )
        name = image_id(params, 0, info)
        assert name is not None
        with pytest.raises(UnknownImage):
            params_of(name, MODELS)


def test_an_id_is_nobodys_once_the_checkpoint_is_another() -> None:
    params = drawn("fake", 0, 10, 1.5, (0.0, 1.0), 0.0, 1, 1)
    name = image_id(params, 0, ONE)
    with pytest.raises(UnknownImage):
        params_of(name, {"fake": dataclasses.replace(ONE, digest="ef" * 32)})
    renamed = dataclasses.replace(ONE, name="renamed")
    assert params_of(name, {"renamed": renamed}).model == "renamed"


@given(wanted(), st.tuples(fractions, fractions), st.integers(1, 40))
def test_intervals_that_cover_the_same_steps_have_one_id(
    want: tuple[SamplingParams, ModelInfo], interval: tuple[float, float], steps: int
) -> None:
    """Compared with the steps themselves; the name of an interval is one that covers the same."""
    given = dataclasses.replace(
        want[0],
        model="fake",
        condition=Condition(0),
        sampler="ddim",
        spacing="default",
        steps=steps,
        guidance_scale=2.0,
        guidance_interval=(min(interval), max(interval)),
    )
    rows = [given.rows(step) for step in range(steps)]
    named = given.canonical(ONE)
    assert [named.rows(step) for step in range(steps)] == rows
    assert named.canonical(ONE) == named
    covered = [step for step, count in enumerate(rows) if count == 2]
    if covered:
        # The narrowest, and the widest: from after the step before to the one behind.
        first, last = covered[0], covered[-1]
        wide = (max(0.0, (first - 0.5) / steps), min(1.0, (last + 0.5) / steps))
        for other in ((first / steps, (last + 1) / steps), wide):
            same = dataclasses.replace(given, guidance_interval=other).canonical(ONE)
            assert image_id(same, 0, ONE) == image_id(named, 0, ONE)
    else:
        plain = dataclasses.replace(given, guidance_scale=1.0, guidance_interval=(0.0, 1.0))
        assert image_id(named, 0, ONE) == image_id(plain, 0, ONE)


def test_an_id_is_the_same_on_every_machine() -> None:
    params = drawn("fake", 0, 10, 1.5, (0.0, 1.0), 0.0, 1, 1)
    other = dataclasses.replace(ONE, backend="x", device="y", dtype="z", platform="w", exact=False)
    assert image_id(params, 0, other) == image_id(params, 0, ONE)


def test_a_tag_changes_with_the_code_and_with_nothing_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever version it calls itself; a tag of today is a tag of tomorrow."""
    for name in (
        *("app/files/ids.py", "app/engine/runner.py", "models/samplers.py", "models/text/clip.py"),
        "docs/api.md",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "models/training").mkdir()
    monkeypatch.setattr(ids, "__file__", str(tmp_path / "app/files/ids.py"))
    source = ids._source.__wrapped__
    seen = {source()}
    (tmp_path / "docs/api.md").write_text("other words")
    (tmp_path / "models/training/loop.py").write_text("another loop")
    assert seen == {source()}
    for name in (
        *("app/engine/runner.py", "models/samplers.py", "app/files/formats.py"),
        "models/text/clip.py",
    ):
        (tmp_path / name).write_text("another way")
        seen.add(source())
    (tmp_path / "models/samplers.py").rename(tmp_path / "models/other.py")
    seen.add(source())
    assert len(seen) == 6

    params = drawn("fake", 0, 10, 1.5, (0.0, 1.0), 0.0, 1, 1)
    monkeypatch.setattr(ids, "_source", lambda: "one")
    tag = entity_tag(params, ONE, "image/png", marked=True)
    assert entity_tag(params, ONE, "image/png", marked=True) == tag
    monkeypatch.setattr(ids, "_source", lambda: "two")
    assert entity_tag(params, ONE, "image/png", marked=True) != tag


def test_a_tag_changes_with_all_that_the_bytes_depend_on() -> None:
    params = drawn("fake", 0, 10, 1.5, (0.0, 1.0), 0.0, 1, 1)
    tags = [
        entity_tag(params, ONE, "image/png", marked=True),
        entity_tag(params, ONE, "image/webp", marked=True),
        entity_tag(params, ONE, "image/png", marked=False),
        entity_tag(dataclasses.replace(params, seed=2), ONE, "image/png", marked=True),
        entity_tag(dataclasses.replace(params, n=2), ONE, "image/png", marked=True),
        entity_tag(params, dataclasses.replace(ONE, digest="00" * 32), "image/png", marked=True),
        entity_tag(params, dataclasses.replace(ONE, backend="other"), "image/png", marked=True),
        entity_tag(params, dataclasses.replace(ONE, dtype="bfloat16"), "image/png", marked=True),
        entity_tag(params, dataclasses.replace(ONE, device="a GPU"), "image/png", marked=True),
        entity_tag(params, dataclasses.replace(ONE, platform="avx512f"), "image/png", marked=True),
    ]
    assert len(set(tags)) == len(tags)
    assert all(tag.startswith('"') for tag in tags)
    inexact = dataclasses.replace(ONE, exact=False)
    assert entity_tag(params, inexact, "image/png", marked=True).startswith('W/"')
