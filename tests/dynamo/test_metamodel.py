"""The meta-model against torch's GRU and plain numpy; shards against the whole; killed and resumed against undisturbed."""

import dataclasses
import json
import threading

import numpy as np
import pytest
import torch
from random_population import make_population, spec

from dynamo_dist import InputError, MetaModel, MetaModelConfig
from dynamo_dist.data import Output
from dynamo_dist.data.attractors import SignalsTask, make_signals
from dynamo_dist.metamodel import checkpoint, folder, loss
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.metamodel.private import Cohort, Private, StateMap
from dynamo_dist.metamodel.recurrent import RecurrentDynamics
from dynamo_dist.metamodel.shard import VARIANCE_INPUTS, Alone, Member, Shard, asked, batch_index, check_mixing, members, mixing
from dynamo_dist.metamodel.training import Diverged, TrainingJob, partition, train_shard
from dynamo_dist.networks import Convolutional, Recurrent, stack_class
from dynamo_dist.population.store import Stack

CONFIG = MetaModelConfig(dimensions=3, hidden=8, embedding=4, steps=20, batch=6, checkpoint_every=8)


class Threads:
    """A group of workers that are threads of this process."""

    def __init__(self, size):
        self.size, self._barrier, self._box = size, threading.Barrier(size, timeout=60), [None] * size

    def member(self, rank):
        group = self

        class Member:
            def __init__(self):
                self.rank, self.size, self.device = rank, group.size, torch.device("cpu")

            def barrier(self):
                group._barrier.wait()

            def sum_(self, tensor):
                group._box[rank] = tensor.clone()
                self.barrier()
                tensor.copy_(sum(group._box))
                self.barrier()

            def gather(self, text):
                group._box[rank] = text
                self.barrier()
                texts = list(group._box)
                self.barrier()
                return texts

        return Member()

    def run(self, function):
        results, errors = [None] * self.size, []

        def work(rank):
            try:
                results[rank] = function(self.member(rank))
            except BaseException as error:
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
        return results


def job(population, out, config=CONFIG, **fields):
    folder.prepare(out, population, config)
    return TrainingJob(population=str(population.path), out=str(out), config=config, precision="float64", activations="recompute", **fields)


def tensors_of(out, config=CONFIG):
    step = checkpoint.step_path(out, config.steps)
    tensors = {**checkpoint.read_shared(step), **checkpoint.read_private(step)}
    return {name: tensor.clone() for name, tensor in tensors.items()}  # copies: the files are mapped, and tests damage them


def dynamics(config, **interface):
    interface = Interface(**{"vocabulary": 7, "outputs": 3, **interface})
    return RecurrentDynamics(interface, config, torch.Generator().manual_seed(3), torch.float64)


def shard_of(population, ids, config, networks=6):
    examples = {name: data.meta for name, data in population.datasets.items()}
    interface = folder.interface_of(population, population.network_ids, config)
    shard = Shard(members(population, ids), examples, interface, config, dtype=torch.float64)
    shard.networks = networks
    return shard


def losses_of(shard, step=0):
    """Of all networks of a shard, in the order of `private.ids`."""
    terms = []
    for number, feed in enumerate(shard.feeds):
        training = shard.training[feed.data]
        terms.append(shard.losses(number, training[batch_index(shard.config, step, feed.number, len(training))])[:2])
    return tuple(torch.cat(same).detach() for same in zip(*terms, strict=True))


