"""Base activations: a cache gives what the networks give, and is accepted only whole."""

import json
import os
import re
import resource
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
import torch
from own_networks import Attention, EveryStep

from dynamo_dist import InputError
from dynamo_dist.commit import Corrupted
from dynamo_dist.data import Examples
from dynamo_dist.metamodel import activations
from dynamo_dist.metamodel.activations import Cached, Recomputed, choose, open_cache
from dynamo_dist.networks import Convolutional, Imported, Recurrent, StackedImported, stack_class

KEYS = ("00aa", "11bb", "22cc", "33dd")


@pytest.fixture(autouse=True)
def in_batches(monkeypatch):
    """Caches are filled a batch at a time, as those of large stacks are: there is something between the first rows and the last."""
    monkeypatch.setattr(activations, "_MOST_AT_ONCE", 1)


def recurrent(cell="gru", networks=3, hidden=7, dtype=torch.float64, **fields):
    architecture = Recurrent(**{"cell": cell, "hidden": hidden, "features": 4, "vocabulary": 11, "outputs": 2, **fields})
    return stack_class(architecture).initial(architecture, range(networks)).to(dtype)


def texts(count=50, steps=12):
    """Token sequences of 1 to `steps` valid steps; no sequence takes the whole width of the inputs."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, steps + 1, (count,), generator=generator)
    inputs = torch.randint(1, 11, (count, steps + 2), generator=generator)
    return Examples(inputs=inputs * (torch.arange(steps + 2) < lengths[:, None]), lengths_N=lengths, targets={})


def values(count=20, steps=9):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, steps + 1, (count,), generator=generator)
    return Examples(inputs=torch.randn(count, steps, 3, generator=generator), lengths_N=lengths, targets={})


def images(count=22):
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Examples(inputs=pixels, targets={})


def imported(*modules, hidden):
    kind = type(modules[0]).__name__
    arguments = {"Attention": '{"width": 5}', "EveryStep": '{"batch_first": true}'}[kind]
    architecture = Imported(module=f"own_networks:{kind}", arguments=arguments, hidden=hidden, outputs=3)
    states = [module.state_dict() for module in modules]
    return StackedImported(architecture, {name: torch.stack([state[name] for state in states]) for name in states[0]})


class Wrapped:
    """A stack that does something before each call."""

    def __init__(self, stack, before):
        self.stack, self.before, self.dtype = stack, before, stack.dtype

    def __call__(self, *arguments):
        self.before()
        return self.stack(*arguments)


def slow(stack):
    """Long enough that reading is faster on any machine."""
    return Wrapped(stack, lambda: time.sleep(0.02))


def cached(stacks, examples, folder, batch=8):
    reader, _ = choose(stacks, examples, keys=KEYS[: len(stacks)], folder=folder, batch=batch, steps=1, how="cache")
    assert isinstance(reader, Cached)
    return reader


def assert_same(ours, theirs, lengths_B, bound):
    """The same shapes, and the same numbers at all valid steps."""
    for (hidden, outputs), (other, other_outputs) in zip(ours, theirs, strict=True):
        assert isinstance(hidden, torch.Tensor) == isinstance(other, torch.Tensor)
        if isinstance(hidden, torch.Tensor):
            valid_TB = torch.arange(hidden.shape[0])[:, None] < lengths_B
            pairs = [(hidden.transpose(1, 2)[valid_TB], other.transpose(1, 2)[valid_TB])]
            assert hidden.shape == other.shape and bool(torch.isfinite(hidden).all())
            if outputs.dim() == 4:
                pairs.append((outputs.transpose(0, 2)[valid_TB], other_outputs.transpose(0, 2)[valid_TB]))
        else:
            pairs = list(zip(hidden, other, strict=True))
        if outputs.dim() == 3:
            pairs.append((outputs, other_outputs))
        assert outputs.shape == other_outputs.shape
        for a, b in pairs:
            assert a.shape == b.shape and a.dtype == b.dtype and a.numel() > 0
            assert torch.allclose(a, b, rtol=bound, atol=bound)


# The cache was filled in other batches than it is read in, and matrix products round by the shape of the batch: a few eps per step,
# which these fresh networks do not amplify. 1e-12 is 4,500 eps for 12 steps.
BOUND = 1e-12


@pytest.mark.parametrize(
    "stacks, examples",
    [
        ([recurrent()], texts()),
        ([recurrent("lstm"), recurrent("rnn", 2, hidden=5), recurrent("gru", 1)], texts()),
        ([recurrent(every_step=True), recurrent("ugrnn", every_step=True, outputs=1)], texts()),
        ([recurrent(vocabulary=None, features=3)], values()),
        ([recurrent("lstm"), recurrent("gru"), recurrent("lstm", 2, outputs=1), recurrent("lstm", 1, every_step=True)], texts()),
    ],
    ids=["gru", "lstm rnn gru", "every step", "values", "three lstms that differ in their readouts"],
)
def test_a_cache_gives_what_recurrent_networks_give(stacks, examples, tmp_path):
    ways = cached(stacks, examples, tmp_path), Recomputed(stacks)
    generator = torch.Generator().manual_seed(1)
    # Batches that do and do not hold the longest sequence, repeated rows, the last row (of a shorter record batch), one row.
    by_length = torch.argsort(examples.lengths_N)
    for index in (
        torch.randint(len(examples), (9,), generator=generator),
        by_length[:6],
        by_length[-3:],
        torch.tensor([len(examples) - 1]),
    ):
        part = examples.select(index)
        read, ran = (way(index, part) for way in ways)
        assert_same(read, ran, part.lengths_N, BOUND)
        assert read[0][0].shape[0] == int(part.lengths_N.max())


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_cache_gives_what_torch_modules_give(cell, tmp_path):
    stack, examples = recurrent(cell), texts()
    index = torch.tensor([3, 49, 17, 8])
    part = examples.select(index)
    ((h_TMBH, outputs_MBC),) = cached([stack], examples, tmp_path)(index, part)
    assert h_TMBH.shape[-1] == (14 if cell == "lstm" else 7)  # [h; c]
    for m in range(stack.count):
        for b, (row, steps) in enumerate(zip(index.tolist(), part.lengths_N.tolist(), strict=True)):
            # Alone, without padding.
            h_1TH, own_1C = stack.network(m)(examples.inputs[row : row + 1, :steps], torch.tensor([steps]))
            assert torch.allclose(h_TMBH[:steps, m, b, :7], h_1TH[0], rtol=0, atol=BOUND)
            assert torch.allclose(outputs_MBC[m, b], own_1C[0], rtol=0, atol=BOUND)


def test_a_cache_gives_what_networks_for_images_give(tmp_path):
    architectures = [Convolutional(kind=kind, depth=depth, width=4, channels=1, outputs=3) for kind, depth in (("resnet", 8), ("cnn", 3))]
    stacks = [stack_class(a).initial(a, range(2)).to(torch.float64) for a in architectures]
    index = torch.tensor([21, 0, 5, 5, 13])
    part = images().select(index)
    read = cached(stacks, images(), tmp_path)(index, part)
    assert [tuple(h.shape) for h in read[0][0]] == [(2, 5, 4, 8, 8), (2, 5, 8, 4, 4), (2, 5, 16, 2, 2), (2, 5, 16)]
    assert_same(read, Recomputed(stacks)(index, part), None, BOUND)
    for m in range(2):
        _, outputs_BC = stacks[0].network(m)(part.inputs.double())
        assert torch.allclose(read[0][1][m], outputs_BC, rtol=BOUND, atol=BOUND)


def test_single_precision_stays_single(tmp_path):
    stack, examples = recurrent(dtype=torch.float32), texts()
    index = torch.arange(10)
    part = examples.select(index)
    read = cached([stack], examples, tmp_path)(index, part)
    assert read[0][0].dtype == read[0][1].dtype == torch.float32
    assert_same(read, Recomputed([stack])(index, part), part.lengths_N, 1e-5)


def test_what_is_not_a_number_stays_so(tmp_path):
    stack, examples = recurrent(), texts()
    stack.parameters["b_input"][1] = torch.nan
    index = torch.arange(7)
    ((h_TMBH, outputs_MBC),) = cached([stack], examples, tmp_path)(index, examples.select(index))
    valid_TB = torch.arange(h_TMBH.shape[0])[:, None] < examples.lengths_N[index]
    assert bool(h_TMBH[:, 1][valid_TB].isnan().all()) and bool(outputs_MBC[1].isnan().all())
    assert bool(h_TMBH[:, [0, 2]].isfinite().all())


def test_what_is_read_can_be_changed_and_the_cache_is_not(tmp_path):
    examples, index = texts(), torch.arange(5)
    reader = cached([recurrent()], examples, tmp_path)
    ((h_TMBH, _),) = reader(index, examples.select(index))
    before = h_TMBH.clone()
    h_TMBH.zero_()
    assert torch.equal(reader(index, examples.select(index))[0][0], before)


def test_neither_way_records_gradients(tmp_path):
    stack, examples, index = recurrent(), texts(), torch.arange(5)
    for tensor in stack.parameters.values():
        tensor.requires_grad_()
    for way in (Recomputed([stack]), cached([stack], examples, tmp_path)):
        ((hidden, outputs),) = way(index, examples.select(index))
        assert not hidden.requires_grad and not outputs.requires_grad


def test_imported_networks(tmp_path):
    one_layer = imported(EveryStep(batch_first=True), EveryStep(batch_first=True), hidden=("layer",))
    examples, index = values(), torch.tensor([4, 19, 7])
    part = examples.select(index)
    assert_same(cached([one_layer], examples, tmp_path)(index, part), Recomputed([one_layer])(index, part), part.lengths_N, 1e-5)

    # Which axes of several layers grow with the steps of a batch is not known.
    layers = imported(Attention(5), hidden=("mix", "readout"))
    with pytest.raises(InputError, match="several layers"):
        choose([layers], examples, keys=KEYS[:1], folder=tmp_path / "other", batch=4, steps=9, how="cache")
    way, why = choose([layers], examples, keys=KEYS[:1], folder=tmp_path / "other", batch=4, steps=10**9)
    assert isinstance(way, Recomputed) and "several layers" in why and not (tmp_path / "other").exists()


def test_a_cache_that_is_filled_with_many_at_once_gives_the_same(tmp_path, monkeypatch):
    examples, index, runs = texts(), torch.arange(6), []
    stack = recurrent()
    monkeypatch.setattr(activations, "_MOST_AT_ONCE", 32)
    many = cached([Wrapped(stack, lambda: runs.append(1))], examples, tmp_path)(index, examples.select(index))
    assert len(runs) == 1 + 2  # one for the shapes, then 50 examples, 32 at a time
    part = examples.select(index)
    assert_same(many, Recomputed([stack])(index, part), part.lengths_N, BOUND)


# ---- what is accepted --------------------------------------------------------------------------------------------------------


def test_a_cache_is_filled_once(tmp_path):
    examples, index, runs = texts(), torch.arange(6), []
    stack = Wrapped(recurrent(), lambda: runs.append(1))
    first = cached([stack], examples, tmp_path)(index, examples.select(index))
    assert len(runs) == 1 + 7  # one for the shapes, then 50 examples, 8 at a time
    again = cached([stack], examples, tmp_path, batch=5)(index, examples.select(index))  # whoever draws other batches reads it too
    assert len(runs) == 9
    assert torch.equal(first[0][0], again[0][0]) and torch.equal(first[0][1], again[0][1])


def test_the_file_is_plain_arrow(tmp_path):
    stack, examples = recurrent(hidden=5), texts()
    cached([stack], examples, tmp_path)
    table = pa.ipc.open_file(tmp_path / "00aa.arrow").read_all()
    longest = int(examples.lengths_N.max())
    assert table.num_rows == 50 and table.schema.names == ["h0", "outputs"]
    assert table.schema.field("h0").type == pa.list_(pa.float64(), longest * 3 * 5)
    row, steps = 31, int(examples.lengths_N[31])
    h_TMH = torch.tensor(table["h0"][row].as_py()).view(longest, 3, 5)
    own_1TH, _ = stack.network(1)(examples.inputs[row : row + 1, :steps], torch.tensor([steps]))
    assert torch.allclose(h_TMH[:steps, 1].double(), own_1TH[0], atol=1e-6)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "no manifest", "other networks"])
def test_a_damaged_cache_is_refused_and_filled_again(damage, tmp_path):
    stack, examples, index = recurrent(), texts(), torch.arange(50)
    part = examples.select(index)
    whole = cached([stack], examples, tmp_path)(index, part)
    path = tmp_path / "00aa.arrow"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "truncate":
        content = content[: len(content) * 2 // 3]
    elif damage == "empty":
        content = b""
    elif damage == "no manifest":
        (tmp_path / "00aa.json").unlink()
    else:
        cached([recurrent(networks=2)], examples, tmp_path / "other")
        content = (tmp_path / "other" / "00aa.arrow").read_bytes()
        (tmp_path / "00aa.json").write_bytes((tmp_path / "other" / "00aa.json").read_bytes())
    path.unlink()  # a new file: the first reader has the old one mapped
    path.write_bytes(content)
    reader, why = choose([stack], examples, keys=KEYS[:1], folder=tmp_path, batch=8, steps=1, how="cache")
    wrong = "a cache of other networks or other examples" if damage == "other networks" else "not the cache that was written"
    assert f"00aa.arrow is {wrong}" in why
    assert_same(reader(index, part), whole, part.lengths_N, 0)
    _, why = choose([stack], examples, keys=KEYS[:1], folder=tmp_path, batch=8, steps=1, how="cache")
    assert "00aa.arrow is" not in why


def test_any_flipped_byte_is_refused(tmp_path):
    # Arrow itself notices few of them, and at one in a batch's header it ended the process.
    reader = cached([recurrent(hidden=2)], texts(7, steps=3), tmp_path, batch=3)
    (file,) = reader.files
    path = tmp_path / "00aa.arrow"
    assert torch.equal(open_cache(path, file.columns, 7).read(range(7), 3)[0], file.read(range(7), 3)[0])
    for damaged in (path, tmp_path / "00aa.json"):
        content = damaged.read_bytes()
        for place in range(0, len(content), 7):
            damaged.unlink()  # a new file: the open one is mapped
            damaged.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            try:
                open_cache(path, file.columns, 7)
            except Corrupted:
                continue
            assert damaged.suffix == ".json" and json.loads(damaged.read_text()) == json.loads(content), place  # white space
        damaged.write_bytes(content)


def test_a_writer_that_fails_leaves_nothing_that_is_accepted(tmp_path):
    stack, examples, calls = recurrent(), texts(), []

    def before():
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached([Wrapped(stack, before)], examples, tmp_path)
    assert list(tmp_path.glob("*.arrow")) == [] and list(tmp_path.glob(".*.tmp")) == []
    index = torch.arange(50)
    part = examples.select(index)
    assert_same(cached([stack], examples, tmp_path)(index, part), Recomputed([stack])(index, part), part.lengths_N, BOUND)


def test_a_writer_that_is_killed_leaves_nothing_that_is_accepted(tmp_path):
    program = """
        import os, pathlib, signal, sys, torch
        from dynamo_dist.data import Examples
        from dynamo_dist.metamodel import activations
        from dynamo_dist.metamodel.activations import choose
        activations._MOST_AT_ONCE = 1
        from dynamo_dist.networks import Recurrent, StackedRecurrent
        architecture = Recurrent(cell="gru", hidden=7, features=4, vocabulary=11, outputs=2)
        stack, calls = StackedRecurrent.initial(architecture, range(3)), []
        class Killed:
            dtype = torch.float32
            def __call__(self, *arguments):
                calls.append(1)
                if len(calls) == 40:
                    os.kill(os.getpid(), signal.SIGKILL)
                return stack(*arguments)
        examples = Examples(inputs=torch.ones(400, 14, dtype=torch.int64), lengths_N=torch.full((400,), 14), targets={})
        choose([Killed()], examples, keys=["00aa"], folder=pathlib.Path(sys.argv[1]), batch=8, steps=1, how="cache")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -9
    assert list(tmp_path.glob("*.arrow")) == [] and [file.name for file in tmp_path.glob("*.tmp")] == [".00aa.arrow.tmp"]
    # Its lock went with it; the next writer takes the place of what it left.
    stack, examples, index = recurrent(), texts(), torch.arange(50)
    part = examples.select(index)
    assert_same(cached([stack], examples, tmp_path)(index, part), Recomputed([stack])(index, part), part.lengths_N, BOUND)
    assert list(tmp_path.glob("*.tmp")) == []


