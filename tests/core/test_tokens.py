"""How many tokens a request will take: learned from usage, with a margin as large as the guesses are bad."""

from random import Random

import pytest

from gateway.core.tokens import BYTES_PER_TOKEN, MARGIN, MOST_MARGIN, USUAL_ERROR, USUAL_OUTPUT, Ratio


class Prompt:
    def __init__(self, text_bytes=0, media_tokens=0.0, max_output=None):
        self.text_bytes, self.media_tokens, self.max_output = text_bytes, media_tokens, max_output


def per_token(ratio):
    """Bytes a token, as guessed."""
    return 10_000 / ratio.cost(Prompt(10_000)).guess


def margin(ratio):
    cost = ratio.cost(Prompt(10_000))
    return cost.input / cost.guess - 1.0


def test_until_something_is_known_it_is_the_usual():
    cost = Ratio().cost(Prompt(4_000))
    assert (cost.guess, cost.output) == (4_000 / BYTES_PER_TOKEN, USUAL_OUTPUT)
    assert cost.input == pytest.approx(cost.guess * (1.0 + MARGIN * USUAL_ERROR))
    assert cost.tokens == cost.input + cost.output


@pytest.mark.parametrize("max_output", [0, 1, 16_384])
def test_what_the_request_says_its_answers_may_have_is_what_they_are_taken_to_have(max_output):
    ratio = Ratio()
    ratio.learn(Prompt(4_000), 1_000, 7)
    assert ratio.cost(Prompt(4_000, max_output=max_output)).output == max_output


@pytest.mark.parametrize("bytes_per_token", [1.0, 2.7, 4.6, 20.0])
def test_it_learns_how_many_bytes_are_a_token(bytes_per_token):
    ratio, chance = Ratio(), Random(1)
    for _ in range(200):
        size = chance.randint(500, 50_000)
        ratio.learn(Prompt(size), round(size / bytes_per_token), 100)
    assert per_token(ratio) == pytest.approx(bytes_per_token, rel=0.02)
    assert margin(ratio) < 0.1, "and trusts what it knows"


def test_a_change_is_learned_within_fifty_requests_or_so():
    ratio = Ratio()
    for bytes_per_token in (4.0, 2.0):
        for _ in range(150):
            ratio.learn(Prompt(10_000), int(10_000 / bytes_per_token), 100)
    assert per_token(ratio) == pytest.approx(2.0, rel=0.05)


def test_the_margin_is_twice_the_mean_error():
    ratio = Ratio()
    for number in range(400):
        ratio.learn(Prompt(10_000), (2_000, 3_000)[number % 2], 100)
    assert margin(ratio) == pytest.approx(MARGIN * 0.2, rel=0.1)


def test_the_margin_has_a_bound():
    ratio = Ratio()
    for number in range(400):
        ratio.learn(Prompt(10_000), (300, 15_000)[number % 2], 100)
    assert margin(ratio) == pytest.approx(MOST_MARGIN)


def test_of_large_reports_the_ratio_learns_more_than_of_small_ones():
    ratio = Ratio()
    for _ in range(50):
        ratio.learn(Prompt(100_000), 50_000, 100)
        ratio.learn(Prompt(100), 10, 100)
    assert per_token(ratio) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [(Prompt(10_000), 199), (Prompt(10_000), 20_001), (Prompt(0), 50), (Prompt(10_000, 85.0), 5_000), (Prompt(10_000), 0)],
    ids=["too few", "too many", "no text", "with an image", "none"],
)
def test_what_cannot_be_the_ratio_of_text_teaches_none(prompt, tokens):
    ratio = Ratio()
    before = ratio.cost(Prompt(10_000))
    ratio.learn(prompt, tokens, 400)
    after = ratio.cost(Prompt(10_000))
    assert (after.input, after.guess) == (before.input, before.guess)


@pytest.mark.parametrize("tokens", [200, 20_000])
def test_the_bounds_themselves_are_believed(tokens):
    ratio = Ratio()
    ratio.learn(Prompt(10_000), tokens, 400)
    assert per_token(ratio) != BYTES_PER_TOKEN


def test_images_are_taken_as_measured_and_have_no_margin():
    ratio = Ratio()
    text, both = ratio.cost(Prompt(4_000)), ratio.cost(Prompt(4_000, media_tokens=765.0))
    assert (both.input - text.input, both.guess - text.guess) == (pytest.approx(765.0), pytest.approx(765.0))


def test_it_learns_how_long_answers_usually_are():
    ratio = Ratio()
    for _ in range(300):
        ratio.learn(Prompt(4_000, media_tokens=1.0, max_output=9_999), 1_000, 50)
    assert ratio.cost(Prompt(4_000)).output == pytest.approx(50.0, rel=0.05)


def test_what_has_no_answer_says_nothing_of_answers():
    ratio = Ratio()
    for _ in range(300):
        ratio.learn(Prompt(4_000, max_output=0), 1_000, 0)
    assert ratio.cost(Prompt(4_000)).output == USUAL_OUTPUT