@pytest.mark.parametrize("inputs", ["few words", "many words", "values"])
@pytest.mark.parametrize("conditioning", ["concat", "lowrank", "film"])
def test_dynamics_is_torchs_gru_with_the_weights_at_theta(conditioning, inputs):
    vocabulary = {"few words": 7, "many words": 300, "values": 0}[inputs]
    config = dataclasses.replace(CONFIG, conditioning=conditioning, rank=3)
    ours = dynamics(config, vocabulary=vocabulary, features=0 if vocabulary else 5)
    torch.nn.init.normal_(ours.initial_state)
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([9, 1, 4, 8, 2])
    x = torch.randint(0, vocabulary, (5, 9), generator=generator) if vocabulary else torch.randn(5, 9, 5, generator=generator).double()
    (h_TMBK,), out_MBC = ours(theta, x, lengths)
    _, out_MBTC = ours(theta, x, lengths, every_step=True)
    K = config.hidden
    for m in range(4):
        theirs = torch.nn.GRU(x_features := (config.embedding if vocabulary else 5), K, dtype=torch.float64)
        # The weights at theta, written out from the definition of each conditioning.
        w_input, b_input, w_recurrent, candidate = (
            (ours.w_tokens if vocabulary else ours.w_values),
            ours.b_input,
            ours.w_recurrent,
            ours.b_candidate,
        )
        if conditioning == "concat":
            b_input = b_input + theta[m] @ ours.w_theta
        elif conditioning == "film":
            scale = 1 + theta[m] @ ours.w_scale
            w_input, b_input, w_recurrent = w_input * scale, b_input * scale + theta[m] @ ours.w_theta, w_recurrent * scale
            candidate = candidate * scale[2 * K :]
        else:
            correction = ours.left @ torch.diag(theta[m] @ ours.w_rank) @ ours.right
            w_input = w_input + correction[:x_features]
            b_input, w_recurrent = b_input + correction[x_features], w_recurrent + correction[x_features + 1 :]
        with torch.no_grad():
            theirs.weight_ih_l0.copy_(w_input.T)
            theirs.weight_hh_l0.copy_(w_recurrent.T)
            theirs.bias_ih_l0.copy_(b_input)
            theirs.bias_hh_l0.copy_(torch.cat([torch.zeros(2 * K, dtype=torch.float64), candidate]))
        x_TBF = ours.embedding[x.T] if vocabulary else x.transpose(0, 1)
        h_TBK, _ = theirs(x_TBF, ours.initial_state.expand(1, 5, -1).contiguous())
        assert torch.allclose(h_TMBK[:, m], h_TBK, rtol=0, atol=1e-13)
        answers = h_TBK @ ours.w_readout + ours.b_readout
        assert torch.allclose(out_MBTC[m], answers.transpose(0, 1), rtol=0, atol=1e-13)
        assert torch.allclose(out_MBC[m], torch.stack([answers[lengths[b] - 1, b] for b in range(5)]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("conditioning", ["concat", "lowrank", "film"])
def test_states_that_are_mapped_stay_mapped_when_they_are_mixed(conditioning):
    """A base network that is the meta-model at a theta, in other coordinates: its states are those of the meta-model times Q, always."""
    ours, K = dynamics(dataclasses.replace(CONFIG, conditioning=conditioning), vocabulary=0, features=5), CONFIG.hidden
    theta = torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at, order = ours.weights_at(theta[0]), torch.randperm(K, generator=torch.Generator().manual_seed(1))
    gates = torch.cat([order + gate * K for gate in range(3)])
    zeros = torch.zeros(2 * K, dtype=torch.float64)
    architecture = Recurrent(cell="gru", hidden=K, features=5, outputs=2)
    base = stack_class(architecture).initial(architecture, [0]).to(torch.float64)
    base.parameters |= {
        "w_input": at.w_values[:, gates][None],
        "b_input": at.b_input[gates][None, None],
        "w_recurrent": at.w_recurrent[order][:, gates][None],
        "b_recurrent": torch.cat([zeros, at.b_candidate])[gates][None, None],
    }
    x = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    lengths, how = torch.full((4,), 9), mixing(CONFIG, 3, 0, steps=9, batch=4)
    assert 1 <= how.step < 9 and how.share_B.shape == (4,) and how.share_B.unique().numel() == 4
    (states_TMBK,), _ = ours(theta, x, lengths, mixing=how)
    base_TMBH, _ = base(x[None], lengths[None], mixing=how)
    assert torch.allclose(states_TMBK[..., order], base_TMBH, rtol=0, atol=1e-13)
    assert not torch.allclose(states_TMBK[how.step], ours(theta, x, lengths)[0][0][how.step], rtol=0, atol=1e-3)


@pytest.mark.parametrize("conditioning", ["concat", "lowrank", "film"])
def test_theta_moves_from_zero_in_every_conditioning(conditioning):
    ours = dynamics(dataclasses.replace(CONFIG, conditioning=conditioning))
    theta = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (h_TMBK,), _ = ours(theta, torch.randint(0, 7, (5, 9)), torch.full((5,), 9))
    h_TMBK[-1, 0].square().sum().backward()
    assert theta.grad[0].abs().min() > 0 and not theta.grad[1].any()


@pytest.mark.parametrize(
    ("hidden_scale", "burn_in", "output_steps"), [("variance", 0, "own"), ("dim", 2, "own"), ("none", 0, "all"), ("variance", 2, "all")]
)
def test_loss_is_the_specified_one_in_plain_numpy(population, hidden_scale, burn_in, output_steps):
    config = dataclasses.replace(CONFIG, hidden_scale=hidden_scale, burn_in=burn_in, output_steps=output_steps)
    shard = shard_of(population, population.network_ids, config)
    torch.nn.init.normal_(shard.private.theta)
    hidden_M, output_M = (term.numpy() for term in losses_of(shard))
    data = population.data.meta
    # A tenth is held out: the last ones.
    part = data.select(batch_index(config, 0, 0, len(data) - len(data) // 10))
    first = data.select(torch.arange(min(VARIANCE_INPUTS, len(data))))
    position = 0
    for cohort, (state_map,) in zip(shard.private.cohorts, shard.private.maps, strict=True):
        weight, bias = state_map.weight, state_map.bias
        for row, id in enumerate(cohort.ids):
            module = population.network(id).double()
            with torch.no_grad():
                h_BTH, logits = (x.numpy() for x in module(part.inputs, part.lengths_N))
                (states,), meta_logits = shard.dynamics(
                    shard.private.theta[position : position + 1], part.inputs, part.lengths_N, every_step=output_steps == "all"
                )
                if output_steps == "all":
                    valid_BT = loss.valid_steps(part.lengths_N, part.inputs.shape[1]).view(-1, len(part)).T
                    logits = module.readout(torch.from_numpy(h_BTH)).numpy()[valid_BT]
                    meta_logits = meta_logits[:, valid_BT]
                all_h, _ = module(first.inputs, first.lengths_N)
            valid = np.concatenate([all_h[b, : first.lengths_N[b]].numpy() for b in range(len(first))])
            scale = {"variance": valid.var(axis=0).mean() * cohort.widths[0], "dim": cohort.widths[0], "none": 1.0}[hidden_scale]
            errors = []
            for b in range(len(part)):
                for t in range(burn_in, part.lengths_N[b]):
                    mapped = states[t, 0, b].numpy() @ weight[row].detach().numpy() + bias[row, 0].detach().numpy()
                    errors.append(((mapped - h_BTH[b, t]) ** 2).sum() / scale)
            assert hidden_M[position] == pytest.approx(np.mean(errors), rel=1e-10)

            def log_softmax(x):
                return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

            base, meta = log_softmax(logits), log_softmax(meta_logits[0].numpy())
            assert output_M[position] == pytest.approx((np.exp(base) * (base - meta)).sum(axis=-1).mean(), rel=1e-9)
            position += 1


@pytest.mark.parametrize("output_steps", ["own", "all"])
def test_networks_with_unlike_outputs_share_a_pass(tmp_path, output_steps):
    data = make_signals(SignalsTask(base=8, meta=40, test=8, steps=12, silence=0.0))
    targets = ("1-bit flip-flop", "context", "3-class integration", "sine", "2-bit flip-flop")
    specs = [
        spec(target, data, target=target, cell=cell) for target, cell in zip(targets, ("gru", "lstm", "rnn", "ugrnn", "gru"), strict=True)
    ]
    mixed = make_population(tmp_path / "population", specs, {"data": data})
    config = dataclasses.replace(CONFIG, unlike_tasks="pad", output_steps=output_steps)
    together = shard_of(mixed, targets, config, networks=5)
    assert len(together.feeds) == 1
    torch.nn.init.normal_(together.private.theta, generator=torch.Generator().manual_seed(1))
    found = {id: terms for id, *terms in zip(together.private.ids, *losses_of(together), strict=True)}
    theta = dict(zip(together.private.ids, together.private.theta.detach(), strict=True))
    for target in targets:  # each in a pass of its own
        alone = shard_of(mixed, [target], config)
        alone.private.theta.data[0] = theta[target]
        for (own,), other in zip(losses_of(alone), found[target], strict=True):
            assert torch.allclose(own, other, rtol=1e-12, atol=0)


def test_the_conjugacy_term_is_what_least_squares_leave():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 200, 4, generator=generator, dtype=torch.float64)
    seen = base @ torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) + 2.0
    meta = seen.clone()
    meta[1] += 0.5 * torch.randn(200, 5, generator=generator, dtype=torch.float64)
    meta[2] = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    meta.requires_grad_()
    mask = torch.arange(200) % 3 > 0
    error = loss.conjugacy_error(meta, base, mask)
    for m in range(3):
        h, z = base[m, mask].numpy(), meta[m, mask].detach().numpy()
        design = np.concatenate([h, np.ones((len(h), 1))], axis=1)
        rest = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
        expected = (rest**2).sum() / ((z - z.mean(axis=0)) ** 2).sum()
        assert float(error[m].detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        (gradient,) = torch.autograd.grad(error[m], meta, retain_graph=True)
        wanted = np.zeros((200, 5))
        wanted[mask] = 2 * rest / ((z - z.mean(axis=0)) ** 2).sum()
        assert np.allclose(gradient[m], wanted, atol=1e-3 * abs(wanted).max() + 1e-6) and not gradient[[k for k in range(3) if k != m]].any()
    seen_share = error.detach().tolist()
    assert seen_share[0] < 1e-6 < 0.02 < seen_share[1] < 0.5 < seen_share[2]
    # Units that never move, of network or meta-model, are no division by zero.
    assert loss.conjugacy_error(torch.ones(1, 5, 2), torch.ones(1, 5, 3)).tolist() == [0.0]


def test_padding_does_not_count():
    mask = loss.valid_steps(torch.tensor([3, 1]), 4).view(4, 2)
    assert mask.tolist() == [[True, True], [True, False], [True, False], [False, False]]
    assert loss.valid_steps(torch.tensor([3, 1]), 4, burn_in=1).view(4, 2).sum() == 2


@pytest.mark.parametrize("fields", [{}, {"mix_states": True, "conjugacy_weight": 0.5}])
@pytest.mark.parametrize("workers", [2, 4])  # 4 workers for 6 networks: unequal shards
def test_shards_have_the_gradient_of_the_whole(population, workers, fields):
    config = dataclasses.replace(CONFIG, **fields)
    whole = shard_of(population, population.network_ids, config)
    torch.nn.init.constant_(whole.private.theta, 0.3)
    whole_terms = whole.backward(0, Alone())
    shards = partition(population, population.network_ids, CONFIG, workers)
    assert sorted(id for ids in shards for id in ids) == sorted(population.network_ids)

    def work(group):
        shard = shard_of(population, shards[group.rank], config)
        torch.nn.init.constant_(shard.private.theta, 0.3)
        return shard, shard.backward(0, group)

    for shard, terms in Threads(workers).run(work):
        # Sums of 6 networks in another order.
        assert torch.allclose(terms, whole_terms, rtol=1e-13, atol=0)
        for ours, theirs in zip(shard.shared, whole.shared, strict=True):
            assert (ours.grad - theirs.grad).norm() <= 1e-13 * theirs.grad.norm()
        rows = [whole.private.ids.index(id) for id in shard.private.ids]
        assert (shard.private.theta.grad - whole.private.theta.grad[rows]).norm() <= 1e-13 * whole.private.theta.grad[rows].norm()


@pytest.mark.parametrize(("workers", "steps", "bound"), [(2, 20, 1e-9), (3, 20, 1e-9), (2, 200, 1e-7), (4, 200, 1e-7)])
def test_shards_train_to_the_parameters_of_the_whole(population, tmp_path, workers, steps, bound):
    config = dataclasses.replace(CONFIG, steps=steps)
    train_shard(job(population, tmp_path / "whole", config), group=Alone())
    sharded = job(population, tmp_path / "sharded", config)
    Threads(workers).run(lambda group: train_shard(sharded, group=group))
    whole, parts = tensors_of(tmp_path / "whole", config), tensors_of(tmp_path / "sharded", config)
    assert whole.keys() == parts.keys()
    for name in whole:
        if "mean." not in name and "square." not in name:
            assert (parts[name] - whole[name]).norm() <= bound * whole[name].norm().clamp(min=1e-3), name


@pytest.mark.parametrize("killed_after", [3, 8, 15])  # before, at, and between commits
def test_killed_and_resumed_is_bitwise_the_undisturbed_run(population, tmp_path, killed_after):
    train_shard(job(population, tmp_path / "whole"), group=Alone())

    class Killed(Exception):
        pass

    def kill(step):
        if step == killed_after:
            raise Killed

    resumed = job(population, tmp_path / "resumed")
    with pytest.raises(Killed):
        train_shard(resumed, group=Alone(), after_step=kill)
    with pytest.raises(InputError, match="not trained to its last step yet; continue the run with --resume"):
        MetaModel.open(tmp_path / "resumed")
    train_shard(resumed, group=Alone())
    whole, again = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "resumed")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    steps = [line["step"] for line in checkpoint_record(tmp_path / "resumed")]
    assert steps == sorted(set(steps)) and steps[-1] == CONFIG.steps


def checkpoint_record(out):
    from dynamo_dist.commit import read_lines
    from dynamo_dist.metamodel.training import PROGRESS

    return read_lines(out / PROGRESS)


def test_states_that_are_mixed_anew_are_not_read_from_a_cache(population, tmp_path):
    config = dataclasses.replace(CONFIG, mix_states=True)
    folder.prepare(tmp_path, population, config)
    job_ = {"population": str(population.path), "out": str(tmp_path), "config": config}
    with pytest.raises(InputError, match="activations='cache': with mix_states=True every step mixes states anew"):
        TrainingJob(**job_, activations="cache")
    train_shard(TrainingJob(**job_), group=Alone())
    assert any("recomputed: every step mixes their states anew" in note for note in json.loads((tmp_path / folder.NOTES).read_text()))


def test_a_run_resumes_on_another_number_of_workers(population, tmp_path):
    train_shard(job(population, tmp_path / "whole"), group=Alone())

    class Killed(Exception):
        pass

    def kill(step):
        if step == 10:
            raise Killed

    moved = job(population, tmp_path / "moved")
    with pytest.raises(Killed):
        Threads(3).run(lambda group: train_shard(moved, group=group, after_step=kill))
    Threads(2).run(lambda group: train_shard(moved, group=group))
    whole, again = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "moved")
    assert whole.keys() == again.keys()
    for name in whole:
        if "mean." not in name and "square." not in name:
            assert (again[name] - whole[name]).norm() <= 1e-9 * whole[name].norm().clamp(min=1e-3), name


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(population, tmp_path):
    train_shard(job(population, tmp_path), group=Alone())
    steps = checkpoint.committed_steps(tmp_path)
    assert len(steps) == 2 and steps[-1] == CONFIG.steps
    undisturbed = tensors_of(tmp_path)
    shared = checkpoint.step_path(tmp_path, CONFIG.steps) / "shared.safetensors"
    content = bytearray(shared.read_bytes())
    content[-1] ^= 1
    shared.write_bytes(content)
    assert checkpoint.newest_verified(tmp_path) == checkpoint.step_path(tmp_path, steps[0])
    train_shard(job(population, tmp_path), group=Alone())
    again = tensors_of(tmp_path)
    assert all(torch.equal(undisturbed[name], again[name]) for name in undisturbed)


def test_a_loss_that_turns_nan_stops_before_the_update(population, tmp_path):
    class Killed(Exception):
        pass

    def kill(step):
        if step == 3:
            raise Killed

    config = dataclasses.replace(CONFIG, steps=30, checkpoint_every=1)
    with pytest.raises(Killed):
        train_shard(job(population, tmp_path, config), group=Alone(), after_step=kill)
    wild = dataclasses.replace(job(population, tmp_path, config), config=dataclasses.replace(config, learning_rate=1e200))
    with pytest.raises(Diverged, match=f"not finite a.* step 4; {tmp_path} keeps the checkpoint step-00000003: train it again in a new"):
        train_shard(wild, group=Alone())
    newest = checkpoint.newest_verified(tmp_path)
    assert newest == checkpoint.step_path(tmp_path, 3)
    assert all(torch.isfinite(t).all() for t in (*checkpoint.read_shared(newest).values(), *checkpoint.read_private(newest).values()))


@pytest.mark.parametrize("kind", ["linear", "affine", "mlp"])
def test_initial_maps_do_not_depend_on_the_sharding(kind):
    config = dataclasses.replace(CONFIG, state_map=kind)

    def rows(cohorts):
        parts = [Cohort(ids=ids, widths=(4, 5), sources=(0, 1), source_widths=(8, 6)) for ids in cohorts]
        private = Private(parts, config=config, dtype=torch.float64)
        return {(name, id): row for name, stacked, ids in private.rows() for id, row in zip(ids, stacked, strict=True)}

    one, two = rows([("a", "b", "c")]), rows([("c",), ("b", "a")])
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["map1.weight", "a"], one["map1.weight", "b"])


