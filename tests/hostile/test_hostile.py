"""Inputs made to harm: none may run code, leave its folder, or fill the memory."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import resource
import subprocess
import sys
import tarfile
import zipfile

import pytest
from isotone.config.data import Data, Model, Source
from isotone.data.document import Troubles
from isotone.data.readers.files import find_files, open_files
from isotone.errors import ConfigurationError
from isotone.models import load_model, save_model
from isotone.models.origins import open_model
from isotone.models.origins.gguf import find_gguf
from isotone.schema import parse
from isotone.studies.study import read_study

from tests.unit.models_zoo import tiny, tiny_tokenizer


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def evidence(tmp_path):
    return tmp_path / "code-was-run"


def model_folder(tmp_path, **config):
    folder = tmp_path / "model"
    save_model(tiny("gpt_neox"), tiny_tokenizer(), folder)
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def test_the_bomb_is_live(evidence):
    pickle.loads(pickle.dumps(Bomb(evidence))).close()
    assert evidence.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "model.pkl"])
def test_pickled_weights_are_refused_unread(tmp_path, evidence, name):
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(evidence)))
    for load in (lambda: open_model(Model(source="local", path=str(folder))), lambda: load_model(folder)):
        with pytest.raises(ConfigurationError):
            load()
    assert not evidence.exists()


def test_pickles_beside_safetensors_are_not_touched(tmp_path, evidence):
    folder = model_folder(tmp_path)
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb(evidence)))
    open_model(Model(source="local", path=str(folder)))
    assert not evidence.exists()


def test_a_pickle_called_safetensors_is_damage(tmp_path, evidence):
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(evidence)))
    with pytest.raises(ConfigurationError):
        open_model(Model(source="local", path=str(folder)))
    assert not evidence.exists()


def test_code_that_comes_with_a_model_is_not_run(tmp_path, evidence):
    mapping = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    folder = model_folder(tmp_path, model_type="evil", auto_map=mapping)
    (folder / "evil.py").write_text(f"open({str(evidence)!r}, 'w')\n")
    with pytest.raises(ConfigurationError, match="code of its own, which Isotone does not run"):
        open_model(Model(source="local", path=str(folder)))
    known = model_folder(tmp_path / "known", auto_map=mapping)
    (known / "evil.py").write_text(f"open({str(evidence)!r}, 'w')\n")
    open_model(Model(source="local", path=str(known)))  # a family that transformers knows: its own code is used
    assert not evidence.exists()


def test_trust_is_off_unless_written():
    assert Model().trust_remote_code is False
    assert read_study({"study": "x", "arms": {"baseline": {}}}, "x").model.trust_remote_code is False


def test_a_safetensors_header_that_promises_everything_is_refused(tmp_path):
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ConfigurationError):
        open_model(Model(source="local", path=str(folder)))


@pytest.mark.parametrize("name", ["../escape", "/etc", "a/b", "x y", "Ä", "", ".", "-flag", "a" * 3 + "\n"])
def test_names_of_studies_and_arms_are_plain(name):
    with pytest.raises(ConfigurationError):
        read_study({"study": name, "arms": {"baseline": {}}}, "x")
    with pytest.raises(ConfigurationError):
        read_study({"study": "x", "arms": {"baseline": {}, name: {}}}, "x")


@pytest.mark.parametrize("name", ["../../etc", "https://elsewhere/model", "a/b/c", "~user", "$(touch x)", "a b"])
def test_names_on_the_hub_are_plain(name):
    with pytest.raises(ConfigurationError):
        parse(Model, {"source": "hub", "name": name, "revision": "v1"})
    with pytest.raises(ConfigurationError):
        parse(Data, {"source": "hub", "name": name, "revision": "v1"})


@pytest.mark.parametrize("part", ["../secret", "/etc", "a/../../secret"])
def test_parts_of_a_source_stay_inside_it(tmp_path, part):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.txt").write_text("secret")
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigurationError, match=r"leaves data\.path"):
        find_files(Source(source="local", path=str(tmp_path / "data")), part)


@pytest.mark.parametrize(
    "path", ["package:numpy/../pip/x.gguf", "package:numpy//etc/passwd", "package:numpy", "package:../x"]
)
def test_files_in_packages_stay_inside_them(path):
    with pytest.raises(ConfigurationError):
        find_gguf(path)


def test_archives_are_never_unpacked(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "out")
    with tarfile.open(folder / "b.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"out"))
    with pytest.raises(ConfigurationError, match="archives are not unpacked"):
        list(open_files(Source(source="local", path=str(folder)), Troubles()))
    assert not list(tmp_path.rglob("escaped*"))


def test_a_compressed_bomb_does_not_fill_the_memory(tmp_path):
    """A gigabyte without a line end behind a megabyte of gzip: counted, in bounded memory."""
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb", compresslevel=9) as file:
        block = bytes(1 << 20)
        for _ in range(1024):
            file.write(block)
    code = (
        "import sys\nfrom isotone.config.data import Source\nfrom isotone.data.document import Troubles\n"
        "from isotone.data.readers.files import open_files\ntroubles = Troubles()\n"
        f"print(len(list(open_files(Source(source='local', path={str(tmp_path)!r}), troubles))), troubles.sentence())"
    )
    limit = 600 << 20
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 1 line too long")


def test_shell_words_in_settings_are_data(root, tmp_path):
    marker = tmp_path / "owned"
    settings = json.dumps({"source": "local", "path": f"$(touch {marker}); `touch {marker}`"})
    done = subprocess.run(
        [
            sys.executable,
            str(root / "scripts/corpus.py"),
            "--settings",
            settings,
            "--documents",
            str(tmp_path / "d"),
            "--marker",
            "m",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 78 and not marker.exists() and "Traceback" not in done.stderr


def test_no_module_of_the_library_unpickles(root):
    words = ("pickle.load", "torch.load(", "torch.save(", "joblib.load", "allow_pickle=True", 'eval("', "os.system(")
    for path in (root / "scripts").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [word for word in words if word in text], path
