"""Text encoders equal transformers', and prompts encoded by them diffusers' pipelines."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPTextConfig as Theirs
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from models.config import ConfigError
from models.text.clip import CLIPTextEncoder
from models.text.config import CLIPTextConfig
from models.text.prompts import PromptEncoder, Reader
from models.text.tokenizer import Tokenizer
from tests.models.wording import write_tokenizer

TINY: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "projection_dim": 24,
}
# Widths, heads and activations as they are; two layers of them.
SHAPES: dict[str, dict[str, Any]] = {
    "1.x": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "2.x": {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "hidden_act": "gelu",
    },
    "SDXL": {
        "hidden_size": 1280,
        "num_attention_heads": 20,
        "intermediate_size": 5120,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    },
}
LAYERS = {"1.x": 12, "2.x": 23, "SDXL": 32}
PARAMETERS = {"1.x": 123_060_480, "2.x": 340_387_840, "SDXL": 694_659_840}
TEXTS = ("a photo of a cat", "", "eine Straße in München 🐱", "猫 " * 100)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Old(CLIPTextModel):  # type: ignore[misc]
    """With `text_model`, which transformers 5.24 took away and diffusers 0.42.1 asks for."""

    text_model = property(lambda self: self)


def pair(projected: bool = False, **values: Any) -> tuple[Any, CLIPTextEncoder]:
    """transformers' encoder with random weights, and ours with the same."""
    kind = CLIPTextModelWithProjection if projected else Old
    theirs = kind(Theirs(**values)).eval()
    with torch.no_grad():  # biases and norms are not zero and one in a trained model
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape) * parameter.std().nan_to_num(1))
    ours = CLIPTextEncoder(CLIPTextConfig(**values), projected=projected).eval()
    ours.load_state_dict({named(name): tensor for name, tensor in theirs.state_dict().items()})
    return theirs, ours


def named(name: str) -> str:
    """A name as files have it: transformers 5.24 leaves the prefix of a plain encoder away."""
    return name if name.startswith("text_") else f"text_model.{name}"


def some_ids(rows: int = 3, eos: int = 999) -> Tensor:
    """Texts of different lengths, padded with their end or with 0."""
    ids = torch.randint(1, 998, (rows, 77))
    for row, at in enumerate((5, 40, 76)[:rows]):
        ids[row, at] = eos
        ids[row, at + 1 :] = eos if row == 0 else 0
    return ids


def check_equal(theirs: Any, ours: CLIPTextEncoder, ids: Tensor) -> None:
    with torch.inference_mode():
        expected = theirs(ids, output_hidden_states=True)
        made = ours(ids)
        assert len(made.hidden) == len(expected.hidden_states)
        assert all(map(torch.equal, made.hidden, expected.hidden_states))
        assert torch.equal(ours.final(made.hidden[-1]), expected.last_hidden_state)
        pooled = expected.text_embeds if ours.text_projection else expected.pooler_output
        assert torch.equal(made.pooled, pooled)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos", [2, 999])
@pytest.mark.parametrize("projected", [False, True])
def test_equals_transformers_bit_for_bit(act: str, eos: int, projected: bool) -> None:
    theirs, ours = pair(projected, **TINY, hidden_act=act, eos_token_id=eos)
    check_equal(theirs, ours, some_ids())
    check_equal(theirs, ours, some_ids(1)[:, :20])


def test_an_end_of_text_that_is_not_there() -> None:
    theirs, ours = pair(**TINY, eos_token_id=49407)
    check_equal(theirs, ours, some_ids())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_equals_transformers_in_half_precision(dtype: torch.dtype) -> None:
    theirs, ours = pair(True, **TINY, eos_token_id=999)
    check_equal(theirs.to(dtype), ours.to(dtype), some_ids())


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_true_widths_equal_transformers_bit_for_bit(shape: str) -> None:
    values = TINY | SHAPES[shape] | {"num_hidden_layers": 2, "eos_token_id": 2}
    check_equal(*pair(shape == "SDXL", **values), some_ids(2))


