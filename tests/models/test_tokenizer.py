"""Tokens equal transformers' `CLIPTokenizer`, from its files of every age; hostile files do not."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTokenizer

from models.checkpoint import CheckpointError
from models.text.shipped import BOS, EOS, shipped_vocabulary
from models.text.tokenizer import Tokenizer
from tests.models.hostile import POINTER, SPECIAL, changed, contents, raw, special
from tests.models.wording import ids_of, prompts, small_vocabulary, write_tokenizer

LONG = 300  # characters of a message, its folder aside
DECODER = "added_tokens_decoder"
SIZE = 1000  # of the encoder's vocabulary, for `small_vocabulary`


def flagged(text: str, **flags: bool) -> dict[str, Any]:
    return {
        "content": text,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
        **flags,
    }


SMALL = small_vocabulary()[0]
OLD_CONFIG: dict[str, Any] = {  # of 2022: 1.4, 1.5, 2.0 and 2.1
    "add_prefix_space": False,
    "bos_token": {"__type": "AddedToken", **flagged(BOS)},
    "do_lower_case": True,
    "eos_token": {"__type": "AddedToken", **flagged(EOS)},
    "errors": "replace",
    "model_max_length": 77,
    "name_or_path": "openai/clip-vit-large-patch14",
    "pad_token": EOS,
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": {"__type": "AddedToken", **flagged(EOS)},
}
OLD_SPECIAL = {
    "bos_token": flagged(BOS),
    "eos_token": flagged(EOS),
    "pad_token": EOS,
    "unk_token": flagged(EOS),
}
NEW_CONFIG: dict[str, Any] = {  # of 2023 and later: SDXL
    "add_prefix_space": False,
    "added_tokens_decoder": {
        "0": flagged("!", normalized=False, special=True),
        str(SMALL[BOS]): flagged(BOS, special=True),
        str(SMALL[EOS]): flagged(EOS, normalized=False, special=True),
    },
    "bos_token": BOS,
    "clean_up_tokenization_spaces": True,
    "do_lower_case": True,
    "eos_token": EOS,
    "errors": "replace",
    "model_max_length": 77,
    "pad_token": "!",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": EOS,
}
CAT = [f"<cat>{'' if i == 0 else f'_{i}'}" for i in range(3)]
ADDED = {token: len(SMALL) + i for i, token in enumerate([*CAT, "<dog>"])}
FOLDERS: dict[str, dict[str, Any]] = {
    "nothing but the vocabulary": {},
    "1.5": {"tokenizer_config": OLD_CONFIG, "special_tokens_map": OLD_SPECIAL},
    "2.1, whose files disagree": {
        "tokenizer_config": OLD_CONFIG,
        "special_tokens_map": OLD_SPECIAL | {"pad_token": "!"},
    },
    "2.1 without its map": {"tokenizer_config": OLD_CONFIG | {"pad_token": "!"}},
    "SDXL's second": {"tokenizer_config": NEW_CONFIG},
    "SDXL's second, with a map that disagrees": {
        "tokenizer_config": NEW_CONFIG,
        "special_tokens_map": OLD_SPECIAL,
    },
    "another padding": {"tokenizer_config": OLD_CONFIG | {"pad_token": "<pad>"}},
    "shorter": {"tokenizer_config": OLD_CONFIG | {"model_max_length": 16}},
    "neither lower case nor without a space": {
        "tokenizer_config": OLD_CONFIG | {"do_lower_case": False, "add_prefix_space": True}
    },
    "added_tokens.json": {
        "tokenizer_config": OLD_CONFIG,
        "special_tokens_map": OLD_SPECIAL | {"additional_special_tokens": ["<dog>"]},
        "added_tokens": ADDED,
    },
    "textual inversion": {
        "tokenizer_config": NEW_CONFIG
        | {
            "added_tokens_decoder": NEW_CONFIG["added_tokens_decoder"]
            | {str(i): flagged(token, special=False) for token, i in ADDED.items()}
        }
    },
    "more special tokens": {
        "tokenizer_config": OLD_CONFIG
        | {"mask_token": "<mask>", "extra_special_tokens": ["of", "<x>"]}
    },
}


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    return Tokenizer.shipped()


def test_the_shipped_vocabulary_is_clip_s(shipped: Tokenizer) -> None:
    """Ids as CLIP's own README and the repository of 1.5 have them."""
    assert shipped.encode("a photo of a cat").ids[:7] == (49406, 320, 1125, 539, 320, 2368, 49407)
    assert shipped.encode("a diagram").ids[1:3] == (320, 22697)
    vocabulary, merges = shipped_vocabulary()
    assert (len(vocabulary), len(merges)) == (49_408, 48_894)
    assert vocabulary[BOS], vocabulary[EOS] == (49_406, 49_407)


