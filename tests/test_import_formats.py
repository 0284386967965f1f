"""`provfl import` of what frameworks write: every format gives the same round, and no file does more than be read."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from provfl_cli.bounded import UNPACKED_BYTES
from provfl_cli.cli import main
from provfl_cli.errors import InputError
from provfl_cli.provenance import from_state_dicts, trace
from provfl_cli.run.checkpoints.opened import read_checkpoint
from provfl_cli.run.checkpoints.renaming import new_names, substitutions
from provfl_cli.run.checkpoints.tied import ties
from provfl_cli.store.matching_tensors import check_tensors
from provfl_cli.store.rounds import Round, read_round

EXAMPLES = (10, 20, 30)
Tensors = dict[str, Tensor]


def net() -> nn.Module:
    """What `--model tests.test_import_formats:net` calls."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def other() -> nn.Module:
    """A model whose head has another size."""
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def unlike() -> nn.Module:
    """A model with other names."""
    return nn.Linear(6, 3)


def moved(tensors: Mapping[str, Tensor], seed: int, size: float = 0.1) -> Tensors:
    random = torch.Generator().manual_seed(seed)
    return {n: (t.float() + size * torch.randn(t.shape, generator=random)).to(t.dtype) for n, t in tensors.items()}


def averaged(clients: list[Tensors], dtype: torch.dtype | None = None) -> Tensors:
    shares = [count / sum(EXAMPLES) for count in EXAMPLES]
    return {
        name: sum(p * client[name].double() for p, client in zip(shares, clients, strict=True)).to(  # type: ignore[union-attr]
            dtype or clients[0][name].dtype
        )
        for name in clients[0]
    }


def federation(dtype: torch.dtype = torch.float32) -> dict[str, Tensors]:
    before = {name: tensor.detach().to(dtype) for name, tensor in net().state_dict().items()}
    clients = {name: moved(before, seed) for seed, name in enumerate("abc")}
    return {"before": before, **clients, "after": averaged(list(clients.values()))}


def arguments(suffix: str = ".safetensors", *more: str) -> list[str]:
    clients = [f"{name}={name}{suffix}:{count}" for name, count in zip("abc", EXAMPLES, strict=True)]
    models = ["--global", f"after{suffix}", "--previous", f"before{suffix}"]
    return ["import", *models, "--client", *clients, "--out", "made", *more]


def stored() -> Round:
    made = read_round("made/rounds", 1)
    check_tensors(made)
    return made


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that an import ends with that is refused."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert not Path("made").exists()
    return said.err


