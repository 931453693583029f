"""The command `dynamo-dist`. What users get wrong is one sentence on standard error and exit status 2."""

import argparse
import dataclasses
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynamo_dist import recipes, storage
from dynamo_dist.allocator import keep_memory
from dynamo_dist.analysis import suite, sweep
from dynamo_dist.commit import write_json
from dynamo_dist.data.folder import open_folder
from dynamo_dist.data.imdb import import_imdb
from dynamo_dist.errors import InputError
from dynamo_dist.jobs import JobFailed
from dynamo_dist.metamodel import MetaModelConfig, folder
from dynamo_dist.metamodel.activations import WAYS
from dynamo_dist.metamodel.events import FILES, EventFiles, summary_writer
from dynamo_dist.metamodel.tracking import TrackedRuns, mlflow_client
from dynamo_dist.metamodel.training import PRECISIONS, Diverged
from dynamo_dist.pipeline import (
    ANALYSIS,
    RESULT,
    analyze,
    check_analyses,
    check_meta_models,
    embed_result,
    run,
    run_sweep,
    train_meta_models,
)
from dynamo_dist.population import Population
from dynamo_dist.population.groups import read_groups, specs_of
from dynamo_dist.population.imported import check_new
from dynamo_dist.population.networks_folder import import_folder
from dynamo_dist.population.reuse import population_of
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.population.specs import Specs, check_specs
from dynamo_dist.population.store import group_means
from dynamo_dist.progress import duration, quietly, say, summarize
from dynamo_dist.runfolder import check, claim
from dynamo_dist.runtime import open_runtime, restarted, workers_of


class _Parser(argparse.ArgumentParser):
    """One sentence for a wrong command line too, without the usage block."""

    def error(self, message: str) -> NoReturn:
        _tell(f"{self.prog}: {message}; see {self.prog} --help")
        self.exit(2)