@pytest.mark.slow
@pytest.mark.parametrize("pad", [EOS, "!"])
def test_2000_prompts(pad: str, shipped: Tokenizer) -> None:
    vocabulary, merges = shipped_vocabulary()
    oracle = CLIPTokenizer(vocabulary, merges, pad_token=pad, model_max_length=77)
    made = shipped if pad == EOS else Tokenizer.shipped(pad)
    texts = list(prompts(2000 if pad == EOS else 100))
    whole: list[list[int]] = oracle(texts).input_ids
    for text, expected, ids in zip(texts, ids_of(oracle, texts), whole, strict=True):
        found = made.encode(text)
        assert list(found.ids) == expected, text
        assert found.cut == max(len(ids) - 77, 0), text


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name: str, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, **FOLDERS[name])
    oracle = CLIPTokenizer.from_pretrained(folder)
    made = Tokenizer.read(folder, vocab_size=SIZE)
    assert made.length == min(oracle.model_max_length, 77)
    compare(made, oracle)


def compare(made: Tokenizer, oracle: CLIPTokenizer) -> None:
    texts = ["a <DOG>, a <dog> of <X> and <x>", "<mask><MASK> <pad> office of", *prompts(60)]
    whole = TextualInversionLoaderMixin().maybe_convert_prompt(texts, oracle)
    for text, expected in zip(texts, ids_of(oracle, whole, made.length), strict=True):
        assert list(made.encode(text).ids) == expected, text


@pytest.mark.parametrize(("decoder", "pad"), [(False, 0), (True, SMALL[EOS])])
def test_which_file_says_how_to_pad(decoder: bool, pad: int, tmp_path: Path) -> None:
    """As in transformers: the map, unless the configuration is of an age to have a decoder."""
    config = OLD_CONFIG | ({DECODER: NEW_CONFIG[DECODER]} if decoder else {})
    special = OLD_SPECIAL | {"pad_token": "!"}
    folder = write_tokenizer(tmp_path, tokenizer_config=config, special_tokens_map=special)
    assert CLIPTokenizer.from_pretrained(folder).pad_token_id == pad
    assert Tokenizer.read(folder, vocab_size=SIZE).encode("a cat").ids[-1] == pad


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_as_transformers_5_saves_them(name: str, tmp_path: Path) -> None:
    """One tokenizer.json in place of vocab.json and merges.txt."""
    oracle = CLIPTokenizer.from_pretrained(write_tokenizer(tmp_path / "old", **FOLDERS[name]))
    oracle.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new/vocab.json").exists()
    again = CLIPTokenizer.from_pretrained(tmp_path / "new")
    compare(Tokenizer.read(tmp_path / "new", vocab_size=SIZE), again)


