import random

import pytest
from isotone.evaluation.overlap import ROUGE, lead, overlap, readable, sentences

PAIRS = [
    ("The cat sat on the mat. It slept all day.", "A cat was sitting on the mat. All day it slept."),
    ("He went home; the dogs were running.", "The dog ran after him, and he went to his home."),
    ("In the beginning God created the heavens and the earth.", "In the beginning God created the heaven and the earth."),
    ("Mr. Smith bought shares for $3.5 million. Prices fell!", "Shares fell. They were bought by Mr. Smith at 3.5 million."),
    ("entirely different words", "nothing shared at all here"),
    ("Café crème in Zürich", "cafe creme in Zurich"),
    ("All day long it rained. The cat slept.", "The cat slept on the mat all day."),
    ("", "A reference for an output that is empty."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?  Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("Dr. No met J. R. Smith vs. Mr. Bond. It cost 3.5 million.", ["Dr. No met J. R. Smith vs. Mr. Bond.", "It cost 3.5 million."]),
        ("It is version 2. 3 more follow.", ["It is version 2.", "3 more follow."]),
        ("lines\nof their own\n\nstay", ["lines", "of their own", "stay"]),
        ("He saw U.S. troops. (They left.) \"Why?\" asked I. And so on", ["He saw U.S. troops.", "(They left.)", "\"Why?\" asked I.", "And so on"]),
        ("no capital. follows here", ["no capital. follows here"]),
        ("Was? Ähnlich. Ève vient.", ["Was?", "Ähnlich.", "Ève vient."]),
        ("   ", []),
    ],
)  # fmt: skip
def test_sentences_end_where_a_reader_ends_them(text, expected):
    assert sentences(text) == expected


def test_no_word_is_lost_between_sentences():
    generator = random.Random(0)
    for _ in range(200):
        text = "".join(
            generator.choice(["a", "B", ". ", "! ", "\n", "Mr. ", '"', " ", "3", ".", "?) "]) for _ in range(60)
        )
        assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_scores_are_rouge_scores_own_over_sentences_on_lines_of_their_own():
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=True)
    for output, reference in PAIRS:
        found = overlap(output, reference)
        lines = ["\n".join(sentences(text)) for text in (reference, output)]
        expected = scorer.score(*lines)
        assert {key: found[key] for key in ROUGE} == {key: 100 * expected[key].fmeasure for key in ROUGE}


def test_mean_scores_are_those_of_lm_evaluation_harness():
    utils = pytest.importorskip("lm_eval.tasks.cnn_dailymail.utils")
    outputs, references = zip(*PAIRS, strict=True)
    expected = utils.calculate_rouge_scores(list(outputs), list(references))
    found = [overlap(*pair) for pair in PAIRS]
    for key in ("rouge1", "rouge2", "rougeL"):
        assert sum(row[key] for row in found) / len(found) == pytest.approx(100 * expected[key], abs=1e-12)


def test_lsum_without_sentences_is_another_number():
    """Why both sides are split: order of sentences counts against an output in L, and not in Lsum."""
    output, reference = PAIRS[0][0], "It slept all day. The cat sat on the mat."
    found = overlap(output, reference)
    assert found["rougeLsum"] == pytest.approx(100) and found["rougeL"] < 70
    assert found["rouge1"] == pytest.approx(100)


def test_sentences_of_the_output_are_split_too():
    """A reference's words are found in whichever sentence of the output they stand: 'the cat slept' and 'all day'."""
    from rouge_score import rouge_scorer

    output, reference = "All day long it rained. The cat slept.", "The cat slept on the mat all day."
    found = overlap(output, reference)["rougeLsum"]
    whole = rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=True).score(reference, output)["rougeLsum"]
    assert found == pytest.approx(100 * 2 * 5 / (8 + 8)) and 100 * whole.fmeasure == pytest.approx(
        100 * 2 * 3 / (8 + 8)
    )


def test_chrf_is_sacrebleus_sentence_score():
    from sacrebleu import sentence_chrf

    for output, reference in PAIRS:
        assert overlap(output, reference)["chrf"] == sentence_chrf(output, [reference]).score
    assert overlap("the same words", "the same words")["chrf"] == pytest.approx(100)


def test_the_stemmer_joins_forms_of_a_word():
    assert overlap("dogs running", "dog runs")["rouge1"] == pytest.approx(100)


def test_the_lead_is_the_first_sentences():
    assert lead("One. Two. Three. Four.", 3) == "One.\nTwo.\nThree."
    assert lead("One.", 3) == "One." and lead("", 3) == ""


def test_text_that_rouge_cannot_read_says_so():
    assert readable("Été 3") and not readable("夏が来た") and not readable("...")
    assert overlap("夏が来た", "夏が来た")["rouge1"] == 0 and overlap("夏が来た", "夏が来た")["chrf"] > 99
