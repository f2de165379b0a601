"""The snippets of docs/clients.md, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import assert_same
from tests.e2e.live import ROOT

PAGE = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
SNIPPETS = [
    (heading.strip("# "), language, code)
    for heading, text in re.findall(r"^(##+ .*)$((?:\n(?!##).*)*)", PAGE, re.MULTILINE)
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]
MODULES = {
    "OpenAI": "openai",
    "LiteLLM": "litellm",
    "LangChain": "langchain_community",
    "Hugging Face": "huggingface_hub",
    "AUTOMATIC1111": "webuiapi",
    "Replicate": "replicate",
}


def test_the_page_has_snippets() -> None:
    assert len(SNIPPETS) >= 12
    assert {language for _, language, _ in SNIPPETS} == {"sh", "python", "js"}


@pytest.mark.parametrize(
    ("heading", "language", "code"), SNIPPETS, ids=[f"{h}-{kind}" for h, kind, _ in SNIPPETS]
)
def test_a_snippet_does_what_it_says(
    heading: str, language: str, code: str, url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    code = code.replace("http://localhost:8000", url)
    host, _, port = url.removeprefix("http://").partition(":")
    code = code.replace('host="localhost", port=8000', f'host="{host}", port={port}')
    if language == "sh":
        command = ["bash", "-e", "-c", code]
    elif language == "python":
        if heading in MODULES:
            pytest.importorskip(MODULES[heading])
        command = [sys.executable, "-c", code]
    else:
        modules = request.getfixturevalue("node_modules")
        (tmp_path / "node_modules").symlink_to(modules, target_is_directory=True)
        (tmp_path / "snippet.mjs").write_text(code, encoding="utf-8")
        command = ["node", "snippet.mjs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    if "seven.png" in code and "any-seven" not in code:
        assert_same((tmp_path / "seven.png").read_bytes(), url, **{"class": "7"}, seed=1, steps=20)