@pytest.mark.parametrize("shape", SHAPES)
def test_full_size_encoders_have_transformers_names_and_shapes(shape: str) -> None:
    values = SHAPES[shape] | {"num_hidden_layers": LAYERS[shape]}
    projected = shape == "SDXL"
    with torch.device("meta"):
        theirs = (CLIPTextModelWithProjection if projected else CLIPTextModel)(Theirs(**values))
        ours = CLIPTextEncoder(CLIPTextConfig(**values), projected=projected)
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        named(name): tensor.shape for name, tensor in theirs.state_dict().items()
    }
    assert sum(parameter.numel() for parameter in ours.parameters()) == PARAMETERS[shape]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), tokenizer_config=config)


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {"model_max_length": 77, "pad_token": "!"}
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer_2"), tokenizer_config=config)


def read(folder: Path) -> Tokenizer:
    return Tokenizer.read(folder, vocab_size=1000)


@pytest.mark.parametrize("eos", [2, 913])
@pytest.mark.parametrize("clip_skip", [None, 0, 1, 4])
def test_prompts_equal_stable_diffusion_s(eos: int, clip_skip: int | None, folder: Path) -> None:
    theirs, ours = pair(**TINY, eos_token_id=eos)
    pipeline = StableDiffusionPipeline(
        vae=None,
        text_encoder=theirs,
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    encoder = PromptEncoder(Reader(read(folder), ours))
    negative = ["blurry", "", "x", "a"]
    with torch.inference_mode():
        expected, uncond = pipeline.encode_prompt(
            list(TEXTS), "cpu", 1, True, negative, clip_skip=clip_skip
        )
    made = encoder.encode(TEXTS, clip_skip or 0)
    torch.testing.assert_close(made.context, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder.encode(negative).context, uncond, rtol=1e-5, atol=1e-5)
    assert made.pooled is None
    assert (encoder.tokens, encoder.width, encoder.pooled_width) == (77, 32, None)
    assert made.context.shape == (4, 77, 32)
    assert [cut > 0 for cut in made.cut] == [False, False, False, True]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("clip_skip", [None, 0, 1, 3])
def test_prompts_equal_sdxl_s(
    clip_skip: int | None, zeros: bool, folder: Path, padded: Path
) -> None:
    first = pair(**TINY)
    second = pair(True, **TINY | {"hidden_size": 48, "hidden_act": "gelu", "eos_token_id": 2})
    pipeline = StableDiffusionXLPipeline(
        vae=None,
        text_encoder=first[0],
        text_encoder_2=second[0],
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        tokenizer_2=CLIPTokenizer.from_pretrained(padded),
        unet=None,
        scheduler=None,
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )
    encoder = PromptEncoder(Reader(read(folder), first[1]), Reader(read(padded), second[1]))
    with torch.inference_mode():
        context, uncond, pooled, uncond_pooled = pipeline.encode_prompt(
            list(TEXTS), device="cpu", clip_skip=clip_skip
        )
    made = encoder.encode(TEXTS, clip_skip or 0)
    assert made.pooled is not None
    torch.testing.assert_close(made.context, context, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.pooled, pooled, rtol=1e-5, atol=1e-5)
    absent = encoder.zeros() if zeros else encoder.encode([""])
    assert absent.pooled is not None
    torch.testing.assert_close(absent.context.expand(4, -1, -1), uncond, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(absent.pooled.expand(4, -1), uncond_pooled, rtol=1e-5, atol=1e-5)
    assert (encoder.tokens, encoder.width, encoder.pooled_width) == (77, 80, 24)
    assert [cut > 0 for cut in made.cut] == [False, False, False, True]


def test_a_text_has_the_same_bits_whatever_shares_the_batch(folder: Path) -> None:
    """As one batch, these shapes give other bits: products of taller matrices add otherwise."""
    config = CLIPTextConfig(**TINY | {"hidden_size": 72, "intermediate_size": 100})
    first, second = (CLIPTextEncoder(config, projected=xl).eval() for xl in (False, True))
    encoder = PromptEncoder(Reader(read(folder), first), Reader(read(folder), second))
    texts = [f"{text} {i}" for text in TEXTS for i in range(3)]
    together = encoder.encode([*texts, *texts[::-1]])
    assert together.pooled is not None
    for row, text in enumerate([*texts, *texts[::-1]]):
        alone = encoder.encode([text])
        assert alone.pooled is not None
        assert torch.equal(alone.context[0], together.context[row])
        assert torch.equal(alone.pooled[0], together.pooled[row])
        assert alone.cut[0] == together.cut[row]


def test_clip_skip_has_an_end(folder: Path) -> None:
    plain, projected = (
        CLIPTextEncoder(CLIPTextConfig(**TINY), projected=projected) for projected in (False, True)
    )
    tokenizer = read(folder)
    one = PromptEncoder(Reader(tokenizer, plain))
    two = PromptEncoder(Reader(tokenizer, plain), Reader(tokenizer, projected))
    assert (one.most_clip_skip, two.most_clip_skip) == (4, 3)
    for encoder in (one, two):
        with pytest.raises(ValueError, match=f"allowed: 0 to {encoder.most_clip_skip}"):
            encoder.encode(["a"], encoder.most_clip_skip + 1)


def test_encoders_that_are_no_family_s(folder: Path) -> None:
    plain, projected = (
        Reader(read(folder), CLIPTextEncoder(CLIPTextConfig(**TINY), projected=projected))
        for projected in (False, True)
    )
    for readers in ((), (projected,), (plain, plain), (projected, plain), (plain,) * 3):
        with pytest.raises(ValueError, match="text encoders projected"):
            PromptEncoder(*readers)
    short = Reader(Tokenizer.read(folder, vocab_size=1000, positions=16), projected.encoder)
    with pytest.raises(ValueError, match=r"tokenizers make \[16, 77\] tokens"):
        PromptEncoder(plain, short)


@pytest.mark.parametrize("small", [{"vocab_size": 913}, {"max_position_embeddings": 76}])
def test_a_tokenizer_that_is_too_large_for_its_encoder(small: dict[str, int], folder: Path) -> None:
    encoder = CLIPTextEncoder(CLIPTextConfig(**TINY | small))
    with pytest.raises(ValueError, match="914 tokens and makes 77 of a text"):
        Reader(read(folder), encoder)


# As they are found: 1.4 and 1.5, 2.1, SDXL's two, and transformers 4.16 with every key it knew.
FOUND: dict[str, dict[str, Any]] = {
    "1.4": {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "torch_dtype": "float32",
        "transformers_version": "4.21.0.dev0",
        "vocab_size": 49408,
    },
    "2.1": {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
        "pad_token_id": 1,
        "projection_dim": 512,
        "torch_dtype": "float32",
        "transformers_version": "4.25.0.dev0",
        "vocab_size": 49408,
    },
    "SDXL's second": {
        "architectures": ["CLIPTextModelWithProjection"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 5120,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "pad_token_id": 1,
        "projection_dim": 1280,
        "torch_dtype": "float16",
        "transformers_version": "4.32.0.dev0",
        "vocab_size": 49408,
    },
    "transformers 4.16": {
        "_name_or_path": "",
        "add_cross_attention": False,
        "architectures": None,
        "attention_dropout": 0.0,
        "bad_words_ids": None,
        "bos_token_id": 0,
        "chunk_size_feed_forward": 0,
        "cross_attention_hidden_size": None,
        "decoder_start_token_id": None,
        "diversity_penalty": 0.0,
        "do_sample": False,
        "dropout": 0.0,
        "early_stopping": False,
        "encoder_no_repeat_ngram_size": 0,
        "eos_token_id": 2,
        "exponential_decay_length_penalty": None,
        "finetuning_task": None,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
        "hidden_act": "quick_gelu",
        "hidden_size": 512,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 2048,
        "is_decoder": False,
        "is_encoder_decoder": False,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "layer_norm_eps": 1e-05,
        "length_penalty": 1.0,
        "max_length": 20,
        "max_position_embeddings": 77,
        "min_length": 0,
        "model_type": "clip_text_model",
        "no_repeat_ngram_size": 0,
        "num_attention_heads": 8,
        "num_beam_groups": 1,
        "num_beams": 1,
        "num_hidden_layers": 12,
        "num_return_sequences": 1,
        "output_attentions": False,
        "output_hidden_states": False,
        "output_scores": False,
        "pad_token_id": 1,
        "prefix": None,
        "problem_type": None,
        "pruned_heads": {},
        "remove_invalid_values": False,
        "repetition_penalty": 1.0,
        "return_dict": True,
        "return_dict_in_generate": False,
        "sep_token_id": None,
        "task_specific_params": None,
        "temperature": 1.0,
        "tf_legacy_loss": False,
        "tie_encoder_decoder": False,
        "tie_word_embeddings": True,
        "tokenizer_class": None,
        "top_k": 50,
        "top_p": 1.0,
        "torch_dtype": None,
        "torchscript": False,
        "transformers_version": "4.16.0.dev0",
        "typical_p": 1.0,
        "use_bfloat16": False,
        "vocab_size": 49408,
    },
}


@pytest.mark.parametrize("name", FOUND)
def test_configurations_as_they_are_found(name: str, tmp_path: Path) -> None:
    values = FOUND[name]
    config, notes = read_config(tmp_path, values)
    theirs = Theirs(**values)
    own = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    assert own == {key: getattr(theirs, key) for key in own}
    assert len(notes) == 1
    assert "without effect here: " in notes[0]
    assert "bos_token_id" in notes[0]


@pytest.mark.parametrize("projected", [False, True])
def test_configurations_as_transformers_saves_them(projected: bool, tmp_path: Path) -> None:
    theirs, _ = pair(projected, **TINY, hidden_act="gelu", eos_token_id=999)
    theirs.config.architectures = [type(theirs).__bases__[0].__name__] if not projected else None
    theirs.config.save_pretrained(tmp_path)
    config, _ = CLIPTextConfig.read(tmp_path / "config.json")
    assert config == CLIPTextConfig(**TINY, hidden_act="gelu", eos_token_id=999)


def read_config(folder: Path, values: dict[str, Any]) -> tuple[CLIPTextConfig, tuple[str, ...]]:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return CLIPTextConfig.read(path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; allowed: 1 to 64"),
        ({"hidden_size": 10**6}, "hidden_size is 1000000"),
        ({"hidden_size": 769}, "hidden_size is 769; allowed: a multiple of num_attention_heads 12"),
        ({"vocab_size": 2**40}, "vocab_size is 1099511627776"),
        ({"intermediate_size": "3072"}, "intermediate_size is '3072'"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings is 1000000000"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; allowed: 'quick_gelu', 'gelu'"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"eos_token_id": [2, 3]}, "eos_token_id is "),
        ({"eos_token_id": None}, "eos_token_id is None"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"use_attention_mask": True}, "use_attention_mask is True; allowed: null, False"),
        ({"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map is {'AutoModel': 'evil.Evil'}"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is "),
        ({"architectures": ["T5EncoderModel"]}, "architectures is ['T5EncoderModel']"),
        ({"model_type": "t5"}, "model_type is 't5'; allowed: 'clip_text_model'"),
        ({"pruned_heads": {"1": [0]}}, "pruned_heads is "),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"text_config": {}}, "unknown key 'text_config' for CLIPTextModel"),
        ({"_class_name": "UNet2DModel"}, "_class_name is 'UNet2DModel'; allowed: 'CLIPTextModel'"),
    ],
)
def test_configurations_that_are_refused(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path, FOUND["1.4"] | values)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {words}")


def test_a_projection_needs_a_width() -> None:
    with pytest.raises(ValueError, match="projection_dim is null"):
        CLIPTextEncoder(CLIPTextConfig(projection_dim=None), projected=True)
