"""What people type into the model field, and what is understood of it."""

import os
import time
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
        ("org/name/resolve/v2/a/b.safetensors?download=true", ModelRef("org/name", "v2", "a/b.safetensors")),
        ("org/name/raw/v2/config.json", ModelRef("org/name", "v2")),
        (f"org/name/commit/{COMMIT}", ModelRef("org/name", COMMIT)),
        ("org/name/discussions/7", ModelRef("org/name")),
        ("org/name/commits/v2", ModelRef("org/name", "v2")),
        ("org/name/blob/main/x-Q4_K_M.gguf", ModelRef("org/name", file="x-Q4_K_M.gguf")),
        ("org/name/blob/main/a%20b/x.gguf#L10", ModelRef("org/name", file="a b/x.gguf")),
        ("org/name/resolve/refs%2Fpr%2F1/x.gguf?download=true", ModelRef("org/name", "refs/pr/1", "x.gguf")),
        ("gpt2/raw/main/model.safetensors", ModelRef("gpt2", file="model.safetensors")),
        ("org/name?show_file_info=q/x.gguf", ModelRef("org/name", file="q/x.gguf")),
        ("org/name/tree/main?show_file_info=x.gguf&y=1", ModelRef("org/name", file="x.gguf")),
        ("org/name/tree/main/UD-Q4_K_XL", ModelRef("org/name", quant="UD-Q4_K_XL")),
        ("org/name/tree/main/onnx", ModelRef("org/name")),
        ("org/name:Q4_K_M", ModelRef("org/name", quant="Q4_K_M")),
        ("org/name:iq2_xxs", ModelRef("org/name", quant="IQ2_XXS")),
        ("org/name:latest", ModelRef("org/name")),
        ("org/name.git", ModelRef("org/name")),
    ],
)
def test_a_link_of_the_hub_names_its_model(host, page, understood):
    assert parse_reference(f"{host}/{page}") == understood


@pytest.mark.parametrize("page", ["org/name/tree/v2", "org/name/resolve/v2/config.json"])
def test_a_link_of_the_configured_endpoint_names_its_model(page):
    endpoint = os.environ["HF_ENDPOINT"]
    assert parse_reference(f"{endpoint}/{page}") == ModelRef("org/name", "v2")
    assert parse_reference(f"{urlsplit(endpoint).netloc}/{page}") == ModelRef("org/name", "v2")


@pytest.mark.parametrize(
    ("pasted", "understood"),
    [
        ("org/name:Q4_K_M", ModelRef("org/name", quant="Q4_K_M")),
        ("org/name:bf16", ModelRef("org/name", quant="BF16")),
        ("org/name@v1:Q5_K_S", ModelRef("org/name", "v1", quant="Q5_K_S")),
        ("org/name:Q5_K_S@v1", ModelRef("org/name", "v1", quant="Q5_K_S")),
        ("org/name:a-IQ3_M.gguf", ModelRef("org/name", file="a-IQ3_M.gguf")),
        ("org/name/a/x.gguf", ModelRef("org/name", file="a/x.gguf")),
        ("models/org/name", ModelRef("org/name")),
        ("hf://org/name", ModelRef("org/name")),
        ("hf://models/org/name@v1/a/x.gguf", ModelRef("org/name", "v1", "a/x.gguf")),
        ("hf://org/name@refs/pr/1/x.safetensors", ModelRef("org/name", "refs/pr/1", "x.safetensors")),
        ("<https://huggingface.co/org/name>", ModelRef("org/name")),
        ("[the model](https://huggingface.co/org/name/tree/v2)", ModelRef("org/name", "v2")),
        ("see https://huggingface.co/org/name.", ModelRef("org/name")),
        ("https://huggingface.co:443/org/name", ModelRef("org/name")),
        ('"org/name",', ModelRef("org/name")),
        ("ollama run hf.co/org/name:Q4_K_M", ModelRef("org/name", quant="Q4_K_M")),
        ("ollama run --verbose hf.co/org/name", ModelRef("org/name")),
        ("ollama pull huggingface.co/org/name:latest", ModelRef("org/name")),
        ("docker model run hf.co/org/name:UD-Q4_K_XL", ModelRef("org/name", quant="UD-Q4_K_XL")),
        ("hf download org/name", ModelRef("org/name")),
        ("hf download org/name config.json", ModelRef("org/name")),
        ("hf download org/name a/x.gguf --local-dir .", ModelRef("org/name", file="a/x.gguf")),
        ("huggingface-cli download --quiet org/name x.gguf --revision v2", ModelRef("org/name", "v2", "x.gguf")),
        ("hf download --token hf_0123456789 --local-dir=x org/name x.gguf", ModelRef("org/name", file="x.gguf")),
        ("git clone https://huggingface.co/org/name", ModelRef("org/name")),
        ("git lfs install && git clone https://huggingface.co/org/name.git", ModelRef("org/name")),
        ("GIT_LFS_SKIP_SMUDGE=1 git clone -b v1 https://huggingface.co/org/name", ModelRef("org/name", "v1")),
        ("git clone git@hf.co:org/name", ModelRef("org/name")),
        ("git clone https://me:hf_0123456789@huggingface.co/org/name", ModelRef("org/name")),
        ("curl -L https://huggingface.co/org/name/resolve/main/x.gguf -o x", ModelRef("org/name", file="x.gguf")),
        ("--model org/name", ModelRef("org/name")),
        ("--model=org/name", ModelRef("org/name")),
        ("--model-id 'org/name' --port 80", ModelRef("org/name")),
        ("-m org/name", ModelRef("org/name")),
        ("python3 -m vllm.entrypoints.openai.api_server --port 80 --model org/name", ModelRef("org/name")),
        ("docker run --gpus all vllm/vllm-openai:latest --model org/name", ModelRef("org/name")),
        ("vllm serve org/name --max-model-len 8192", ModelRef("org/name")),
        ("vllm serve --host=0.0.0.0 'org/name' --revision v1", ModelRef("org/name", "v1")),
        ("llama-server -hf org/name:Q4_K_M -b 512", ModelRef("org/name", quant="Q4_K_M")),
        ("llama-cli --hf-repo org/name --hf-file x.gguf", ModelRef("org/name", file="x.gguf")),
        ("transformers chat org/name", ModelRef("org/name")),
        ('from_pretrained("org/name")', ModelRef("org/name")),
        ("model = AutoModel.from_pretrained('gpt2')", ModelRef("gpt2")),
        ('AutoModel.from_pretrained("org/name", dtype="auto", revision="v1")', ModelRef("org/name", "v1")),
        ('pipeline("text-generation", model="org/name")', ModelRef("org/name")),
        ('SentenceTransformer("org/name")', ModelRef("org/name")),
        ('llm = LLM(model="org/name", tensor_parallel_size=2)', ModelRef("org/name")),
        ('Llama.from_pretrained(repo_id="org/name", filename="*Q4_K_M.gguf")', ModelRef("org/name", quant="Q4_K_M")),
        ('hf_hub_download(repo_id="org/name", filename="x.Q8_0.gguf")', ModelRef("org/name", file="x.Q8_0.gguf")),
        (
            'import transformers\n\nmodel_id = "org/name"\nmodel = AutoModel.from_pretrained(model_id)',
            ModelRef("org/name"),
        ),
        ("MODEL_ID=org/name", ModelRef("org/name")),
        ("export MODEL=org/name", ModelRef("org/name")),
        ("model: org/name", ModelRef("org/name")),
        ('{"model": "org/name", "messages": []}', ModelRef("org/name")),
    ],
)
def test_what_people_copy_from_elsewhere_names_its_model(pasted, understood):
    assert parse_reference(pasted) == understood
    assert parse_reference(f"  {pasted}\n") == understood