def test_two_that_fill_one_cache_both_read_it(tmp_path):
    # A file's lock excludes every other opening of it, so that threads stand for processes here.
    examples, index, runs = texts(), torch.arange(50), []
    part, stack = examples.select(index), recurrent()
    slowed = Wrapped(stack, lambda: (runs.append(1), time.sleep(0.01)))
    with ThreadPoolExecutor(2) as pool:
        readers = list(pool.map(lambda _: cached([slowed], examples, tmp_path), range(2)))
    assert len(runs) == 2 + 7  # each looked at the shapes, one filled
    expected = Recomputed([stack])(index, part)
    for reader in readers:
        assert_same(reader(index, part), expected, part.lengths_N, BOUND)


# ---- what is chosen ----------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_done(tmp_path):
    arguments = {"keys": KEYS[:1], "batch": 8, "steps": 10**9}
    way, why = choose([slow(recurrent())], texts(), folder=tmp_path / "cache", how="recompute", **arguments)
    assert isinstance(way, Recomputed) and why == "base activations recomputed, as asked" and not (tmp_path / "cache").exists()
    way, why = choose([recurrent()], texts(), folder=tmp_path / "cache", how="cache", **arguments)
    size = 50 * 3 * (12 * 7 + 2) * 8 / 1e6
    assert isinstance(way, Cached) and why == f"base activations read from a cache of {size:.1f} MB in {tmp_path / 'cache'}, as asked"
    with pytest.raises(InputError, match="by 'fast': expected one of auto, recompute, cache"):
        choose([recurrent()], texts(), folder=tmp_path, how="fast", **arguments)


