"""Signing in with Hugging Face, as on a Space: Gradio plays the Hub's part where there is no real one."""

import os

import pytest
from playwright.sync_api import Page, expect

from quantspace.hub.demo import demo_folder
from tests.app_server import running_app
from tests.browser.test_flow import LOAD_MS
from tests.hub import LocalHub

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

OWNER = "hf_" + "ownerToken" * 4  # of the Space: never used for visitors
VISITOR = "mock-oauth-token-for-local-dev"  # what Gradio's stand-in gives (gradio/oauth.py)
SPACE = {"SPACE_ID": "quantspace/page", "OAUTH_CLIENT_ID": "id", "OAUTH_CLIENT_SECRET": "secret", "HF_TOKEN": OWNER}


@pytest.fixture(scope="module")
def space(hub: LocalHub, tmp_path_factory):
    """Address of a Space with sign-in, whose owner may see more than its visitors."""
    hub.add_account(OWNER, "owner", orgs=("owners",))
    hub.add_account(VISITOR, "visitor", orgs=("visitors",))
    hub.add_repo("visitors/private", folder=demo_folder(), private=True)
    hub.add_repo("owners/private", folder=demo_folder(), private=True)
    with running_app(os.environ["HF_ENDPOINT"], tmp_path_factory.mktemp("app") / "space.log", **SPACE) as url:
        yield url


def test_a_visitor_signs_in_and_sees_what_is_theirs_alone(page: Page, space):
    link = f"{space}/?model=visitors/private"
    page.goto(link)
    expect(page.locator("#complaint .qs-error[data-code=model_not_found]")).to_be_visible(timeout=LOAD_MS)
    page.locator("#complaint [data-opens=access]").click()
    page.get_by_role("button", name="Sign in with Hugging Face").click()
    expect(page.locator(".qs-fit .qs-model")).to_have_text("visitors/private", timeout=LOAD_MS)

    page.goto(f"{space}/?model=owners/private")
    expect(page.locator("#complaint .qs-error[data-code=model_not_found]")).to_be_visible(timeout=LOAD_MS)
