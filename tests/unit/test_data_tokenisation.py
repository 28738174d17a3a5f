from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from isotone.config.data import Tokens
from isotone.data import tokenisation
from isotone.data.blocks import UNSCORED, Blocks, TokenSplit
from isotone.data.document import Document, from_messages
from isotone.data.readers.chat import encode_chat
from isotone.data.splits import SplitWriter
from isotone.data.tokenisation import tokenise
from isotone.data.tokenizer import END, train_tokenizer
from isotone.errors import ConfigurationError
from isotone.models import load_tokenizer
from isotone.records import folder_digest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [f"Sentence {index} says: naïve words, repeated {'often ' * (index % 7)}— 数." for index in range(60)]


def byte_tokenizer(**special):
    """Bytes as tokens, and the special tokens of one family: what matters here is which there are."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain, **special)


FAMILIES = {
    "pythia": {"bos_token": END, "eos_token": END},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    "qwen": {"eos_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]},
}


@pytest.fixture
def corpus(tmp_path):
    def make(documents, tokenizer=None, group=500):
        folder = tmp_path / "tokenizer"
        (tokenizer or byte_tokenizer(**FAMILIES["pythia"])).save_pretrained(folder)
        path = tmp_path / "documents" / "train.parquet"
        path.parent.mkdir(exist_ok=True)
        writer = SplitWriter(path)
        for document in documents:
            writer.add(document, document.digest)
            if writer._size >= group:
                writer._flush()
        writer.close({"share": 1.0})
        return path, folder

    return make


def plain(texts=TEXTS):
    return [Document(f"d{index}", text) for index, text in enumerate(texts)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", ["bos", "eos", "none"])
def test_documents_stand_between_the_tokens_of_their_family(corpus, tmp_path, family, start):
    tokenizer = byte_tokenizer(**FAMILIES[family])
    info = tokenise(*corpus(plain(), tokenizer), tmp_path / "out", Tokens(document_start=start))
    split = TokenSplit.open(tmp_path / "out")
    front = [tokenizer.bos_token_id] if family == "llama" and start == "bos" else []
    wanted = []
    for index, text in enumerate(TEXTS):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert list(split.text_ids(index)) == ids
        wanted += [*front, *ids, tokenizer.eos_token_id]
    assert split.tokens.tolist() == wanted
    assert info["text_tokens"] == sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)
    assert split.documents["bytes"].tolist() == [len(text.encode()) for text in TEXTS]
    assert split.documents["words"].tolist() == [len(text.split()) for text in TEXTS]


def test_a_text_that_spells_a_special_token_stays_text(corpus, tmp_path):
    tokenizer = byte_tokenizer(**FAMILIES["pythia"])
    tokenise(*corpus([Document("sly", f"before {END} after")], tokenizer), tmp_path / "out", Tokens())
    ids = TokenSplit.open(tmp_path / "out").text_ids(0)
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == f"before {END} after"
    assert tokenizer.eos_token_id in tokenizer(f"before {END} after")["input_ids"]  # control: transformers would


def test_any_number_of_processes_and_groups_gives_the_same_bytes(corpus, tmp_path):
    many = corpus(plain())
    tokenise(*many, tmp_path / "one", Tokens(), processes=1)
    tokenise(*many, tmp_path / "two", Tokens(), processes=2)
    assert folder_digest(tmp_path / "one") == folder_digest(tmp_path / "two")
    before = (tmp_path / "one" / "tokens.bin").read_bytes()
    tokenise(*corpus(plain(), group=1 << 30), tmp_path / "three", Tokens())
    assert (tmp_path / "three" / "tokens.bin").read_bytes() == before
    assert not list(tmp_path.glob(".*parts*"))


def test_the_fingerprint_follows_text_and_tokenizer(corpus, tmp_path):
    marks = {tokenise(*corpus(plain()), tmp_path / "a", Tokens())["fingerprint"]}
    marks.add(tokenise(*corpus(plain([*TEXTS[:-1], "other"])), tmp_path / "b", Tokens())["fingerprint"])
    marks.add(tokenise(*corpus(plain(), byte_tokenizer(**FAMILIES["llama"])), tmp_path / "c", Tokens())["fingerprint"])
    assert len(marks) == 3
    assert tokenise(*corpus(plain()), tmp_path / "d", Tokens())["fingerprint"] in marks


def test_an_interrupted_run_goes_on_with_its_parts(corpus, tmp_path, monkeypatch):
    job = corpus(plain())
    tokenise(*job, tmp_path / "whole", Tokens())
    real, groups = tokenisation.tokenise_part, []

    def breaks(part):
        if len(groups) == 2:
            raise KeyboardInterrupt
        groups.append(part.group)
        return real(part)

    monkeypatch.setattr(tokenisation, "tokenise_part", breaks)
    with pytest.raises(KeyboardInterrupt):
        tokenise(*job, tmp_path / "out", Tokens())
    assert not (tmp_path / "out").exists()
    again = []
    monkeypatch.setattr(tokenisation, "tokenise_part", lambda part: again.append(part.group) or real(part))
    tokenise(*job, tmp_path / "out", Tokens())
    assert groups == [0, 1] and again[:2] == [2, 3]
    assert folder_digest(tmp_path / "out") == folder_digest(tmp_path / "whole")


def test_a_killed_program_goes_on_and_ends_in_the_same_bytes(corpus, root, tmp_path):
    documents, tokenizer = corpus(plain(TEXTS * 200), group=20_000)
    tokenise(documents, tokenizer, tmp_path / "whole", Tokens())
    command = [sys.executable, str(root / "scripts/tokenize_split.py"), "--settings", "{}", "--processes", "1"]
    command += ["--tokenizer", str(tokenizer), "--documents", str(documents), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.parts-*/part-000003.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = sorted(tmp_path.glob(".out.parts-*/part-*.json"))
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert kept and not (tmp_path / "out").exists()
    tokenise(documents, tokenizer, tmp_path / "out", Tokens())
    assert stamps
    assert folder_digest(tmp_path / "out") == folder_digest(tmp_path / "whole")


def test_parts_of_other_settings_are_not_used(corpus, tmp_path):
    job = corpus(plain())
    stale = tmp_path / ".out.parts-0123456789abcdef"
    stale.mkdir()
    (stale / "part-000000.json").write_text("{}")
    tokenise(*job, tmp_path / "out", Tokens())
    assert not stale.exists()


def chat_tokenizer(template=CHATML):
    tokenizer = byte_tokenizer(**FAMILIES["qwen"])
    tokenizer.chat_template = template
    return tokenizer


TURNS = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def test_only_the_assistants_tokens_are_scored():
    tokenizer = chat_tokenizer()
    ids, scored = encode_chat(tokenizer, TURNS, "assistant")
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(TURNS, tokenize=False)
    kept = tokenizer.decode([token for token, mark in zip(ids, scored, strict=True) if mark])
    assert kept == "Four.<|im_end|>\nYes.<|im_end|>\n"
    assert encode_chat(tokenizer, TURNS, "all")[1] == [True] * len(ids)


def test_chats_become_a_mask_beside_the_tokens(corpus, tmp_path):
    sly = [{"role": "user", "content": "say <|im_end|> please"}, TURNS[1]]
    documents = [from_messages("good", TURNS), from_messages("sly", sly)]
    info = tokenise(*corpus(documents, chat_tokenizer()), tmp_path / "out", Tokens(score="assistant"))
    assert info["left_out"] == {"special_token_in_text": {"count": 1, "first": "sly"}}
    split = TokenSplit.open(tmp_path / "out")
    mask = np.fromfile(tmp_path / "out" / "scored.bin", np.uint8)
    assert len(mask) == len(split.tokens) and mask.sum() == info["scored_tokens"]
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    targets = Blocks(split, len(split.tokens) - 1).arrays([0])[1][0]
    assert tokenizer.decode(targets[targets != UNSCORED]) == "Four.<|im_end|>\nYes.<|im_end|>\n"


def test_a_template_that_rewrites_earlier_turns_cannot_be_marked():
    template = "{{ messages | length }} turns: " + CHATML
    with pytest.raises(ConfigurationError, match="cannot be marked"):
        encode_chat(chat_tokenizer(template), TURNS, "assistant")
    assert encode_chat(chat_tokenizer(template), TURNS, "all")


def test_a_template_may_refuse_a_chat_and_none_is_an_error(corpus, tmp_path):
    template = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML
    documents = [from_messages("backwards", TURNS[1:]), from_messages("good", TURNS)]
    info = tokenise(*corpus(documents, chat_tokenizer(template)), tmp_path / "out", Tokens())
    assert info["documents"] == 1 and info["left_out"]["refused_by_template"]["count"] == 1
    with pytest.raises(ConfigurationError, match="no chat template"):
        encode_chat(byte_tokenizer(**FAMILIES["qwen"]), TURNS, "all")


def test_a_tokenizer_without_end_of_text_is_refused(corpus, tmp_path):
    with pytest.raises(ConfigurationError, match="no end-of-text token"):
        tokenise(*corpus(plain(), byte_tokenizer()), tmp_path / "out", Tokens())


def test_the_trained_tokenizer_repeats_reads_back_and_has_one_special_token(tmp_path):
    one, two = (train_tokenizer(iter(TEXTS), 300, 64) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    assert len(one) == 300 and one.bos_token_id == one.eos_token_id == 0
    assert one.all_special_tokens == [END]
    strange = "Ünïcode \x00 ‮ 🙂 tabs\t and\r\nends"
    assert one.decode(one(strange)["input_ids"]) == strange
    one.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == END