def test_few_steps_are_recomputed_many_are_read_and_the_sentence_names_both_costs(tmp_path):
    # Filling takes 7 steps of recomputing, which a single step cannot win back.
    stacks, arguments = [slow(recurrent()), slow(recurrent("lstm"))], {"keys": KEYS[:2], "folder": tmp_path, "batch": 8}
    number = r"\d[\d.e+-]*"
    way, why = choose(stacks, texts(), steps=1, **arguments)
    assert isinstance(way, Recomputed) and list(tmp_path.iterdir()) == []
    assert re.fullmatch(
        rf"base activations recomputed: {number} ms a step; a cache of {number} MB would take {number} ms a step and {number} s to fill",
        why,
    )
    way, why = choose(stacks, texts(), steps=10**6, **arguments)
    assert isinstance(way, Cached)
    tail = rf"recomputing takes {number} ms a step"
    assert re.fullmatch(
        rf"base activations read from a cache of {number} MB in {tmp_path}: {number} ms a step and {number} s to fill; {tail}", why
    )
    # What is there needs no filling: now a single step is enough.
    way, why = choose(stacks, texts(), steps=1, **arguments)
    assert isinstance(way, Cached) and re.fullmatch(rf".*: {number} ms a step and nothing to fill, it was there; {tail}", why)
    # Of one stack only.
    (tmp_path / "00aa.arrow").unlink()
    index = torch.arange(9)
    part = texts().select(index)
    way, why = choose(stacks, texts(), steps=10**6, **arguments)
    assert isinstance(way, Cached) and " s to fill" in why
    assert_same(way(index, part), Recomputed(stacks)(index, part), part.lengths_N, BOUND)