def sharded(tensors: Tensors, folder: Path) -> dict[str, Any]:
    """Write a folder of two shards; returns its index."""
    folder.mkdir()
    names = sorted(tensors)
    shards = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(names)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in names if shards[name] == shard}, folder / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def old_torch(tensors: Any, path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def lightning(tensors: Tensors, path: Path) -> None:
    plain = {"epoch": 1, "hyper_parameters": {"lr": 0.1}, "optimizer_states": [{"state": {}}], "state_dict": tensors}
    torch.save(plain, path)


FORMATS: dict[str, tuple[str, Callable[[Tensors, Path], Any]]] = {
    "safetensors": (".safetensors", save_file),
    "safetensors without suffix": ("", save_file),
    "npz": (".npz", lambda tensors, path: np.savez(path, **{n: t.numpy() for n, t in tensors.items()})),
    "npz compressed": (
        ".npz",
        lambda tensors, path: np.savez_compressed(path, **{n: t.numpy() for n, t in tensors.items()}),
    ),
    "pt": (".pt", torch.save),
    "pth before 1.6": (".pth", old_torch),
    "bin": (".bin", torch.save),
    "torch without suffix": (".weights", torch.save),
    "old torch without suffix": (".weights", old_torch),
    "under model": (".pt", lambda tensors, path: torch.save({"model": tensors, "epoch": 3}, path)),
    "under model_state_dict": (".pt", lambda tensors, path: torch.save({"model_state_dict": tensors}, path)),
    "lightning": (".ckpt", lightning),
    "sharded folder": ("", sharded),
    "sharded folder by its index": ("/model.safetensors.index.json", lambda t, path: sharded(t, path.parent)),
    "folder of one file": ("", lambda t, path: (path.mkdir(), save_file(t, path / "model.safetensors"))),
    "parameters": (".pt", lambda t, path: torch.save({n: nn.Parameter(x) for n, x in t.items()}, path)),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_round(kind: str, workspace: Path) -> None:
    suffix, write = FORMATS[kind]
    files = federation()
    for name, tensors in files.items():
        write(tensors, workspace / f"{name}{suffix}")
    assert main(arguments(suffix)) == 0
    made = stored()
    for name, tensor in files["after"].items():
        assert torch.equal(made.weights()[name], tensor)
        assert torch.equal(made.previous()[name], files["before"][name])
        assert torch.equal(made.client_stack()[name], torch.stack([files[client][name] for client in "abc"]))


def test_formats_may_be_mixed(workspace: Path) -> None:
    files = federation()
    writers = {"before": ".pt", "after": ".npz", "a": ".safetensors", "b": ".pt", "c": ".npz"}
    for name, suffix in writers.items():
        {".pt": torch.save, ".npz": FORMATS["npz"][1], ".safetensors": save_file}[suffix](
            files[name], workspace / f"{name}{suffix}"
        )
    clients = [f"{name}={name}{writers[name]}:{count}" for name, count in zip("abc", EXAMPLES, strict=True)]
    assert main(["import", "--global", "after.npz", "--previous", "before.pt", "--client", *clients]) == 0


# -- hostile and broken files ------------------------------------------------------------------------------------------


class Runs:
    """What pickle would run when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("write", [torch.save, old_torch])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".weights"])
def test_code_in_a_pickle_does_not_run(
    write: Any, suffix: str, workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # changes nothing
    for name in "abc":
        torch.save(federation()[name], f"{name}{suffix}")
    write({**federation()["a"], "x": Runs()}, f"b{suffix}")
    for name in ("before", "after"):
        torch.save(federation()[name], f"{name}{suffix}")
    error = refused(arguments(suffix), capsys)
    assert f"--client b=b{suffix}: holds more than tensors" in error
    assert "mkdir" in error
    assert "safetensors.torch.save_file" in error
    assert not Path("ran").exists()
    torch.load(f"b{suffix}", weights_only=False)  # it would have
    assert Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ({"epoch": 1}, "holds no state dict, neither itself nor as state_dict, model_state_dict, model, but epoch"),
        ({"state_dict": {"w": torch.ones(1)}, "model": {"w": torch.ones(1)}}, "several state dicts"),
        (torch.ones(3), "holds a Tensor, no state dict"),
        ([torch.ones(3)], "holds a list, no state dict"),
        ({}, "holds no state dict"),
        ({"w": torch.ones(2), "step": 3}, "step is an int"),
        ({"w": torch.ones(2), 7: torch.ones(1)}, "names of tensors are texts"),
        ({"w": torch.ones(2).to_sparse()}, "sparse"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "torch.complex64, which no round holds"),
        ({"w" * 5000: torch.ones(2)}, "names have 1 to"),
        ({"__metadata__": torch.ones(2)}, "a name that no safetensors file can hold"),
        ({"half\ud800": torch.ones(2)}, "a name that no safetensors file can hold"),
        ({"w": torch.zeros(1).expand(1 << 31)}, "would become more than"),
        (net(), "holds more than tensors (torch.nn.modules.container.Sequential)"),
    ],
)
def test_wrong_content_of_torch_files(
    content: Any, answer: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, "before.pt")
    torch.save(federation()["after"], "after.pt")
    for name in "abc":
        torch.save(federation()[name], f"{name}.pt")
    error = refused(arguments(".pt"), capsys)
    assert error.startswith("provfl: --previous before.pt: ") or "--previous before.pt: " in error
    assert answer in error


def test_a_pickle_that_is_an_archive_as_well_does_not_run(workspace: Path) -> None:
    old_torch({"w": torch.ones(2), "x": Runs()}, Path("both.pt"))
    torch.save({"w": torch.ones(2)}, "a.pt")
    Path("both.pt").write_bytes(Path("both.pt").read_bytes() + Path("a.pt").read_bytes())
    assert zipfile.is_zipfile("both.pt")
    for name in ("both.pt", "both.weights", "both.npz", "both.safetensors"):
        Path(name).write_bytes(Path("both.pt").read_bytes())
        with pytest.raises(InputError):
            read_checkpoint(Path(name), name)
    assert not Path("ran").exists()


def test_broken_torch_files(workspace: Path) -> None:
    torch.save(federation()["a"], "a.pt")
    whole = Path("a.pt").read_bytes()
    with zipfile.ZipFile("a.pt") as archive, zipfile.ZipFile("small.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with zipfile.ZipFile("a.pt") as archive, zipfile.ZipFile("lies.pt", "w") as lies:
        for name in archive.namelist():
            content = archive.read(name)  # a tensor [5, 6] and its storage of 30 numbers (1e) are said to be larger
            larger = content.replace(b"K\x1e", b"M\xff\xff").replace(b"K\x05K\x06\x86", b"M\xff\x0fK\x06\x86")
            assert name.endswith("data.pkl") == (larger != content)
            lies.writestr(name, larger)
    Path("half.pt").write_bytes(whole[: len(whole) // 2])
    Path("text.pt").write_text("no tensor in sight")
    Path("empty.pt").write_bytes(b"")
    torch.jit.save(torch.jit.script(net()), "script.pt")
    for name, answer in (
        ("small.pt", "is compressed"), ("lies.pt", "is no file of torch.save"), ("half.pt", "is a damaged file"),
        ("text.pt", "is no file of"), ("empty.pt", "is no file of"), ("script.pt", "TorchScript"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=answer) as refusal:
            read_checkpoint(Path(name), f"--client {name}")
        assert "\n" not in str(refusal.value)
        assert "Weights only" not in str(refusal.value)


def test_wrong_npz_files(workspace: Path) -> None:
    def refusal(name: str) -> str:
        with pytest.raises(InputError) as error:
            read_checkpoint(Path(name), "--previous x")
        assert "\n" not in str(error.value)
        return str(error.value)

    np.savez("objects.npz", w=np.array([Runs(), 1], dtype=object))
    assert "w is of Python objects" in refusal("objects.npz")
    assert not Path("ran").exists()
    np.savez("texts.npz", w=np.array(["a", "b"]))
    assert "w is no array of numbers that torch has" in refusal("texts.npz")
    np.savez("wide.npz", w=np.ones(2, np.longdouble))
    assert "w is no array of numbers" in refusal("wide.npz")
    np.savez("empty.npz")
    assert "holds no tensor" in refusal("empty.npz")
    with zipfile.ZipFile("other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "is no npz file of arrays" in refusal("other.npz")
    Path("text.npz").write_text("no array in sight")
    assert "is no npz file" in refusal("text.npz")
    np.savez("big_endian.npz", w=np.arange(3, dtype=">f4"), n=np.array(7))
    tensors = read_checkpoint(Path("big_endian.npz"), "x").tensors
    assert tensors["w"].tolist() == [0, 1, 2]
    assert tensors["n"].shape == ()


def test_a_small_npz_that_would_become_large(workspace: Path) -> None:
    with zipfile.ZipFile("bomb.npz", "w") as archive:
        archive.writestr("w.npy", b"")
    content = Path("bomb.npz").read_bytes()
    at = content.rindex(b"PK\x01\x02")  # the entry of the directory: its size unpacked lies at 24
    lie = (UNPACKED_BYTES - 1).to_bytes(8, "little")[:4]
    Path("bomb.npz").write_bytes(content[: at + 24] + lie + content[at + 28 :])
    with pytest.raises(InputError, match="w is no array of numbers"):  # within the limit: it is not there
        read_checkpoint(Path("bomb.npz"), "x")
    Path("bomb.npz").write_bytes(content[: at + 24] + (0xFFFFFFF0).to_bytes(4, "little") + content[at + 28 :])
    with pytest.raises(InputError, match="would become more than"):
        read_checkpoint(Path("bomb.npz"), "x")
    np.save("w.npy", np.ones(1000))
    whole = Path("w.npy").read_bytes()
    terabytes = whole.replace(b"(1000,), }" + b" " * 9, b"(1" + b"0" * 12 + b",), }")
    assert terabytes != whole
    with zipfile.ZipFile("shape.npz", "w") as archive:
        archive.writestr("w.npy", terabytes)
    with pytest.raises(InputError, match=r"is no npz file|no array of numbers"):
        read_checkpoint(Path("shape.npz"), "x")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ("absolute", "which is no file of its folder"),
        ("above", "which is no file of its folder"),
        ("link", "is a link to a place outside of its folder"),
        ("pipe", "is a pipe, a device or a folder"),
        ("missing", "model-00002-of-00002.safetensors is missing"),
        ("twice", "is in two shards"),
        ("unlisted", "which model.safetensors.index.json does not say"),
        ("lacking", "has no tensor 9.weight"),
        ("numbers", "names no shards"),
        ("list", "no JSON object"),
        ("large", "at most 16.0 MB are read"),
        ("circle", "is missing"),
    ],
)
def test_sharded_folders_lead_nowhere_else(
    change: str, answer: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = federation()
    for name, tensors in files.items():
        save_file(tensors, f"{name}.safetensors")
    index = sharded(files["b"], workspace / "b")
    second = workspace / "b" / "model-00002-of-00002.safetensors"
    shards = index["weight_map"]
    if change == "absolute":
        shards["0.bias"] = str(workspace / "b.safetensors")
    elif change == "above":
        shards["0.bias"] = "../b.safetensors"
    elif change == "link":
        second.rename(workspace / "elsewhere.safetensors")
        second.symlink_to(workspace / "elsewhere.safetensors")
    elif change == "pipe":
        second.unlink()
        os.mkfifo(second)
    elif change == "missing":
        second.unlink()
    elif change == "circle":
        second.unlink()
        second.symlink_to(second)
    elif change == "twice":
        save_file({**load_file(second), "0.bias": files["b"]["0.bias"]}, second)
    elif change == "unlisted":
        save_file({**load_file(second), "more": torch.ones(1)}, second)
    elif change == "lacking":
        shards["9.weight"] = second.name
    elif change == "numbers":
        shards["0.bias"] = 7
    text = json.dumps([index] if change == "list" else index) + (" " * 17_000_000 if change == "large" else "")
    (workspace / "b" / "model.safetensors.index.json").write_text(text)
    words = [word.replace("b=b.safetensors", "b=b") for word in arguments()]
    error = refused(words, capsys)
    assert "--client b=b: " in error
    assert answer in error


def test_links_within_a_folder_are_followed(workspace: Path) -> None:
    sharded(federation()["a"], workspace / "a")
    shard = workspace / "a" / "model-00002-of-00002.safetensors"
    shard.rename(shard.with_name("blob"))
    shard.symlink_to("blob")
    assert read_checkpoint(Path("a"), "a").tensors.keys() == federation()["a"].keys()


def test_folders_and_pipes_that_are_no_checkpoint(workspace: Path) -> None:
    for name in ("empty", "both", "bare"):
        Path(name).mkdir()
    for name in ("both/model.safetensors", "both/adapter_model.safetensors", "bare/adapter_model.safetensors"):
        save_file({"w": torch.ones(2)}, name)
    os.mkfifo("pipe.pt")
    for name, answer in (
        ("empty", "is a folder without adapter_model.safetensors"), ("both", "holds an adapter and a model"),
        ("bare", "has no adapter_config.json"), ("pipe.pt", "is a pipe or a device"), ("gone.pt", "no such file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=answer):
            read_checkpoint(Path(name), name)


# -- updates, names, parts, ties ---------------------------------------------------------------------------------------


def write(files: Mapping[str, Tensors], suffix: str = ".safetensors") -> None:
    for name, tensors in files.items():
        (save_file if suffix == ".safetensors" else torch.save)(tensors, f"{name}{suffix}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_are_added_to_the_model_before(dtype: torch.dtype, workspace: Path) -> None:
    before = federation(dtype)["before"]
    updates = {
        name: {n: t - before[n] for n, t in moved(before, seed, 1e-3).items()} for seed, name in enumerate("abc")
    }
    mean = averaged(list(updates.values()), torch.float64)
    after = {n: (before[n].double() + mean[n]).to(dtype) for n in before}
    write({"before": before, "after": after, **updates})
    assert main(arguments(".safetensors", "--clients-are", "updates")) == 0
    made = stored()
    for name in before:
        exact = torch.stack([before[name].double() + updates[c][name].double() for c in "abc"])
        assert made.client_stack()[name].dtype == torch.float32
        torch.testing.assert_close(made.client_stack()[name].double(), exact, atol=1e-7, rtol=1e-6)
        assert torch.equal(made.weights()[name], after[name])
        assert made.previous()[name].dtype == dtype


def test_updates_that_are_weights_are_noticed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(federation())
    assert "is not what fusion=fedavg makes of the clients" in refused(
        arguments(".safetensors", "--clients-are", "updates"), capsys
    )
    assert "did you mean updates" in refused(arguments(".safetensors", "--clients-are", "update"), capsys)


def test_names_are_changed_as_sed_would(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = federation()
    for name in "abc":
        files[name] = {f"net.{n.replace('.', '/')}": t for n, t in files[name].items()}
    write(files)
    assert "has a tensor net.0/bias (nor 3 more), which --previous before.safetensors has not" in refused(
        arguments(), capsys
    )
    assert main(arguments(".safetensors", "--as-names", r"s/^net\.//", "s|/|.|g")) == 0
    assert set(stored().weights()) == set(files["before"])


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        (["s/a"], "give s/PATTERN/REPLACEMENT/"),
        (["a/b/c/"], "give s/PATTERN/REPLACEMENT/"),
        (["s//b/"], "give s/PATTERN/REPLACEMENT/"),
        (["s/a/b/c/"], "give s/PATTERN/REPLACEMENT/"),
        (["sxaxbx"], "give s/PATTERN/REPLACEMENT/"),
        (["s"], "give s/PATTERN/REPLACEMENT/"),
        (["s/a/b/i"], "accepted is g"),
        (["s/(/b/"], "is no regular expression"),
        ([r"s/a/\1/"], "is no regular expression"),
        (["s/" + "a" * 600 + "/b/"], "at most 500"),
        (["s/a/b/"] * 17, "at most 16"),
    ],
)
def test_wrong_substitutions(
    texts: list[str], answer: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(federation())
    error = refused(arguments(".safetensors", "--as-names", *texts), capsys)
    assert answer in error
    assert "--as-names" in error


def test_substitutions_that_do_not_serve(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(federation())
    for text, answer in (
        ("s/^module\\.//", "changes no name of any file (the first is 0.bias)"),
        ("s/[02]//", "0.bias and 2.bias of --previous before.safetensors would both be .bias"),
        ("s/0.bias//", "0.bias of --previous before.safetensors would have no name"),
    ):
        assert answer in refused(arguments(".safetensors", "--as-names", text), capsys)


def test_what_substitutions_do() -> None:
    def changed(name: str, *texts: str) -> str:
        return new_names([name], substitutions(texts), "x")[name]

    assert changed("module.a.module.b", r"s/module\.//") == "a.module.b"
    assert changed("module.a.module.b", r"s/module\.//g") == "a.b"
    assert changed("a/b", r"s/\//./") == "a.b"
    assert changed("h.3.w", r"s/h\.(\d+)\.(.*)/layers.\1.\2/") == "layers.3.w"
    assert changed("a.b", "s/a/b/", "s/b/c/g") == "c.c"


def test_clients_that_hold_part_of_the_model(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = federation()
    for name in "abc":
        files[name] = {n: t for n, t in files[name].items() if n.startswith("2.")}
    files["after"] = {**files["before"], **averaged([files[name] for name in "abc"])}
    write(files)
    assert main(arguments(".safetensors", "--model", "tests.test_import_formats:net")) == 0
    said = capsys.readouterr().out
    assert "the clients hold 2 of 4 tensors of --previous" in said
    assert "fits --model tests.test_import_formats:net: 2 of its parameters, 2 others are constants" in said
    assert set(stored().weights()) == {"2.weight", "2.bias"}
    inputs = torch.randn(4, 6)
    part = trace(net(), inputs, stored())
    whole = trace(net(), inputs, from_state_dicts([{**files["before"], **files[c]} for c in "abc"], EXAMPLES,
                                                  files["before"]))  # fmt: skip
    assert np.abs(part.values - whole.values).max() < 1e-6


def test_what_a_server_changes_without_clients_is_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = federation()
    for name in "abc":
        files[name] = {n: t for n, t in files[name].items() if n.startswith("2.")}
    write(files)
    assert main(arguments()) == 0
    assert "changed tensors that no client holds, which no trace explains: 0.bias, 0.weight" in capsys.readouterr().out


def test_clients_hold_the_same_part(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = federation()
    files["a"] = {n: t for n, t in files["a"].items() if n != "0.bias"}
    write(files)
    assert "--client b=b.safetensors: has a tensor 0.bias, which --client a=a.safetensors has not" in refused(
        arguments(), capsys
    )


def test_names_of_parts_are_matched_through_wrappers(workspace: Path) -> None:
    files = federation()
    for name in "abc":
        files[name] = {f"module.{n}": t for n, t in files[name].items()}
    files["after"] = {f"_orig_mod.{n}": t for n, t in files["after"].items()}
    write(files)
    assert main(arguments()) == 0
    assert set(stored().weights()) == set(files["before"])


def test_a_following_round_keeps_the_names_of_the_first(workspace: Path) -> None:
    files = federation()
    write(files)
    assert main(arguments()) == 0
    following = {name: moved(files["after"], seed) for seed, name in enumerate("abc", 5)}
    later = {"before": files["after"], **following, "after": averaged(list(following.values()))}
    write({name: {f"module.{n}": t for n, t in tensors.items()} for name, tensors in later.items()})
    assert main(arguments()) == 0
    made = read_round("made/rounds", 2)
    for name, tensor in later["after"].items():
        assert torch.equal(made.weights()[name], tensor)
    assert torch.equal(made.client_stack()["0.bias"][1], following["b"]["0.bias"])


class Tied(nn.Module):
    """Reads and writes words by the same table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5)
        self.out.weight = self.embed.weight


@pytest.mark.parametrize(
    "lacking", [("before",), ("a", "b", "c"), ("b",), ("before", "after"), ("before", "after", "c")]
)
def test_tied_copies_are_filled_in(
    lacking: tuple[str, ...], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: tensor.detach().clone() for name, tensor in Tied().state_dict().items()}
    files = {"before": before}
    for seed, name in enumerate("abc"):
        files[name] = moved(before, seed)
        files[name]["out.weight"] = files[name]["embed.weight"].clone()
    files["after"] = averaged([files[name] for name in "abc"])
    write({name: {n: t for n, t in tensors.items() if name not in lacking or n != "out.weight"}
           for name, tensors in files.items()})  # fmt: skip
    assert main(arguments()) == 0
    assert "filled in from their ties: out.weight (of embed.weight)" in capsys.readouterr().out
    made = stored()
    assert torch.equal(made.client_stack()["out.weight"], made.client_stack()["embed.weight"])
    assert torch.equal(made.previous()["out.weight"], before["embed.weight"])


def test_what_is_equal_by_chance_is_no_tie() -> None:
    table = torch.randn(3, 2)
    files = [
        {"a": table, "b": table.clone(), "zero": torch.zeros(2), "null": torch.zeros(2)},
        {"a": table, "b": table + 1, "zero": torch.zeros(2), "null": torch.zeros(2)},
        {"a": table, "zero": torch.zeros(2)},
    ]
    assert ties([set(file) for file in files], files.__getitem__) == {}
    assert ties([set(files[0]), set(files[2])], [files[0], files[2]].__getitem__) == {"b": "a"}


# -- half precision ----------------------------------------------------------------------------------------------------

HALF = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("summed", ["exactly", "in its type"])
def test_half_precision_is_kept_and_its_rounding_is_no_mismatch(
    dtype: torch.dtype, summed: str, workspace: Path
) -> None:
    files = federation(dtype)
    if summed != "exactly":
        total = {n: torch.zeros_like(t) for n, t in files["before"].items()}
        for name, count in zip("abc", EXAMPLES, strict=True):
            for n, t in files[name].items():
                part = (t.float() * (count / sum(EXAMPLES))).to(dtype)
                total[n] = (total[n].float() + part.float()).to(dtype)
        files["after"] = total
    write(files)
    assert main(arguments()) == 0
    made = stored()
    assert {t.dtype for held in (made.weights(), made.previous(), made.client_stack()) for t in held.values()} == {
        dtype
    }
    done = trace(net(), torch.randn(4, 6), made, "faithful")
    assert done.residuals.max() < 1e-5
    assert np.abs(done.rows["rounding"]).max() > 0
    in_memory = from_state_dicts([files[c] for c in "abc"], EXAMPLES, files["before"], files["after"])
    again = trace(net(), torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), in_memory, "faithful")
    same = trace(net(), torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), made, "faithful")
    assert np.array_equal(again.values, same.values)