@pytest.mark.parametrize("kind", ["linear", "affine", "mlp"])
def test_a_state_map_is_torchs_linear_layers(kind):
    generator = torch.Generator().manual_seed(0)
    state_map = StateMap({name: torch.stack([t, t + 1]) for name, t in StateMap.initial(kind, 3, 5, generator).items()})
    h = torch.randn(2, 7, 3, dtype=torch.float64)
    for m in range(2):
        own = {name: parameter[m] for name, parameter in state_map.named_parameters()}
        inner = torch.nn.functional.linear(h[m], own["inner_weight"].T, own["inner_bias"][0]).tanh() if kind == "mlp" else h[m]
        expected = torch.nn.functional.linear(inner, own["weight"].T, own["bias"][0] if kind != "linear" else None)
        assert torch.allclose(state_map(h)[m], expected, rtol=0, atol=1e-14)


def test_the_control_runs_once_for_all_networks(population, monkeypatch):
    # The truth: a meta-model with theta, which is 0 before the first step, runs for every network.
    shards = [shard_of(population, population.network_ids, dataclasses.replace(CONFIG, use_theta=use)) for use in (False, True)]
    networks = []
    forward = RecurrentDynamics.forward
    monkeypatch.setattr(RecurrentDynamics, "forward", lambda self, theta, *a, **k: networks.append(len(theta)) or forward(self, theta, *a, **k))
    control, full = (shard.backward(0, Alone("cpu")) for shard in shards)
    assert networks == [1, 6]
    assert torch.allclose(control, full, rtol=1e-12, atol=0)
    for one, all_ in zip(shards[0].dynamics.parameters(), shards[1].dynamics.parameters(), strict=True):
        assert (one.grad - all_.grad).norm() <= 1e-12 * all_.grad.norm()


