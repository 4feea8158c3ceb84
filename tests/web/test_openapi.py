"""The description of the routes: true, whole, and readable without anything from elsewhere."""

import json
import os
import re
import subprocess
import sys

import httpx
import pytest
from jsonschema import Draft202012Validator

from quantspace import estimate
from quantspace.web.endpoints import ENDPOINTS
from quantspace.web.images import IMAGES
from quantspace.web.openapi import openapi
from quantspace.web.parameters import PARAMETERS

pytestmark = pytest.mark.xdist_group("app")
DOCUMENT = openapi()
PATHS = [endpoint.path for endpoint in ENDPOINTS.values()]


@pytest.fixture(scope="module")
def web(offline_app):
    with httpx.Client(base_url=offline_app, timeout=90) as client:
        yield client


def references(node):
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from references(part)


def test_every_reference_leads_to_a_definition():
    found = set(references(DOCUMENT))
    assert found and all(
        ref.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"] for ref in found
    )


def test_every_question_and_image_is_described():
    assert set(DOCUMENT["paths"]) == {*PATHS, *(f"/{name}" for name in IMAGES)}


def test_operations_have_names_of_their_own():
    names = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)) and all(re.fullmatch(r"\w+", name) for name in names)


@pytest.mark.parametrize("path", PATHS)
def test_the_examples_of_parameters_are_valid_and_answered_as_described(web, path):
    operation = DOCUMENT["paths"][path]["get"]
    examples = {one["name"]: one["example"] for one in operation["parameters"]}
    for one in operation["parameters"]:
        Draft202012Validator(one["schema"]).validate(one["example"])
    answer = web.get(path, params=examples)
    assert answer.status_code == 200 and answer.json()["warnings"] == []
    described = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    Draft202012Validator({**DOCUMENT, "$ref": f"#/components/schemas/{described}"}).validate(answer.json())


@pytest.mark.parametrize("path", PATHS)
def test_what_is_the_default_need_not_be_given(web, path):
    parameters = DOCUMENT["paths"][path]["get"]["parameters"]
    needed = {one["name"]: one["example"] for one in parameters if one["required"]}
    defaults = {one["name"]: one["schema"]["default"] for one in parameters if not one["required"]}
    assert web.get(path, params=needed).json() == web.get(path, params=needed | defaults).json()


def test_the_page_describes_every_question_and_loads_nothing_from_elsewhere(web):
    answer = web.get("/v1/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text and not re.findall(r"(?:src|url\()=?[\"']?https?:", answer.text)
    for path in PATHS:
        assert f"<h3>{path}</h3>" in answer.text
    assert str(web.base_url).rstrip("/") in answer.text
    for name in {name for endpoint in ENDPOINTS.values() for name in endpoint.parameters}:
        assert f"<code>{name}</code>" in answer.text, PARAMETERS[name]


def test_the_commands_of_the_page_are_answered(web):
    commands = re.findall(r"curl '(http[^<']+)'", web.get("/v1/docs").text)
    assert len(commands) == len(ENDPOINTS)
    assert {web.get(command.replace("&amp;", "&")).status_code for command in commands} == {200}


def test_what_is_left_out_is_what_the_settings_and_the_schema_say():
    asked = "from quantspace.web.endpoints import ENDPOINTS as all; import json; "
    asked += "print(json.dumps(all['estimate'].ask({'model': 'google/gemma-3-4b-it'}, None)))"
    variables = os.environ | {"QUANTSPACE_DEFAULT_GPU": "l4", "QUANTSPACE_DEFAULT_CONTEXT": "2048"}
    done = subprocess.run([sys.executable, "-c", asked], env=variables, capture_output=True, text=True, check=True)
    expected = estimate("google/gemma-3-4b-it", "l4", context=2048).as_data()
    assert json.loads(done.stdout)["rows"] == json.loads(json.dumps(expected["rows"]))
