"""What people type into the model field, and what is understood of it."""

import os
from urllib.parse import urlsplit

import pytest

from quantspace.errors import BadModelId
from quantspace.hub.reference import ModelRef, parse_reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LONGEST_MESSAGE = 250  # characters: a message stays readable however long the input was


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("google/gemma-3-4b-it", ModelRef("google/gemma-3-4b-it")),
        ("Qwen/Qwen2.5-0.5B_x", ModelRef("Qwen/Qwen2.5-0.5B_x")),
        ("gpt2", ModelRef("gpt2")),
        ("  org/name \n", ModelRef("org/name")),
        ("org/name/", ModelRef("org/name")),
        ('"org/name"', ModelRef("org/name")),
        ("'org/name'", ModelRef("org/name")),
        ("`org/name`", ModelRef("org/name")),
        (" “org/name” ", ModelRef("org/name")),
        ("org/name@v1.0", ModelRef("org/name", "v1.0")),
        ("gpt2@refs/pr/2", ModelRef("gpt2", "refs/pr/2")),
        (f"org/name@{COMMIT}", ModelRef("org/name", COMMIT)),
        ("org/name@", ModelRef("org/name")),
    ],
)
def test_an_id_is_understood_as_typed(typed, understood):
    assert parse_reference(typed) == understood


@pytest.mark.parametrize("host", ["https://huggingface.co", "http://www.huggingface.co", "https://hf.co", "hf.co"])
@pytest.mark.parametrize(
    ("page", "understood"),
    [
        ("org/name", ModelRef("org/name")),
        ("org/name/", ModelRef("org/name")),
        ("gpt2", ModelRef("gpt2")),
        ("org/name?library=transformers#usage", ModelRef("org/name")),
        ("models/org/name", ModelRef("org/name")),
        ("org/name/tree/main", ModelRef("org/name")),
        ("org/name/tree/v2", ModelRef("org/name", "v2")),
        ("gpt2/tree/v2", ModelRef("gpt2", "v2")),
        ("org/name/tree/refs%2Fpr%2F1", ModelRef("org/name", "refs/pr/1")),
        ("org/name/tree/refs/pr/1/folder", ModelRef("org/name", "refs/pr/1")),
        (f"org/name/blob/{COMMIT}/config.json", ModelRef("org/name", COMMIT)),
        ("org/name/resolve/v2/a/b.safetensors?download=true", ModelRef("org/name", "v2")),
        ("org/name/raw/v2/config.json", ModelRef("org/name", "v2")),
        (f"org/name/commit/{COMMIT}", ModelRef("org/name", COMMIT)),
        ("org/name/discussions/7", ModelRef("org/name")),
    ],
)
def test_a_link_of_the_hub_names_its_model(host, page, understood):
    assert parse_reference(f"{host}/{page}") == understood


@pytest.mark.parametrize("page", ["org/name/tree/v2", "org/name/resolve/v2/config.json"])
def test_a_link_of_the_configured_endpoint_names_its_model(page):
    endpoint = os.environ["HF_ENDPOINT"]
    assert parse_reference(f"{endpoint}/{page}") == ModelRef("org/name", "v2")
    assert parse_reference(f"{urlsplit(endpoint).netloc}/{page}") == ModelRef("org/name", "v2")


def test_letters_of_a_host_may_be_large():
    assert parse_reference("HTTPS://HuggingFace.co/Org/Name") == ModelRef("Org/Name")


def test_revision_beside_the_text_is_used_where_the_text_names_none():
    assert parse_reference("org/name", "v1") == ModelRef("org/name", "v1")
    assert parse_reference("org/name@v2", "v1") == ModelRef("org/name", "v2")
    assert parse_reference("hf.co/org/name/tree/v2", "v1") == ModelRef("org/name", "v2")


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (None, "No model was named"),
        ("", "No model was named"),
        (" \t\n", "No model was named"),
        ('""', "No model was named"),
        ("../../etc/passwd", "“../../etc/passwd” is not a model id"),
        ("/etc/passwd", "“/etc/passwd” is not a model id"),
        ("./model", "“./model” is not a model id"),
        ("a/b/c", "“a/b/c” is not a model id"),
        ("org/na me", "“org/na me” is not a model id"),
        ("org/name, other/name", "is not a model id"),
        ("-rf", "is not a model id"),
        ("org/name.git", "is not a model id"),
        ("org/na\x00me", "is not a model id"),
        ("org/\x1b[31mname", "is not a model id"),
        ("org\r\n/name", "is not a model id"),
        ("组织/模型", "“组织/模型” is not a model id"),
        ("org/naïve", "“org/naïve” is not a model id"),
        ("<script>alert(1)</script>", "is not a model id"),
        ("@v1", "“@v1” is not a model id"),
        ("x" * 97, "is not a model id"),
        ("x" * 10_000, "10,000 characters long"),
        ("https://huggingface.co/" + "x" * 10_000, "characters long"),
        ("org/name@v1@v2", "“v1@v2” is not a revision"),
        ("org/name@../../x", "“../../x” is not a revision"),
        ("org/name@a b", "“a b” is not a revision"),
        ("org/name@" + "v" * 201, "is not a revision"),
        ("https://huggingface.co/org/name/tree/..%2F..%2Fx", "“../../x” is not a revision"),
        ("https://example.com/org/name", "not a page of the Hugging Face Hub"),
        ("https://huggingface.co.example.com/org/name", "not a page of the Hugging Face Hub"),
        ("https://huggingface.co@example.com/org/name", "not a page of the Hugging Face Hub"),
        ("file:///etc/passwd", "not a page of the Hugging Face Hub"),
        ("http://[broken/org/name", "not a page of the Hugging Face Hub"),
        ("https://huggingface.co", "not the page of one model"),
        ("https://huggingface.co/models?search=x", "not the page of one model"),
        ("https://huggingface.co/api/models/org/name", "not the page of one model"),
        ("https://huggingface.co/../../etc/passwd", "not the page of one model"),
        ("https://huggingface.co/datasets/org/name", "a page of datasets, not of a model"),
        ("https://huggingface.co/spaces/org/name", "a page of spaces, not of a model"),
        ("https://hf.co/collections/org/name-65f0", "a page of collections, not of a model"),
        ("https://huggingface.co/org/%3Cb%3E", "is not a model id"),
    ],
)
def test_what_is_no_model_is_refused_with_what_is_wrong_and_what_to_do(typed, complaint):
    with pytest.raises(BadModelId) as caught:
        parse_reference(typed)
    error = caught.value
    assert complaint in error.message
    assert "Type an id such as" in error.hint or "Use a branch, a tag" in error.hint
    assert len(error.message) <= LONGEST_MESSAGE
    assert "\n" not in error.message
    assert error.as_data() == {"code": "bad_model_id", "message": error.message, "hint": error.hint}


@pytest.mark.parametrize("revision", ["..", "a/../b", "a b", "v1\n", "\x00", "é" * 201, ""])
def test_what_is_no_revision_is_refused(revision):
    with pytest.raises(BadModelId, match=r"is not a revision.*Use a branch"):
        parse_reference("org/name", revision)