def test_the_control_never_moves_theta(population, tmp_path):
    train_shard(job(population, tmp_path, dataclasses.replace(CONFIG, use_theta=False)), group=Alone())
    assert not MetaModel.open(tmp_path).embedding.any()


def test_embedding_and_emulation_of_an_opened_meta_model(population, tmp_path):
    train_shard(job(population, tmp_path), group=Alone())
    meta = MetaModel.open(tmp_path)
    assert meta.network_ids == population.network_ids
    assert meta.embedding.shape == (6, 3) and meta.embedding.any()
    test = population.data.test
    h_BTK, logits_BC = meta.emulate(meta.embedding[2], test.inputs[:5], test.lengths_N[:5])
    h_PBTK, logits_PBC = meta.emulate(meta.embedding, test.inputs[:5], test.lengths_N[:5])
    assert h_BTK.shape == (5, test.inputs.shape[1], 8) and logits_BC.shape == (5, 2)
    assert torch.allclose(h_PBTK[2], h_BTK, rtol=0, atol=1e-13) and torch.allclose(logits_PBC[2], logits_BC, rtol=0, atol=1e-13)
    state_map = meta.state_map(population.network_ids[4])
    assert state_map.weight.shape == (1, 8, 9) and state_map.bias.shape == (1, 1, 9)