def _tell(message: str) -> None:
    """On standard error; of the processes of a `torchrun`, which all find the same, one on every machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(message, file=sys.stderr)


def _folder(text: str) -> Path:
    try:
        return storage.local(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _own_folder(text: str) -> Path:
    path = _folder(text)
    if storage.mirrored(path):
        raise argparse.ArgumentTypeError(f"{text}: data are read from folders: give a path")
    return path


QUIET = "say nothing on standard error but what went wrong"


def parser() -> argparse.ArgumentParser:
    top = _Parser(prog="dynamo-dist", description="Model embeddings of populations of neural networks (DYNAMO).")
    commands = top.add_subparsers(dest="command", required=True, parser_class=_Parser)
    raw = argparse.RawDescriptionHelpFormatter

    command = commands.add_parser(
        "run",
        help="a whole experiment: population, meta-model, analyses, report",
        formatter_class=raw,
        epilog="example:\n  dynamo-dist run valence --out runs/valence\n  dynamo-dist run imdb-amount --data imdb --out runs/imdb",
    )
    command.add_argument("recipe", help=f"one of: {', '.join(recipes.RECIPES)}")
    command.add_argument("--out", type=_folder, required=True, help="folder of the run, or its URI: s3://BUCKET/FOLDER")
    command.add_argument("--size", default="small", help="tiny (a smoke test, seconds) or small (2 cores, minutes); default small")
    command.add_argument("--data", help="folder of the data, where the recipe reads any")
    command.add_argument(
        "--workers", type=int, default=2, help="Ray workers with one CPU core each; 0: this process, without Ray; default 2"
    )
    command.add_argument(
        "--address", help="a running Ray cluster, for example auto or 10.0.0.1:6379; default: a local one for this command"
    )
    command.add_argument("--seeds", type=int, default=1, help="meta-models to train, seeds 0, 1, ...; default 1")
    command.add_argument(
        "--reuse",
        type=_folder,
        action="append",
        default=[],
        metavar="RUN",
        help="folder or URI of a run whose networks are taken, not trained again, where they are the same; may be given again",
    )
    command.add_argument("--resume", action="store_true", help="continue the run in --out")
    command.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON, last")
    command.add_argument("--quiet", action="store_true", help=QUIET)

    command = commands.add_parser(
        "train-population",
        help="train a population of your own groups on your own data",
        description="Train the networks of a TOML file of groups. What the data decide (vocabulary, features, outputs) is filled in.",
        formatter_class=raw,
        epilog="example:\n  dynamo-dist train-population groups.toml --data recordings --out runs/mine\n\ngroups.toml:\n"
        '  [[group]]\n  name = "small"\n  networks = 20\n  architecture = {family = "recurrent", cell = "gru", hidden = 32}\n'
        "  fraction = 0.5\n  epochs = 10\n  batch = 32\n  learning_rate = 2e-3\n"
        '\ncells: gru, lstm, ugrnn, rnn, rnn-relu; of images: {family = "convolutional", kind = "resnet", depth = 8, width = 16}',
    )
    command.add_argument("groups", type=Path, help="TOML file, a table [[group]] for each group")
    command.add_argument("--data", type=Path, required=True, help="folder of the data: recordings (.npy, Parquet), images or texts")
    command.add_argument("--out", type=_folder, required=True, help="folder of the population, or its URI: s3://BUCKET/FOLDER")
    command.add_argument("--workers", type=int, default=2, help="Ray workers with one CPU core each; 0: this process; default 2")
    command.add_argument("--address", help="a running Ray cluster; default: a local one for this command")
    command.add_argument("--seed", type=int, default=0, help="base of every network's seed; default 0")
    command.add_argument("--resume", action="store_true", help="continue the population in --out")
    command.add_argument("--overwrite", action="store_true", help="replace the population in --out")
    command.add_argument("--quiet", action="store_true", help=QUIET)

    command = commands.add_parser(
        "import",
        help="make a population of networks that are trained already",
        description="Make a population of a folder of trained networks: <name>.safetensors, the tensors of a network, and <name>.json, its "
        "architecture, for each.",
        formatter_class=raw,
        epilog="example:\n  dynamo-dist import networks --data recordings --out runs/mine\n\nnetworks/first.json:\n"
        '  {"architecture": {"family": "recurrent", "cell": "gru", "hidden": 32, "features": 3, "outputs": 2},\n'
        '   "names": {"recurrent": "rnn", "readout": "fc"}, "group": "mine"}\nor, of any class that can be imported:\n'
        '  {"architecture": {"family": "imported", "module": "package.module:Class", "arguments": {"width": 8}, "hidden": ["layer1"]}}',
    )
    command.add_argument("folder", type=Path, help="folder of the networks")
    command.add_argument(
        "--data", type=Path, required=True, help="folder of the data that they answer: recordings (.npy, Parquet), images or texts"
    )
    command.add_argument("--out", type=_folder, required=True, help="new folder for the population, or its URI")

    command = commands.add_parser(
        "import-data",
        help="make a data folder from an official archive",
        formatter_class=raw,
        epilog="example:\n  dynamo-dist import-data imdb aclImdb_v1.tar.gz --out imdb",
    )
    command.add_argument("kind", choices=("imdb",), help="what the source is")
    command.add_argument("source", type=Path, help="the archive aclImdb_v1.tar.gz, or the folder aclImdb")
    command.add_argument("--out", type=_own_folder, required=True, help="new folder for train.parquet and test.parquet")

    command = commands.add_parser(
        "embed",
        help="train the meta-model of a population: an embedding vector for every network",
        description="Train one meta-model of a population. Started by torchrun, its processes are the workers.",
        formatter_class=raw,
        epilog="example:\n  dynamo-dist embed runs/mine/population --out runs/mine-meta --set dimensions=6 --set steps=3000\n"
        "  torchrun --nproc-per-node 2 -m dynamo_dist.cli embed runs/mine/population --out runs/mine-meta\n"
        "  dynamo-dist embed runs/mine/population --out runs/mine-sweep --sweep --set steps=1000\n\n"
        "settings and their defaults:\n  " + "\n  ".join(f"{f.name} = {f.default}" for f in dataclasses.fields(MetaModelConfig)),
    )
    command.add_argument("population", type=_folder, help="folder of the population, or its URI")
    command.add_argument("--out", type=_folder, required=True, help="folder of the meta-model, or its URI: s3://BUCKET/FOLDER")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, see below; may be given again")
    command.add_argument("--workers", type=int, default=2, help="Ray workers, one per GPU or CPU core; 0: this process; default 2")
    command.add_argument("--address", help="a running Ray cluster; default: a local one for this command")
    command.add_argument("--skip-failed", action="store_true", help="leave networks out whose files are missing or damaged")
    command.add_argument("--activations", default="auto", choices=WAYS, help="of the base networks; auto: the faster of the others")
    command.add_argument(
        "--precision", default="float32", choices=PRECISIONS, help="bfloat16: of the meta-model's recurrence alone; default float32"
    )
    command.add_argument(
        "--fully-shard", action="store_true", help="split what is shared over the workers too: for a meta-model that does not fit on each"
    )
    command.add_argument(
        "--sweep",
        action="store_true",
        help="choose D, K and lambda: train the meta-model with half and double the dimensions, half and double the hidden units, 0.3 and 3 "
        "times the output weight, and without theta, each in a folder of its own in --out; compare them on the held-out inputs",
    )
    command.add_argument("--tensorboard", action="store_true", help="also write the losses as event files: tensorboard --logdir OUT")
    command.add_argument(
        "--mlflow",
        metavar="URI",
        help="also send settings, losses and results to this MLflow tracking server, for example http://127.0.0.1:5000",
    )
    command.add_argument("--resume", action="store_true", help="continue the training in --out")
    command.add_argument("--overwrite", action="store_true", help="replace the meta-model in --out")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON, last")
    command.add_argument("--quiet", action="store_true", help=QUIET)

    command = commands.add_parser(
        "analyze",
        help="similarity, averages, few labels, landscape, fixed points of a run or a meta-model",
        description="Run analyses on a finished run (all its meta-models and its control) or on one meta-model. Each leaves its findings "
        "(JSON), the numbers behind its figures (Parquet) and the figures (PNG, SVG and PDF) in the folder's analysis/.",
        formatter_class=raw,
        epilog="example:\n  dynamo-dist analyze runs/valence --all\n  dynamo-dist analyze runs/mine-meta similarity landscape\n\n"
        f"analyses: {', '.join(suite.ANALYSES)}",
    )
    command.add_argument("folder", type=_folder, help="folder of a run, or of a meta-model, or its URI")
    command.add_argument("analyses", nargs="*", metavar="NAME", help="which, see below")
    command.add_argument("--all", action="store_true", help="all of them; those that do not apply say why")
    command.add_argument("--workers", type=int, default=2, help="Ray workers, an analysis on each; 0: this process; default 2")
    command.add_argument("--address", help="a running Ray cluster; default: a local one for this command")
    command.add_argument("--json", action="store_true", help="print the findings as one line of JSON, last")
    command.add_argument("--quiet", action="store_true", help=QUIET)

    command = commands.add_parser(
        "report",
        help="write report.html of a run, a meta-model or a population, and its figures",
        description="Write report.html, one page that needs nothing else, and the figures as PNG, SVG and PDF. What `analyze` has left is shown.",
        formatter_class=raw,
        epilog="example:\n  dynamo-dist report runs/valence",
    )
    command.add_argument("folder", type=_folder, help="folder that run, embed or train-population wrote, or its URI")

    command = commands.add_parser(
        "claims",
        help="write a page that sets what is claimed of model embeddings beside what these runs measured",
        description="Write claims.html and claims.json: every claim on every run that says something of it, as supported, not supported, or not "
        "measurable at this size.",
        formatter_class=raw,
        epilog="example:\n  dynamo-dist claims runs/valence runs/imdb runs/cifar --out runs",
    )
    command.add_argument("runs", type=_folder, nargs="+", metavar="RUN", help="folder that run wrote, or its URI")
    command.add_argument("--out", type=_folder, required=True, help="folder of the page, or its URI")

    commands.add_parser("recipes", help="list the recipes", epilog="example: dynamo-dist recipes")
    return top


def _run(arguments: argparse.Namespace) -> None:
    recipe = recipes.recipe(arguments.recipe, size=arguments.size, data=arguments.data)
    if arguments.workers < 0 or arguments.seeds < 1:
        raise InputError(f"--workers {arguments.workers} --seeds {arguments.seeds}: expected at least 0 workers and 1 seed")
    identity = {"name": recipe.name, **recipes.identity(recipe)}
    # Everything that can be refused is refused before Ray starts and before the folder is touched.
    check(arguments.out, identity, resume=arguments.resume, overwrite=arguments.overwrite)
    for path in arguments.reuse:
        population_of(path)
    data = recipe.make_data()
    recipe.specs(data)
    with open_runtime(arguments.workers, arguments.address) as runtime:
        claim(arguments.out, identity, resume=arguments.resume, overwrite=arguments.overwrite)
        result = run(recipe, data, arguments.out, runtime=runtime, seeds=arguments.seeds, trained=arguments.reuse)
    _report(arguments.out)
    _tell_run(arguments.out, result)
    print(storage.address(arguments.out / RESULT))
    if arguments.json:
        print(json.dumps(result))


def _train_population(arguments: argparse.Namespace) -> None:
    if arguments.workers < 0:
        raise InputError(f"--workers {arguments.workers}: expected at least 0")
    groups = read_groups(arguments.groups)
    identity = {
        "name": "train-population",
        "groups": [dataclasses.asdict(group) for group in groups],
        "data": str(arguments.data.resolve()),
        "seed": arguments.seed,
    }
    check(arguments.out, identity, resume=arguments.resume, overwrite=arguments.overwrite)
    data = open_folder(arguments.data)
    check_specs(Specs.of(specs_of(groups, data, seed=arguments.seed)), {"data": data})
    with open_runtime(arguments.workers, arguments.address) as runtime:
        claim(arguments.out, identity, resume=arguments.resume, overwrite=arguments.overwrite)
        population = Population.create(
            arguments.out / "population", specs_of(groups, data, seed=arguments.seed), data, workers=runtime.workers
        )
        train_remaining(population, runtime)
    table = Population.open(population.path).table()
    kind = "accuracy" if table["accuracy"].null_count < len(table) else "r2"
    result = {"networks": len(population), "failed": len(table) - table["failure"].null_count, kind: group_means(table, kind)}
    write_json(arguments.out / RESULT, result)
    facts = [("networks", f"{len(population)}, {result['failed']} failed")]
    facts += [(name, f"{kind} {mean:.4f} on the test part") for name, mean in result[kind].items()]
    meta = _quoted(Path(f"{arguments.out}-meta"))
    then = [
        (f"dynamo-dist embed {_quoted(population.path)} --out {meta}", "their meta-model"),
        (f"dynamo-dist report {_quoted(arguments.out)}", "their page"),
        (f"dynamo_dist.Population.open({storage.address(population.path)!r})", "in Python"),
    ]
    summarize(f"population in {storage.address(arguments.out)}", facts, then)
    print(storage.address(arguments.out / RESULT))


def _settings(given: Sequence[str]) -> MetaModelConfig:
    """A configuration from `--set NAME=VALUE`."""
    known = {f.name: f for f in dataclasses.fields(MetaModelConfig)}
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if name not in known or not equals:
            raise InputError(f"--set {text}: expected NAME=VALUE with one of the names {', '.join(known)}")
        kind: type[Any] = type(known[name].default)
        try:
            values[name] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            raise InputError(f"--set {text}: expected a value like {known[name].default!r}") from None
    return MetaModelConfig(**values)


def _embed(arguments: argparse.Namespace) -> None:
    if arguments.workers < 0:
        raise InputError(f"--workers {arguments.workers}: expected at least 0")
    config, population = _settings(arguments.set), Population(arguments.population)
    models = sweep.settings(config, population) if arguments.sweep else {}
    if arguments.tensorboard:
        summary_writer()  # refuse before anything starts
    if arguments.mlflow:
        mlflow_client(arguments.mlflow)
    how = {"activations": arguments.activations, "precision": arguments.precision, "fully_shard": arguments.fully_shard}
    identity = {
        "name": "sweep" if arguments.sweep else "embed",
        "population": storage.address(population.path.resolve()),
        "config": dataclasses.asdict(config),
        "precision": arguments.precision,
    }
    # What torchrun starts again goes on, whatever the command line said at first.
    folder_of = {"resume": arguments.resume or restarted(), "overwrite": arguments.overwrite and not restarted()}
    check(arguments.out, identity, **folder_of)
    sound = folder.sound_networks(population, skip_failed=arguments.skip_failed)
    out = {arguments.out / name: own for name, own in models.items()} or {arguments.out: config}
    check_meta_models(population, out, sound, workers=workers_of(arguments.workers), replace=folder_of["overwrite"], **how)
    with open_runtime(arguments.workers, arguments.address) as runtime:
        if runtime.leader:
            claim(arguments.out, identity, **folder_of)
        runtime.wait()
        with (
            EventFiles(list(out) if arguments.tensorboard and runtime.leader else []) as events,
            TrackedRuns(arguments.mlflow if runtime.leader else None, out, population) as runs,
        ):

            def look() -> None:
                events.update()
                runs.update()

            how |= {"sound": sound, "look": look}
            if models:
                result = run_sweep(population, arguments.out, models, runtime, **how)
            else:
                (meta,) = train_meta_models(population, out, runtime, **how)
                result = embed_result(meta)
            if runtime.leader and result is not None:  # what came out, beside the curves
                runs.finish({arguments.out / row["name"]: row for row in result["models"]} if models else {arguments.out: result["losses"]})
        if runtime.leader and result is not None:
            for file in (file for path in out for file in path.glob(FILES)):
                storage.publish(file)
            write_json(arguments.out / RESULT, result)
            _tell_embedded(arguments.out, result)
            print(storage.address(arguments.out / RESULT))
            if arguments.json:
                print(json.dumps(result))


def _analyze(arguments: argparse.Namespace) -> None:
    if arguments.workers < 0:
        raise InputError(f"--workers {arguments.workers}: expected at least 0")
    if arguments.all == bool(arguments.analyses):
        raise InputError(f"say which analyses, or --all: the analyses are {', '.join(suite.ANALYSES)}")
    names = list(suite.ANALYSES) if arguments.all else list(dict.fromkeys(arguments.analyses))
    check_analyses(arguments.folder, names)
    with open_runtime(arguments.workers, arguments.address) as runtime:
        found = analyze(arguments.folder, names, runtime)
    _figures(arguments.folder)
    done = [(name, summary.get("does_not_apply", storage.address(arguments.folder / ANALYSIS / name))) for name, summary in found.items()]
    then = [(f"dynamo-dist report {_quoted(arguments.folder)}", "puts them on the page, report.html")]
    summarize(f"analyses of {storage.address(arguments.folder)}", done, then)
    for name, summary in found.items():
        print(storage.address(arguments.folder / ANALYSIS / name / suite.SUMMARY))
        if not arguments.all and "does_not_apply" in summary:
            raise InputError(f"{name}: {summary['does_not_apply']}")
    if arguments.json:
        print(json.dumps(found))


def _quoted(path: Path) -> str:
    return shlex.quote(storage.address(path))


def _tell_run(out: Path, result: dict[str, Any]) -> None:
    """The end of `run` on one screen."""
    meta, control, population = result["meta"], result["control"], result["population"]

    def beside(name: str) -> str:
        return f"{meta[name]:.3f}   without theta {control[name]:.3f}"

    facts = [
        ("networks", f"{population['networks']}, {population['failed']} failed"),
        ("hidden R^2, median", beside("hidden_r2_median")),
        ("agreement, median", beside("agreement_median")),
    ]
    if meta["disputed_agreement_median"] is not None and control["disputed_agreement_median"] is not None:
        facts.append(("on disputed inputs, median", beside("disputed_agreement_median")))
    facts.append(("clusters of theta", f"adjusted Rand {result['clustering']['adjusted_rand']:.2f} against the computation"))
    facts.append(("time", duration(result["seconds"]["total"])))
    then = [
        (storage.address(out / "report.html"), "open it in a browser; its figures for papers are in figures/"),
        (f"dynamo-dist analyze {_quoted(out)} --all", "every other analysis, then `dynamo-dist report` again"),
        (f"dynamo_dist.MetaModel.open({storage.address(out / 'meta-0')!r})", "in Python"),
    ]
    summarize(f"{result['title']} in {storage.address(out)}", facts, then)


def _tell_embedded(out: Path, result: dict[str, Any]) -> None:
    """The end of `embed` on one screen."""
    if "recommended" in result:
        found = result["recommended"]
        meta = out / (found["model"] or sweep.GIVEN)
        settings = f"D = {found['dimensions']}, K = {found['hidden']}, lambda = {found['output_weight']:g}"
        facts = [("recommended", settings if found["model"] else f"{settings}, which no model of the sweep has")]
    else:
        losses = result["losses"]
        facts = [("networks", result["networks"]), ("step", losses["step"])]
        facts += [(f"{name.replace('_', ' ')} loss", f"{losses[name]:.4f}") for name in ("hidden", "output") if name in losses]
        meta = out
    then = [
        (f"dynamo-dist analyze {_quoted(meta)} --all", "what the vectors say of the networks"),
        (f"dynamo-dist report {_quoted(meta)}", "the page, with the map of the networks"),
        (f"dynamo_dist.MetaModel.open({storage.address(meta)!r})", "in Python"),
    ]
    summarize(f"{'meta-model' if meta == out else 'sweep'} in {storage.address(out)}", facts, then)


def _figures(folder: Path) -> None:
    """Draw the figures for papers where matplotlib is there; their numbers do not need it."""
    try:
        from dynamo_dist.report.analyses import write_figures
    except InputError as error:
        say(f"no figures are drawn: {error}")
    else:
        for file in write_figures(folder):
            storage.publish(file)


def _report(folder: Path) -> None:
    from dynamo_dist.report import write_report

    storage.fetch(folder)
    storage.publish(write_report(folder))
    _figures(folder)


def _claims(arguments: argparse.Namespace) -> None:
    from dynamo_dist.report import write_claims

    for path in arguments.runs:
        storage.fetch(path)
    page, found = write_claims(arguments.runs, arguments.out)
    for file in (page, page.with_suffix(".json")):
        storage.publish(file)
    where = storage.address(page)
    summarize(
        f"claims on {len(arguments.runs)} runs in {where}",
        [(f"{one.run}: {one.claim}", one.verdict) for one in found],
        [(where, "open it in a browser")],
    )
    print(where)


def _interrupt(*_: object) -> NoReturn:
    """A process manager's polite end is an interrupt: the same clean stop of workers and Ray."""
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    keep_memory()
    arguments = parser().parse_args(argv)
    try:
        with quietly(getattr(arguments, "quiet", False)):
            if arguments.command == "run":
                _run(arguments)
            elif arguments.command == "train-population":
                _train_population(arguments)
            elif arguments.command == "embed":
                _embed(arguments)
            elif arguments.command == "analyze":
                _analyze(arguments)
            elif arguments.command == "import":
                check_new(arguments.out)
                population = import_folder(arguments.folder, open_folder(arguments.data), arguments.out)
                print(f"{storage.address(arguments.out)}: {len(population)} networks")
            elif arguments.command == "import-data":
                counts = import_imdb(arguments.source, arguments.out)
                print(f"{arguments.out}: {counts['train']} training and {counts['test']} test reviews")
            elif arguments.command == "report":
                _report(arguments.folder)
                print(storage.address(arguments.folder / "report.html"))
            elif arguments.command == "claims":
                _claims(arguments)
            else:
                for name, make in recipes.RECIPES.items():
                    print(f"{name:14s} {make.__doc__.splitlines()[0] if make.__doc__ else ''}")
    except InputError as error:
        _tell(f"dynamo-dist: {error}")
        return 2
    except (JobFailed, Diverged) as error:
        _tell(f"dynamo-dist: {error}; what was committed is kept")
        return 1
    except KeyboardInterrupt:
        _tell("dynamo-dist: interrupted; what was committed is kept, continue with --resume")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