def test_a_cache_that_leaves_no_room_is_not_made(tmp_path, monkeypatch):
    arguments = {"keys": KEYS[:1], "folder": tmp_path, "batch": 8, "steps": 10**9}
    size = 50 * 3 * (12 * 7 + 2) * 8
    usage = activations.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(activations.shutil, "disk_usage", lambda _: usage._replace(free=4 * size - 1))
        way, why = choose([slow(recurrent())], texts(), **arguments)
        assert isinstance(way, Recomputed) and "would take more than a quarter of the 0.4 MB that are free in" in why
        patch.setattr(activations.shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
        with pytest.raises(InputError, match=r"takes 0\.1 MB, and 0\.1 MB are free in .*: make room, give another folder, or recompute"):
            choose([recurrent()], texts(), how="cache", **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(activations, "_available_memory", lambda: 2 * size - 1)
        way, why = choose([slow(recurrent())], texts(), **arguments)
        assert isinstance(way, Recomputed) and "would take more than half of the 0.2 MB of memory that is available" in why
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path):
    # A folder below a file: refused to every user, the administrator too.
    (tmp_path / "file").write_text("")
    arguments = {"keys": KEYS[:1], "folder": tmp_path / "file" / "cache", "batch": 8, "steps": 10**9}
    way, why = choose([slow(recurrent())], texts(), **arguments)
    assert isinstance(way, Recomputed) and re.search(
        r"recomputed: .* ms a step; a cache of 0\.1 MB cannot be written to .*file/cache \(.+\)$", why
    )
    with pytest.raises(InputError, match=r"file/cache cannot be written \(.+\): give another folder, or recompute"):
        choose([recurrent()], texts(), how="cache", **arguments)


def test_a_disk_that_is_full_in_the_middle(tmp_path):
    examples, arguments = texts(), {"keys": KEYS[:1], "folder": tmp_path, "batch": 8, "steps": 10**9}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written \(.*File too large\): give another folder, or recompute"):
            choose([recurrent()], examples, how="cache", **arguments)
        way, why = choose([slow(recurrent())], examples, **arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert isinstance(way, Recomputed) and "File too large" in why
    assert [file.name for file in tmp_path.iterdir()] == [".00aa.arrow.lock"]
