import models_zoo as zoo
import numpy as np
import pytest
import torch
from isotone import models
from isotone.errors import ConfigurationError
from isotone.evaluation import scoring
from isotone.evaluation.scoring import Scorer, Window, split_when_full


def plain_nll(model, inputs, targets):
    logits = model(input_ids=torch.tensor([list(inputs)])).logits[0].double()
    picked = logits.log_softmax(-1)[-len(targets) :]
    return -picked[torch.arange(len(targets)), torch.tensor(list(targets))]


@pytest.mark.parametrize("family", zoo.DECODERS)
def test_texts_gradients_and_flips_agree_with_a_plain_model(family):
    model = zoo.tiny(family)
    scorer = Scorer(model, 0)
    ids = zoo.random_ids(3, 40)
    nll = scorer.texts(ids)
    for row in range(3):
        expected = plain_nll(model, [0, *ids[row, :-1].tolist()], ids[row].tolist())
        torch.testing.assert_close(nll[row].double(), expected, rtol=1e-5, atol=1e-5)
    known, grad = scorer.gradients(ids, torch.ones(3, 40))
    torch.testing.assert_close(known, nll, rtol=1e-5, atol=1e-5)
    assert grad[:, -1].abs().max() == 0 and grad[:, 0].abs().max() > 0
    # Reuse of the unchanged front equals the full forward pass, at every kind of cut.
    rows, places = np.array([0, 0, 1, 2, 2]), np.array([1, 16, 17, 33, 38])
    tokens = np.array([5, 6, 7, 8, 9])
    changed = ids[rows].clone()
    changed[torch.arange(5), places] = torch.tensor(tokens)
    torch.testing.assert_close(
        scorer.flips(ids, nll, rows, places, tokens), scorer.texts(changed), rtol=2e-5, atol=2e-5
    )


def test_reuse_of_a_wrong_front_would_be_seen():
    scorer = Scorer(zoo.tiny("gpt_neox"), 0)
    ids = zoo.random_ids(2, 40)
    nll = scorer.texts(ids)
    one = scorer.flips(ids, nll, np.array([0]), np.array([30]), np.array([5]))
    other = scorer.flips(ids.flip(0), nll.flip(0), np.array([0]), np.array([30]), np.array([5]))
    assert (one - other).abs().max() > 0.1


def test_gradient_is_the_limit_of_differences_of_embeddings():
    model = zoo.tiny("gpt_neox").double()
    scorer = Scorer(model, 0)
    ids = zoo.random_ids(1, 12)
    weights = torch.zeros(1, 12)
    weights[0, 3:] = 1.0
    _, grad = scorer.gradients(ids, weights)
    generator, step = torch.Generator().manual_seed(0), 1e-4
    for place in (0, 4, 10):
        direction = torch.randn(zoo.WIDTH, generator=generator, dtype=torch.float64)
        sums = []
        for sign in (1, -1):
            embeds = scorer.embedding(scorer.inputs_of(ids)).double()
            embeds[0, place + 1] += sign * step * direction
            hidden = models.hidden_states(model, inputs_embeds_BTD=embeds)
            nll = scorer.nll_of_hidden(hidden, ids)
            sums.append(float((nll.double() * weights).sum()))
        expected = (sums[0] - sums[1]) / (2 * step)
        assert abs(float(grad[0, place].double() @ direction) - expected) < 2e-2 * max(1.0, abs(expected))


def test_batch_order_and_padding_change_nothing():
    model = zoo.tiny("llama")
    generator = np.random.default_rng(0)
    windows = []
    for _ in range(17):
        ids = generator.integers(1, zoo.VOCABULARY, size=generator.integers(3, 60))
        windows.append(Window(ids[:-1], ids[-int(generator.integers(1, len(ids))) :]))
    alone = Scorer(model, 0, batch=1).windows(windows)
    together = Scorer(model, 0, batch=8).windows(windows)
    order = generator.permutation(17)
    shuffled = Scorer(model, 0).windows([windows[index] for index in order])
    np.testing.assert_allclose(alone, together, rtol=1e-6)
    np.testing.assert_allclose(alone[order], shuffled, rtol=1e-6)
    for window, total in zip(windows, alone, strict=True):
        assert total == pytest.approx(float(plain_nll(model, window.inputs, window.targets).sum()), rel=1e-5)