@pytest.mark.parametrize("dtype", HALF)
def test_more_than_rounding_is_a_mismatch(
    dtype: torch.dtype, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {n: 4 * torch.randn(t.shape) for n, t in federation()["before"].items()}
    clients = [{n: t.to(dtype) for n, t in moved(before, seed, 4.0).items()} for seed in range(3)]
    write({"before": {n: t.to(dtype) for n, t in before.items()}, **dict(zip("abc", clients, strict=True))})
    write({"after": clients[0]})
    assert "is not what fusion=fedavg makes of the clients" in refused(arguments(), capsys)
    assert main(arguments(".safetensors", "--mismatch", "row")) == 0
    done = trace(net(), torch.randn(4, 6), stored(), "faithful")
    assert done.residuals.max() < 1e-5
    assert np.abs(done.rows["difference"]).max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_float32_model_of_half_precision_clients(
    dtype: torch.dtype, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server keeps float32 and its clients send less; and one that sums what they sent in their type."""
    files = federation(dtype)
    files["before"] = {n: t.float() + 1e-5 for n, t in files["before"].items()}
    files["after"] = averaged([files[name] for name in "abc"], torch.float32)
    write(files)
    assert main(arguments()) == 0
    assert stored().client_stack()["0.bias"].dtype == dtype
    assert stored().weights()["0.bias"].dtype == torch.float32
    assert "rounding" not in trace(net(), torch.randn(4, 6), stored(), "faithful").rows
    files["after"] = {n: t.to(dtype).float() for n, t in files["after"].items()}
    write(files)
    assert main(arguments(".safetensors", "--out", "other")) == 0
    assert "what was lost by summing in half precision has a row of its own" in capsys.readouterr().out
    other = read_round("other/rounds", 1)
    done = trace(net(), torch.randn(4, 6), other, "faithful")
    assert done.residuals.max() < 1e-5
    assert np.abs(done.rows["rounding"]).max() > 0


def test_rounds_of_float8_follow_each_other(workspace: Path) -> None:
    files = federation(torch.float8_e4m3fn)
    write(files)
    assert main(arguments()) == 0
    following = {name: moved(files["after"], seed) for seed, name in enumerate("abc", 5)}
    write({"before": files["after"], **following, "after": averaged(list(following.values()))})
    assert main(arguments()) == 0
    assert read_round("made/rounds", 2).number == 2


# -- the model at import -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        ("tests.test_import_formats:other", "2.bias is [4] in the model and [3] in the files"),
        ("tests.test_import_formats:unlike", "which the model has not"),
        ("tests.test_import_formats:federation", "returns dict, no torch.nn.Module"),
        ("tests.test_import_formats:gone", "cannot be imported"),
        ("lenet", "give MODULE:FUNCTION"),
    ],
)
def test_what_does_not_fit_the_model_is_named_at_import(
    model: str, answer: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(federation())
    assert answer in refused(arguments(".safetensors", "--model", model), capsys)


# -- adapters of PEFT --------------------------------------------------------------------------------------------------


def llama(**changes: Any) -> Any:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    torch.manual_seed(0)
    settings = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=50, pad_token_id=0
    )
    base = AutoModelForSequenceClassification.from_config(settings)
    adapter = peft.LoraConfig(
        **{"r": 2, "lora_alpha": 8, "task_type": "SEQ_CLS", "target_modules": "all-linear"} | changes
    )
    return peft.get_peft_model(base, adapter)


def adapters(workspace: Path) -> tuple[Tensors, list[Tensors]]:
    """Folders as PEFT writes them: before, after, and three clients'."""
    peft = pytest.importorskip("peft")
    model = llama()
    before = moved({n: t.detach() for n, t in peft.get_peft_model_state_dict(model).items()}, 5)
    clients = [moved(before, seed) for seed in range(3)]
    for name, tensors in zip(("before", "after", *"abc"), (before, averaged(clients), *clients), strict=True):
        peft.set_peft_model_state_dict(model, {n: t.clone() for n, t in tensors.items()})
        model.save_pretrained(workspace / name)
    return before, clients


@pytest.mark.slow
def test_a_federation_of_adapters_is_imported_and_traced(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, clients = adapters(workspace)
    assert main(arguments("", "--model", "tests.test_import_formats:llama")) == 0
    assert "fits --model" in capsys.readouterr().out
    tokens = torch.randint(1, 50, (3, 6), generator=torch.Generator().manual_seed(3))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    in_memory = trace(llama().eval(), inputs, from_state_dicts(clients, EXAMPLES, before), "faithful")
    done = trace(llama().eval(), inputs, stored(), "faithful")
    assert done.names == ("a", "b", "c")
    assert np.abs(done.values - in_memory.values).max() <= 1e-5 * np.abs(in_memory.values).max()
    assert not any("lora" in name for name in done.not_shared)


def test_adapters_of_another_scale_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters(workspace)
    config = workspace / "b" / "adapter_config.json"
    plain = json.loads(config.read_text())
    config.write_text(json.dumps(plain | {"lora_alpha": 16}))
    assert "--client b=b: its adapter has lora_alpha=16, that of --previous before 8" in refused(arguments(""), capsys)
    config.write_text("[]")
    assert "adapter_config.json is no JSON object" in refused(arguments(""), capsys)
    config.write_text(json.dumps(plain))
    error = refused(arguments("", "--model", "tests.test_import_formats:louder"), capsys)
    assert "its adapter has lora_alpha=4, that of --previous before 8" in error


def louder() -> Any:
    """The same adapters at another scale."""
    return llama(lora_alpha=4)