def test_a_tokenizer_json_of_version_4(tmp_path: Path) -> None:
    """Merges are texts, and how it was last called is in it; that has no effect."""
    config = OLD_CONFIG | {DECODER: {str(SMALL[name]): flagged(name) for name in (BOS, EOS)}}
    folder = write_tokenizer(tmp_path, tokenizer_config=OLD_CONFIG)
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["merges"] = [" ".join(pair) for pair in values["model"]["merges"]]
    values["truncation"] = {
        "direction": "Right",
        "max_length": 20,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    values["padding"] = {
        "strategy": {"Fixed": 20},
        "direction": "Right",
        "pad_to_multiple_of": 8,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    path.write_text(json.dumps(values))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    compare(Tokenizer.read(folder, vocab_size=SIZE), CLIPTokenizer.from_pretrained(folder))


def test_tokenizer_json_goes_before_the_old_files(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, tokenizer_config=OLD_CONFIG)
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    compare(Tokenizer.read(folder, vocab_size=SIZE), CLIPTokenizer.from_pretrained(folder))


def test_the_whole_vocabulary_from_a_folder(tmp_path: Path, shipped: Tokenizer) -> None:
    vocabulary, merges = shipped_vocabulary()
    CLIPTokenizer(vocabulary, merges, model_max_length=77).save_pretrained(tmp_path)
    made = Tokenizer.read(tmp_path)
    assert all(made.encode(text) == shipped.encode(text) for text in prompts(50, seed=1))


@pytest.mark.parametrize("several", ["a <cat> in a hat", "<cat><cat>", "<CAT> and <dog> <dog>_1"])
def test_a_token_with_several_vectors(several: str, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, **FOLDERS["textual inversion"])
    ids = Tokenizer.read(folder, vocab_size=SIZE).encode(several).ids
    oracle = CLIPTokenizer.from_pretrained(folder)
    whole = TextualInversionLoaderMixin().maybe_convert_prompt(several, oracle)
    assert [list(ids)] == ids_of(oracle, [whole])
    assert ("<cat>" not in several) or set(ids) >= {ADDED[token] for token in CAT}


def test_tokens_that_hold_the_names_of_others_do_not_multiply(tmp_path: Path) -> None:
    """One after another, each would make eleven times as many of the next: gigabytes."""
    heads = ["<a>", *(f"_{i}" for i in range(1, 8))]
    names = [f"{head}{'' if k == 0 else f'_{k}'}" for head in heads for k in range(77)]
    added = {name: len(SMALL) + i for i, name in enumerate(names)}
    decoder = {str(i): flagged(name, special=False) for name, i in added.items()}
    decoder |= NEW_CONFIG["added_tokens_decoder"]
    config = NEW_CONFIG | {"added_tokens_decoder": decoder}
    folder = write_tokenizer(tmp_path, tokenizer_config=config)
    tokenizer = Tokenizer.read(folder, vocab_size=len(SMALL) + len(added))
    made = tokenizer.encode(" ".join(heads))
    assert list(made.ids[1:76]) == [added[name] for name in names[:75]]
    assert made.cut == len(names) - 75


def test_half_a_surrogate_pair_is_an_error(shipped: Tokenizer) -> None:
    with pytest.raises((TypeError, ValueError)):
        shipped.encode("a \ud800 cat")


@pytest.mark.parametrize(
    ("given", "length"),
    [
        ({"model_max_length": 1e30}, 32),
        ({"model_max_length": 10**30}, 32),
        ({"model_max_length": 77}, 32),
        ({"model_max_length": None}, 32),
        ({}, 32),
        ({"max_len": 16}, 16),
        ({"model_max_length": 2}, 2),
    ],
)
def test_the_encoder_bounds_the_length(given: dict[str, Any], length: int, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, tokenizer_config=given)
    made = Tokenizer.read(folder, vocab_size=SIZE, positions=32).encode("a " * 40)
    assert (len(made.ids), made.cut) == (length, 40 + 2 - length)


CONFIG, VOCAB, MERGES = "tokenizer_config.json", "vocab.json", "merges.txt"
FAST, MAP, ADDED_FILE = "tokenizer.json", "special_tokens_map.json", "added_tokens.json"
MODEL: dict[str, Any] = {"type": "BPE", "vocab": SMALL, "merges": []}


def fast(**values: Any) -> Callable[[Path], Any]:
    """A tokenizer.json beside the old files."""
    text = json.dumps({"model": MODEL, "added_tokens": []} | values)
    return contents(FAST, text.encode())


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "1 GB of vocabulary": (lambda f: grown(f / VOCAB), "vocab.json: has 1,000,000,000 bytes"),
    "1 GB of merges": (lambda f: grown(f / MERGES), "merges.txt: has 1,000,000,000 bytes"),
    "1 GB of everything": (lambda f: grown(f / FAST), "tokenizer.json: has 1,000,000,000 bytes"),
    "1 GB of configuration": (lambda f: grown(f / CONFIG), "config.json: has 1,000,000,000 bytes"),
    "no vocabulary": (lambda f: (f / VOCAB).unlink(), "vocab.json: cannot be read"),
    "no merges": (lambda f: (f / MERGES).unlink(), "merges.txt: cannot be read"),
    "a pointer": (contents(MERGES, POINTER), "merges.txt: is a Git LFS pointer"),
    "no JSON": (contents(VOCAB, b"{"), "vocab.json: not JSON"),
    "a list": (contents(VOCAB, b"[]"), "vocab.json: a JSON object"),
    "an empty vocabulary": (contents(VOCAB, b"{}"), "vocab.json: the vocabulary is {}"),
    "an id as text": (changed(VOCAB, a="1"), "vocab.json: token 'a' has the id '1'"),
    "an id as a list": (changed(VOCAB, a=[1]), "vocab.json: token 'a' has the id [1]"),
    "true as an id": (changed(VOCAB, a=True), "vocab.json: token 'a' has the id True"),
    "half an id": (changed(VOCAB, a=0.5), "vocab.json: token 'a' has the id 0.5"),
    "a negative id": (changed(VOCAB, a=-1), "token 'a' has the id -1; allowed: 0 to 999"),
    "an id beyond the encoder": (changed(VOCAB, new=1000), "token 'new' has the id 1000"),
    "an id of 2^64": (changed(VOCAB, a=2**64), "vocab.json: token 'a' has the id"),
    "an id of 5,000 digits": (raw(VOCAB, "a", "9" * 5000), "token 'a' has the id inf"),
    "an id twice": (changed(VOCAB, new=5), "vocab.json: token 'new' has the id 5 of another"),
    "a token twice": (contents(VOCAB, b'{"a": 1, "a": 2}'), "vocab.json: key 'a' comes twice"),
    "half a surrogate pair": (raw(VOCAB, "\ud800", "999"), "vocab.json: token '\\ud800' is no"),
    "a long token": (changed(VOCAB, **{"x" * 10**5: "y"}), "vocab.json: token 'xxx"),
    "no unknown token": (changed(CONFIG, unk_token="<no>"), "vocab.json: unk_token '<no>'"),
    "a merge not in the vocabulary": (
        contents(MERGES, b"q zz\n"),
        "merges.txt: merge 'q zz' needs",
    ),
    "a merge to nothing known": (contents(MERGES, b"q q\n"), "merge 'q q' needs 'qq'"),
    "a merge of one": (contents(MERGES, b"q\n"), "merges.txt: a merge is 'q'"),
    "a merge of three": (contents(MERGES, b"i n g\n"), "merges.txt: a merge is 'i n g'"),
    "an empty line": (contents(MERGES, b"i n\n\nt h\n"), "merges.txt: a merge is ''"),
    "merges in Latin-1": (contents(MERGES, b"\xe4 b\n"), "merges.txt: not UTF-8"),
    "code": (changed(CONFIG, auto_map={"AutoTokenizer": ["evil.Evil", None]}), "auto_map is"),
    "another class": (changed(CONFIG, tokenizer_class="T5Tokenizer"), "tokenizer_class is 'T5To"),
    "padding before": (changed(CONFIG, padding_side="left"), "padding_side is 'left'"),
    "cut before": (changed(CONFIG, truncation_side="left"), "truncation_side is 'left'"),
    "special tokens split": (changed(CONFIG, split_special_tokens=True), "split_special_tokens"),
    "a token of another model": (changed(CONFIG, image_token="<i>"), "unknown key 'image_token'"),
    "no padding": (changed(CONFIG, pad_token=None), "config.json: pad_token is None"),
    "empty padding": (changed(CONFIG, pad_token=""), "config.json: pad_token is ''"),
    "padding as a number": (changed(MAP, pad_token=0), "special_tokens_map.json: pad_token is 0"),
    "a flag as text": (changed(CONFIG, bos_token=flagged(BOS, lstrip="x")), "bos_token is {"),  # type: ignore[arg-type]
    "a length as text": (changed(CONFIG, model_max_length="77"), "model_max_length is '77'"),
    "a length of 1": (changed(CONFIG, model_max_length=1), "model_max_length is 1; allowed"),
    "a negative length": (changed(CONFIG, model_max_length=-5), "model_max_length is -5"),
    "half a token": (changed(CONFIG, model_max_length=7.5), "model_max_length is 7.5"),
    "a length that is no number": (raw(CONFIG, "model_max_length", "NaN"), "model_max_length is n"),
    "a length of true": (changed(CONFIG, model_max_length=True), "model_max_length is True"),
    "added tokens as a list": (changed(CONFIG, **{DECODER: []}), f"{DECODER} is []"),
    "an added token as a number": (changed(CONFIG, **{DECODER: {"1": 2}}), f"{DECODER} is 2"),
    "an added id as text": (changed(CONFIG, **{DECODER: {"x": "a"}}), f"{DECODER} has the id 'x'"),
    "an added id twice": (
        changed(CONFIG, **{DECODER: {"914": "<a>", "0914": "<b>"}}),
        f"{DECODER} has the id 914 twice",
    ),
    "an added id elsewhere": (
        changed(CONFIG, **{DECODER: {"2000000": "<a>"}}),
        "added token '<a>' has the id 2000000; allowed: 914",
    ),
    "an added token under two ids": (
        changed(CONFIG, **{DECODER: {"914": "<a>", "915": "<a>"}}),
        "added token '<a>' has the id 915; allowed: 914",
    ),
    "more tokens than the encoder has": (
        contents(ADDED_FILE, json.dumps({f"<{i}>": i for i in range(914, 1002)}).encode()),
        "added tokens have ids up to 1001; allowed: up to 999",
    ),
    "an added id as a fraction": (contents(ADDED_FILE, b'{"<a>": 914.5}'), "has the id 914.5"),
    "special tokens as text": (
        changed(CONFIG, extra_special_tokens="x"),
        "extra_special_tokens is",
    ),
    "another model": (fast(model={"type": "Unigram", "vocab": []}), "model.type is 'Unigram'"),
    "an empty object": (contents(FAST, b"{}"), "tokenizer.json: model.type is None"),
    "an added id of 5,000 digits": (
        changed(CONFIG, **{DECODER: {"9" * 5000: "<a>"}}),
        f"{DECODER} has the id '999",
    ),
    "no model": (fast(model=None), "tokenizer.json: model.type is None"),
    "a vocabulary of pairs": (fast(model=MODEL | {"vocab": [["a", 1]]}), "the vocabulary is [["),
    "no list of merges": (fast(model=MODEL | {"merges": "a b"}), "merges is 'a b'"),
    "a merge of numbers": (fast(model=MODEL | {"merges": [[1, 2]]}), "a merge is [1, 2]"),
    "added tokens that are none": (fast(added_tokens=[1]), "added_tokens is [1]"),
    "an added token without id": (fast(added_tokens=[{"content": "a"}]), "has the id None"),
    "saved with padding before": (fast(padding={"direction": "Left"}), "padding.direction is"),
    "saved with another cut": (fast(truncation={"direction": "Left"}), "truncation.direction is"),
}


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(10**9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tokenizer(
        tmp_path / "tokenizer", tokenizer_config=OLD_CONFIG, special_tokens_map={}
    )


@pytest.mark.parametrize("name", BAD)
def test_hostile_files_are_refused_in_one_line(name: str, folder: Path) -> None:
    damage, words = BAD[name]
    damage(folder)
    assert words in refusal(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.read(folder, vocab_size=SIZE)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert message.isprintable()
    assert len(message.replace(str(folder), "")) <= LONG
    return message


@pytest.mark.parametrize("file", [VOCAB, MERGES, FAST, CONFIG, MAP, ADDED_FILE])
@pytest.mark.parametrize("kind", sorted(SPECIAL.keys() - {"empty"}))
def test_files_that_are_none(file: str, kind: str, folder: Path) -> None:
    special(file, kind)(folder)
    assert file in refusal(folder)


def test_changed_at_random(folder: Path) -> None:
    """Every file opens and encodes, or is refused in one short line."""
    oracle = CLIPTokenizer.from_pretrained(folder)
    oracle.save_pretrained(folder / "new")
    refused = 0
    for seed in range(200):
        draw = random.Random(seed)
        at = draw.choice((folder, folder / "new"))
        path = draw.choice([path for path in sorted(at.iterdir()) if path.is_file()])
        data = path.read_bytes()
        path.write_bytes(scrambled(draw, data))
        message = opened(at)
        refused += bool(message)
        assert len(message.replace(str(at), "")) <= LONG
        path.write_bytes(data)
    assert 50 < refused < 200


def opened(folder: Path) -> str:
    """Why it does not open; nothing if it does."""
    try:
        Tokenizer.read(folder, vocab_size=SIZE).encode("a <cat> of 'tis")
    except CheckpointError as error:
        return str(error)
    return ""


def scrambled(draw: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        i = draw.randrange(max(len(made), 1))
        made[i : i + draw.choice((0, 1, 1, 5))] = draw.randbytes(draw.choice((0, 1, 1, 3)))
    return bytes(made)