@pytest.mark.parametrize("batch", [0, 4])
def test_passes_stay_within_memory_and_almost_without_padding(monkeypatch, batch):
    scorer = Scorer(zoo.tiny("gpt_neox"), 0, batch=batch)
    monkeypatch.setattr(scorer, "pass_tokens", 300)
    generator = np.random.default_rng(0)
    texts = [generator.integers(1, zoo.VOCABULARY, size=size) for size in [59] * 23 + [4] * 30 + list(range(20, 59))]
    windows = [Window(ids[:-1], ids[1:]) for ids in texts]
    passes, heads = [], []
    forward, head = models.hidden_states, scorer.rows_nll
    monkeypatch.setattr(models, "hidden_states", lambda model, ids: passes.append(ids) or forward(model, ids))
    monkeypatch.setattr(scorer, "rows_nll", lambda rows, targets: heads.append(len(rows)) or head(rows, targets))
    scorer.windows(windows)
    assert sum(len(ids) for ids in passes) == len(windows) and len(passes) > len(heads)
    assert max(ids.numel() for ids in passes) <= 300 and max(heads) <= 300
    assert 4 <= max(len(ids) for ids in passes) <= (batch or 300 // 3)
    assert all(ids.numel() <= 1.05 * ids.count_nonzero() for ids in passes)


def test_texts_of_equal_length_are_bitwise_the_same_in_any_batch():
    model, ids = zoo.tiny("gpt_neox"), zoo.random_ids(9, 32)
    assert torch.equal(Scorer(model, 0, batch=1).texts(ids), Scorer(model, 0, batch=8).texts(ids))
    assert torch.equal(Scorer(model, 0).texts(ids.flip(0)).flip(0), Scorer(model, 0).texts(ids))


def test_without_a_prefix_the_first_token_is_not_scored():
    model, ids = zoo.tiny("gpt2"), zoo.random_ids(2, 10)
    nll = Scorer(model, None).texts(ids)
    assert nll[:, 0].abs().max() == 0
    expected = plain_nll(model, ids[0, :-1].tolist(), ids[0, 1:].tolist())
    torch.testing.assert_close(nll[0, 1:].double(), expected, rtol=1e-5, atol=1e-5)
    _, grad = Scorer(model, None).gradients(ids, torch.ones(2, 10))
    assert grad.shape == (2, 10, zoo.WIDTH) and grad[:, 0].abs().max() > 0


def test_out_of_memory_halves_the_batch_and_covers_every_item(monkeypatch):
    seen = []

    def work(part):
        if len(part) > 3:
            raise torch.OutOfMemoryError("too large")
        seen.append(len(part))
        return [2 * item for item in part]

    assert split_when_full(work, list(range(13))) == [2 * item for item in range(13)]
    assert max(seen) <= 3 and sum(seen) == 13
    with pytest.raises(MemoryError):
        split_when_full(lambda part: (_ for _ in ()).throw(MemoryError()), [1])
    # The same through the scorer: a model that fails for batches above two.
    model, ids = zoo.tiny("gpt_neox"), zoo.random_ids(7, 16)
    expected = Scorer(model, 0).texts(ids)
    plain = models.hidden_states

    def tight(model, input_ids_BT=None, **more):
        if input_ids_BT is not None and len(input_ids_BT) > 2:
            raise torch.OutOfMemoryError("too large")
        return plain(model, input_ids_BT, **more)

    monkeypatch.setattr(scoring.models, "hidden_states", tight)
    torch.testing.assert_close(Scorer(model, 0).texts(ids), expected, rtol=1e-6, atol=1e-6)
    windows = [Window(row[:-1], row[1:]) for row in ids.numpy()]
    sums = Scorer(model, None).windows(windows)
    assert sums.shape == (7,) and (sums > 0).all()


def test_compare_is_zero_for_equal_texts_and_a_divergence_otherwise():
    model, ids = zoo.tiny("gpt_neox"), zoo.random_ids(2, 20)
    scorer = Scorer(model, 0)
    found = scorer.compare(ids[0], ids[0])
    assert found.kl.abs().max() < 1e-6 and bool(found.same.all()) and len(found.kl) == 20
    torch.testing.assert_close(found.nll_before, scorer.texts(ids[:1])[0], rtol=1e-5, atol=1e-5)
    other = ids[0].clone()
    other[5] = 7
    kl = scorer.compare(ids[0], other).kl
    assert kl[:6].abs().max() < 1e-6 and kl[6:].max() > 0
    before = model(input_ids=scorer.inputs_of(ids[:1])).logits[0].double().log_softmax(-1)
    after = model(input_ids=scorer.inputs_of(other[None])).logits[0].double().log_softmax(-1)
    torch.testing.assert_close(kl.double(), (before.exp() * (before - after)).sum(-1), rtol=1e-4, atol=1e-6)
    behind = torch.cat([torch.tensor([3, 4]), ids[0]])
    kl = Scorer(model, None).compare(ids[0], behind).kl
    assert len(kl) == 20 and kl[0] == 0 and kl[1:].max() > 0


def test_a_window_beyond_the_context_is_refused():
    scorer = Scorer(zoo.tiny("gpt_neox", context=32), 0)
    with pytest.raises(ConfigurationError, match="needs 33 input tokens, but the model's context is 32"):
        scorer.check_length(33, "A window")