def test_wrong_configurations_are_refused_with_the_field(population):
    for field, value in (("dimensions", 0), ("hidden", -1), ("hidden_scale", "sd")):
        with pytest.raises(InputError, match=f"MetaModelConfig.{field}={value!r}"):
            dataclasses.replace(CONFIG, **{field: value})
    architecture = Convolutional(kind="cnn", depth=3, width=2, channels=1, outputs=10)
    images = Stack(ids=("a",), networks=stack_class(architecture).initial(architecture, [0]))
    with pytest.raises(InputError, match="output_steps='all' asks for answers at every step"):
        asked(dataclasses.replace(CONFIG, output_steps="all"), Member(data="data", output=Output(kind="classes", size=10), stack=images))
    with pytest.raises(InputError, match="mix_states=True: mixed states stay mapped under linear and affine state maps, not under mlp"):
        dataclasses.replace(CONFIG, mix_states=True, state_map="mlp")
    with pytest.raises(InputError, match="mix_states=True puts mixed states into recurrent networks"):
        check_mixing(dataclasses.replace(CONFIG, mix_states=True), Member(data="data", output=Output(kind="classes", size=10), stack=images))
    with pytest.raises(InputError, match="7 workers for 6 networks"):
        partition(population, population.network_ids, CONFIG, 7)
