"""What pushing a copy asks for first."""

from __future__ import annotations

import pytest

from quantspace.errors import HubUnreachable, NotSignedIn
from quantspace.hub import upload


def test_without_a_token_one_is_asked_for_before_the_hub_is(monkeypatch):
    def offline(*_, **__):
        raise HubUnreachable("The Hub can't be reached.", "See whether there is a network.")

    monkeypatch.setattr(upload, "ask_json", offline)
    with pytest.raises(NotSignedIn, match="Only with a token") as refused:
        upload.account_of(None)
    assert "Sign in" in refused.value.hint
    with pytest.raises(HubUnreachable):
        upload.account_of("hf_" + "someToken" * 4)
