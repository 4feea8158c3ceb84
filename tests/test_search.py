"""What is offered while somebody types: bundled models at once, and what the Hub's search finds in time."""

import itertools
import threading
import time

import pytest

from quantspace.hub import search
from quantspace.hub.catalogue import bundled_models
from quantspace.hub.search import SEARCH_SECONDS, FoundModel, bundled_matches, search_models

numbers = itertools.count()


@pytest.fixture(autouse=True)
def nothing_remembered(hub):
    search._found.clear()
    yield
    hub.faults.clear()


@pytest.fixture
def word(hub):
    """A word that is in the ids of this test's models alone."""
    word = f"needle{next(numbers)}x"
    hub.add_repo(f"some/{word}-small", downloads=10, pipeline_tag="text-generation")
    hub.add_repo(f"some/{word}-GGUF", downloads=30, library_name="gguf")
    hub.add_repo(f"other/{word}-lora", downloads=20, library_name="peft", gated="auto")
    return word


def searches(hub):
    return hub.requests.of("search")


class TestTheHubsSearch:
    def test_models_of_all_kinds_are_found_most_downloaded_first(self, word):
        assert search_models(word) == [
            FoundModel(f"some/{word}-GGUF", 30),
            FoundModel(f"other/{word}-lora", 20, gated=True),
            FoundModel(f"some/{word}-small", 10, "text-generation"),
        ]

    def test_no_more_are_given_than_asked_for(self, word):
        assert [model.downloads for model in search_models(word, limit=2)] == [30, 20]
        assert search_models(word, limit=0) == []

    def test_several_words_and_links_and_commands_are_searched_for_by_what_they_name(self, word):
        for text in (f"{word} gguf", f"hf.co/some/{word}-GGUF:Q4_K_M", f"ollama run hf.co/some/{word}-GGUF"):
            assert [model.id for model in search_models(text)] == [f"some/{word}-GGUF"]

    @pytest.mark.parametrize(
        "text", ["", "  \n", "nothing-is-called-so", "&limit=9", "\0\x1b[31m", "x" * 10_000, None, 3]
    )
    def test_nothing_is_found_for_nothing(self, hub, text):
        assert search_models(text) == []
        assert all(len(request.url) < 800 for request in searches(hub))

    def test_same_question_is_asked_once_a_minute(self, hub, word):
        before = len(searches(hub))
        first = search_models(word)
        first.clear()  # who was given the list may do with it as they like
        assert len(search_models(word.upper())) == 3
        assert len(searches(hub)) - before == 1

    def test_those_who_ask_at_one_time_share_one_request(self, hub, word):
        hub.fail(on="search", delay=0.2)
        before, answers = len(searches(hub)), []
        asking = [threading.Thread(target=lambda: answers.append(search_models(word))) for _ in range(8)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert [len(answer) for answer in answers] == [3] * 8
        assert len(searches(hub)) - before == 1

    def test_private_model_is_found_with_the_token_of_its_owner_alone(self, hub, word):
        hub.add_repo(f"hidden/{word}", private=True)
        hub.add_account("hf_ofTheSearch", "hidden")
        assert len(search_models(word)) == 3
        assert len(search_models(word, token="hf_ofTheSearch")) == 4
        assert len(search_models(word)) == 3

    @pytest.mark.parametrize(
        "fault",
        [{"status": 429, "retry_after": 60}, {"status": 500}, {"close": True}, {"truncate_after": 5},
         {"body": b"<html>"}, {"body": b'{"error": 1}'}, {"endless": True},
         {"status": 302, "headers": {"Location": "?"}}],
        ids=str,
    )  # fmt: skip
    def test_hub_in_trouble_finds_nothing_and_is_asked_again(self, hub, word, fault):
        rule = hub.fail(on="search", **fault)
        started = time.monotonic()
        assert search_models(word) == []
        assert time.monotonic() - started < SEARCH_SECONDS + 1
        assert rule.hits <= 6  # no retries but that of a dead connection, and a few redirects
        hub.faults.clear()
        assert len(search_models(word)) == 3

    def test_slow_hub_is_not_waited_for_by_anybody(self, hub, word, monkeypatch):
        monkeypatch.setattr(search, "SEARCH_SECONDS", 0.2)
        hub.fail(on="search", delay=30)
        asking = [threading.Thread(target=search_models, args=(word,)) for _ in range(3)]
        started = time.monotonic()
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert time.monotonic() - started < 10

    def test_entries_that_are_none_are_left_out(self, hub, word):
        body = b'[3, null, {}, {"id": 7}, {"id": "../x"}, {"id": "a/b", "downloads": "1", "pipeline_tag": []}]'
        hub.fail(on="search", body=body)
        assert search_models(word) == [FoundModel("a/b")]


class TestBundledModels:
    def test_what_fits_best_comes_first(self):
        found = bundled_matches("gemma-3-4b", 50)
        assert found[0] == "google/gemma-3-4b-it"
        assert bundled_matches("google/gemma-3-4b-it", 1) == ["google/gemma-3-4b-it"]
        assert bundled_matches("GEMMA-3-4B-IT", 1) == ["google/gemma-3-4b-it"]

    def test_name_that_begins_so_comes_before_one_that_holds_it(self):
        found = bundled_matches("qwen", 500)
        ranks = [model.rpartition("/")[2].lower().startswith("qwen") for model in found]
        assert ranks == sorted(ranks, reverse=True)
        assert all("qwen" in model.lower() for model in found)

    def test_words_may_stand_apart_and_in_any_order(self):
        assert "google/gemma-3-4b-it" in bundled_matches("4b gemma google")

    def test_former_id_finds_the_model(self):
        assert bundled_matches("gpt2", 1) == ["openai-community/gpt2"]
        assert "meta-llama/Llama-3.1-8B-Instruct" in bundled_matches("Meta-Llama-3.1-8B", 500)

    def test_link_finds_its_model(self):
        assert bundled_matches("https://huggingface.co/google/gemma-3-4b-it/tree/main") == ["google/gemma-3-4b-it"]

    def test_no_more_than_asked_for_nothing_for_nothing_and_no_model_twice(self):
        assert len(bundled_matches("a", 5)) == 5
        assert bundled_matches("  ") == bundled_matches("a", 0) == bundled_matches("no-such-model-anywhere") == []
        found = bundled_matches("a", 10_000)
        assert len(found) == len(set(found)) <= len(bundled_models())

    def test_hub_is_not_asked(self, hub):
        before = len(hub.requests)
        bundled_matches("gemma")
        assert len(hub.requests) == before

    def test_answer_is_there_at_once(self):
        bundled_matches("gemma")
        started = time.thread_time()
        for _ in range(20):
            bundled_matches("qwen 2.5 instruct")
        assert (time.thread_time() - started) / 20 < 0.05
