"""Images in a chat: read by models that take them, refused in a sentence where they can't be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from quantspace.errors import BadInput, ChatFailed, QuantSpaceError
from quantspace.runtime import images
from quantspace.runtime.chat import answer
from quantspace.runtime.job import Job, Message, Sampling
from quantspace.runtime.loader import load
from quantspace.settings import settings
from tests.tiny_models import save_tiny
from tests.vision import FAMILIES, VOCABULARY, picture, save_vision
from tests.words import only_words, save_word_tokenizer

pytestmark = pytest.mark.xdist_group("images")


@pytest.fixture(scope="module")
def vision(one_thread, tmp_path_factory):
    """Models that read images, by name; each is loaded once."""
    models = {}

    def loaded(name):
        if name not in models:
            folder = save_vision(name, tmp_path_factory.mktemp("vision") / name)
            *_, model = load(Job(f"tests/{name}", "sha", str(folder), "fp32", 0, 0), [])
            for weight in model.model.parameters():
                if weight.ndim > 1:
                    weight.data.mul_(3)
                    if not weight.any():  # Gemma 3's projection of images begins at zero: they would say nothing
                        torch.nn.init.normal_(weight)
            model.model.generation_config.eos_token_id = None
            model.model.generation_config.suppress_tokens = only_words(VOCABULARY)
            models[name] = model
        return models[name]

    return loaded


@pytest.fixture(params=FAMILIES)
def model(vision, request):
    loaded = vision(request.param)
    loaded.prefix.drop()
    return loaded


@pytest.fixture
def red(tmp_path):
    return picture(tmp_path / "red.png", "red")


@pytest.fixture
def blue(tmp_path):
    return picture(tmp_path / "blue.png", "blue")


def ask(loaded, *messages, most=8):
    *texts, stats = answer(loaded, messages, Sampling(greedy=True, max_new_tokens=most), [])
    return "".join(event.piece for event in texts), stats


def by_hand(loaded, conversation, paths, most=8):
    """What transformers alone makes of it."""
    text = loaded.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    pictures = [Image.open(path).convert("RGB") for path in paths]
    inputs = loaded.processor(text=[text], images=pictures, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        ids = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=most)
    length = inputs["input_ids"].shape[1]
    return loaded.tokenizer.decode(ids[0, length:], skip_special_tokens=True), length


class TestModelsThatReadImages:
    def test_the_readout_says_so(self, model):
        assert model.readout.images

    def test_an_image_is_read_as_transformers_alone_would(self, model, red):
        text, stats = ask(model, Message("user", "w20 w33", (red,)))
        conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "w20 w33"}]}]
        assert (text, stats.prompt_tokens) == by_hand(model, conversation, [red])

    def test_another_image_is_another_prompt(self, model, red, blue):
        scores = []
        handle = model.model.register_forward_hook(lambda *given: scores.append(given[-1].logits[0, -1]))
        for path in (red, blue, red):
            ask(model, Message("user", "w20 w33", (path,)), most=1)
        handle.remove()
        assert torch.equal(scores[0], scores[2])
        assert not torch.equal(scores[0], scores[1])

    def test_images_of_several_turns_are_read_in_their_order(self, model, red, blue):
        talk = (
            Message("user", "w20 w33", (red,)),
            Message("assistant", "w40"),
            Message("user", "w21", (blue, red)),
        )
        conversation = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "w20 w33"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "w40"}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "w21"}]},
        ]
        text, stats = ask(model, *talk)
        assert (text, stats.prompt_tokens) == by_hand(model, conversation, [red, blue, red])

    def test_an_image_without_words_is_a_question(self, model, red):
        assert ask(model, Message("user", "", (red,)))[1].new_tokens == 8

    def test_text_between_images_is_answered_as_without_them(self, model, red):
        question = Message("user", "w50 w51")
        before = ask(model, question)[0]
        ask(model, Message("user", "w20 w33", (red,)))
        assert ask(model, question)[0] == before

    def test_nothing_of_a_prompt_with_images_is_kept(self, model, red, blue):
        ask(model, Message("user", "w20 w33"))
        assert model.prefix.cache is not None
        assert ask(model, Message("user", "w20 w33", (red,)))[1].reused_tokens == 0
        assert model.prefix.cache is None
        assert ask(model, Message("user", "w20 w33", (blue,)))[1].reused_tokens == 0

    def test_turns_that_are_left_out_take_their_images_with_them(self, model, red, blue):
        long = Message("user", "w60 " * 180, (red,))
        talk = (long, Message("assistant", "w40 " * 50), Message("user", "w21", (blue,)))
        text, stats = ask(model, *talk)
        assert stats.dropped_turns == 2
        assert text == ask(model, Message("user", "w21", (blue,)))[0]

    def test_too_many_images_are_refused_with_the_limit(self, model, red):
        with pytest.raises(ChatFailed, match=f"{settings().max_chat_images + 1} images.*at most"):
            ask(model, Message("user", "w20", (red,) * (settings().max_chat_images + 1)))

    def test_a_broken_image_is_told_and_the_next_question_is_answered(self, model, tmp_path):
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        with pytest.raises(QuantSpaceError, match=r"broken\.png can't be read as an image"):
            ask(model, Message("user", "w20", (str(broken),)))
        assert ask(model, Message("user", "w20"))[1].new_tokens == 8


class TestModelsThatReadTextAlone:
    def test_an_image_is_refused_in_a_sentence(self, vision, red):
        blind = replace(vision("gemma3-vision"), processor=None)
        with pytest.raises(ChatFailed, match="reads no images"):
            ask(blind, Message("user", "w20", (red,)))

    def test_without_a_processor_a_model_of_images_still_answers_text(self, tmp_path):
        save_word_tokenizer(save_tiny("gemma3-vision", tmp_path), VOCABULARY)
        *_, loaded = load(Job("tests/blind", "sha", str(tmp_path), "fp32", 0, 0), [])
        assert loaded.processor is None
        assert not loaded.readout.images
        assert ask(loaded, Message("user", "w20"))[1].new_tokens > 0


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("empty.png", b""),
            ("text.png", b"I am no image"),
            ("cut.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01"),
            ("markup.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ],
    )
    def test_a_file_that_is_no_image_is_told(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match="can't be read as an image"):
            images.opened(str(tmp_path / name))

    def test_an_image_that_breaks_off_is_told(self, tmp_path):
        whole = picture(tmp_path / "whole.png", size=(400, 400))
        (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
        assert images.opened(whole).size == (400, 400)
        with pytest.raises(BadInput, match=r"half\.png can't be read"):
            images.opened(str(tmp_path / "half.png"))

    def test_a_file_that_is_gone_is_told(self, tmp_path):
        with pytest.raises(BadInput, match="not there any more"):
            images.opened(str(tmp_path / "gone.png"))

    @pytest.mark.parametrize(("side", "words"), [(12_000, "12,000 × 12,000 pixels"), (30_000, "more pixels")])
    def test_a_small_file_of_a_huge_image_is_not_unfolded(self, tmp_path, side, words):
        path = tmp_path / "bomb.png"
        Image.new("1", (side, side)).save(path)
        assert path.stat().st_size < settings().max_image_bytes
        with pytest.raises(BadInput, match=words):
            images.opened(str(path))

    def test_a_file_of_too_many_bytes_is_refused_with_the_limit(self, tmp_path):
        path = tmp_path / "large.png"
        path.write_bytes(b"\0" * (settings().max_image_bytes + 1))
        with pytest.raises(BadInput, match="bytes; at most"):
            images.opened(str(path))

    def test_a_large_image_is_made_smaller_in_its_shape(self, tmp_path):
        image = images.opened(picture(tmp_path / "large.png", size=(4000, 1000)))
        assert image.width * image.height <= settings().max_image_pixels
        assert image.width / image.height == pytest.approx(4, rel=0.01)

    def test_transparency_is_white_and_a_photo_is_upright(self, tmp_path):
        Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
        assert images.opened(str(tmp_path / "clear.png")).getpixel((0, 0)) == (255, 255, 255)
        turned = Image.Exif()
        turned[0x0112] = 6  # taken with the camera on its side
        assert images.opened(picture(tmp_path / "photo.jpg", size=(80, 40), exif=turned)).size == (40, 80)