def test_a_repository_is_the_same_whichever_of_its_files_is_meant():
    linked = parse_reference("hf.co/org/name/blob/v2/x.gguf")
    assert linked != parse_reference("org/name@v2")
    assert linked.repo == parse_reference("org/name:Q4_K_M@v2").repo == ModelRef("org/name", "v2")


@pytest.mark.parametrize(
    "text",
    ["hf download " + "-a " * 1300, "hf download " + "--token " * 480, "hf download " + "--token " * 480 + "(",
     "git clone " * 400, "git clone " + "x " * 1900, "--model " * 500, 'model="' * 500, "(" * 4000, "a=\n" * 1300,
     "ollama run " + "-a=" * 1200, "git " + "a " * 1900, "hf.co/" * 600 + " ", "[" * 4000, "[](" * 1300,
     "hf://" * 800, "a/" * 2000, ":" * 4000, "@" * 4000],
    ids=lambda text: text[:14],
)  # fmt: skip
def test_long_nonsense_is_answered_at_once(text):
    started = time.thread_time()
    with pytest.raises(BadModelId):
        parse_reference(text)
    assert time.thread_time() - started < 0.2


SECRET = "hf_abcdefghijklmnopqrstuvwxyz01234567"


@pytest.mark.parametrize(
    "text",
    [SECRET, f"  {SECRET}\n", "hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzY29wZSI6Wy.sig-na_ture", "api_" + "x" * 34,
     f"https://me:{SECRET}@example.com/org/name", f"org/na me {SECRET}", f"hf download --token {SECRET}",
     f"org/name:{SECRET}", f"org/name@{SECRET}@v1", "https://me:pass-word@example.com/org/name"],
)  # fmt: skip
def test_a_token_pasted_in_the_wrong_place_is_no_model_and_is_not_repeated(text):
    with pytest.raises(BadModelId) as caught:
        parse_reference(text)
    for secret in (SECRET[3:], "eyJhbGci", "x" * 30, "pass-word"):
        assert secret not in str(caught.value)


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
        ("https://huggingface.co/papers/2307.09288", "a page of papers, not of a model"),
        ("datasets/org/name", "one of the datasets, not a model"),
        ("hf://datasets/org/name", "one of the datasets, not a model"),
        ("hf download --repo-type dataset org/name", "about a dataset, not about a model"),
        ('load_dataset("org/name")', "is not a model id"),
        ("https://huggingface.co/org/name/resolve/main/..%2F..%2Fx.gguf", "points to no file of a repository"),
        ("https://huggingface.co/org/name/blob/main/" + "a" * 600 + ".gguf", "points to no file of a repository"),
        ("hf://org/name/../../x.gguf", "points to no file of a repository"),
        ("org/name:../../x.gguf", "points to no file of a repository"),
        ("x-Q4_K_M.gguf", "is the name of a file"),
        ("org/name:groq", "“groq” in “org/name:groq” is not a quantization"),
        ("llama3.2:3b", "a name of Ollama's own library"),
        ("ollama run llama3.2", "a name of Ollama's own library"),
        ("https://ollama.com/library/llama3.2", "not a page of the Hugging Face Hub"),
        ("github.com/org/name", "is not a model id"),
        ("llama-server -m ./models/x.gguf", "is not a model id"),
        ("git clone https://github.com/org/name", "not a page of the Hugging Face Hub"),
        ("ftp://huggingface.co/org/name", "not a page of the Hugging Face Hub"),
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
