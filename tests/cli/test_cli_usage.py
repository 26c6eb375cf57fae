"""What a wrong command line is told, and what `list` and `env` print."""

import json

import pytest

from normbench.norms import NORMS, SEQUENCE_NORMS, WEIGHTS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "--norm", "gnn"), "normbench: --norm: unknown norm 'gnn'; did you mean 'gn'? Allowed: bn, "),
        (("train", "--norm", "gn", "--model", "resnet"), "--model: unknown model 'resnet'; did you mean 'resnet9'?"),
        (("train", "--norm", "gn", "--dataset", "cifar"), "unknown dataset 'cifar'; did you mean 'cifar10'?"),
        (("train", "--norm", "gn", "--norm-option", "group=2"), "'group'; did you mean 'groups'?"),
        (("train", "--norm", "gn", "--device", "gpu"), "--device: 'gpu' is not allowed; did you mean 'cpu'?"),
        (("train", "--norm", "gn", "--precision", "fp16"), "--precision: 'fp16' is not allowed; did you mean 'bf16'?"),
        (("train", "--norm", "gn", "--engine", "graf"), "--engine: 'graf' is not allowed; did you mean 'graph'?"),
        (("train", "--norm", "gn", "--batch-size", "0"), "--batch-size: must be greater than or equal to 1, not 0"),
        (("train", "--norm", "gn", "--lr", "-1"), "--lr: must be greater than 0"),
        (("train", "--norm", "gn", "--set", "train.lrr=1"), "--set train.lrr=1: unknown key"),
        (("train",), "give --norm (see `normbench list norms`) or --config FILE"),
        (("train", "--norm", "gn", "--epoch", "3"), "No such option: --epoch"),
        (("train", "--norm", "gn", "--seed", "1", "--seeds", "2"), "--seed is one seed, --seeds a number of seeds"),
        (("compare", "tutoriel"), "no built-in config and no norm of that name; did you mean 'tutorial'?"),
        (("compare", "bn", "gnn"), "built-in config and no norm of that name; did you mean 'gn'?"),
        (("compare", "demo", "gn"), "demo is a config, gn a norm: give one config, or norms"),
        (("compare", "demo", "tutorial"), "demo, tutorial: compare takes one config, or norms"),
        (("compare", "bn", "--norms", "gn"), "bn and --norms gn both name norms: give one of them"),
        (("compare", "bn", "bn"), "--norms: norms.1: two norms are called 'BN'"),
        (("compare", "no/such.yaml"), "no/such.yaml: no such config file"),
        (("compare", "demo", "--seeds", "1000000000"), "--seeds: 1000000000 is not allowed: at most 1,000,000 seeds"),
        (("compare", "demo", "--seeds", "3", "--max-runs", "5"), "= 12 runs; at most 5 unless --max-runs says more"),
        (("compare", "x" * 5000 + ".yaml"), "File name too long"),
        (("train", "--norm", "gn", "--config", "/dev/zero"), "/dev/zero: cannot be read: it is not a regular file"),
        (("train", "--norm", "gn", "--batch-size", "1" + "0" * 19), "--batch-size: the number is too large"),
        (("compare",), "compare: give a config or norms, such as `normbench compare demo` or `normbench compare bn"),
        (("trian",), "No such command"),
        (("list", "norms", "evonorm_s9"), "unknown norm 'evonorm_s9'; did you mean 'evonorm_s"),
        (("list", "norms", "nosuch"), "unknown norm 'nosuch'. Allowed: bn, "),
        (("list", "norms", "--model", "vitt"), "unknown model 'vitt'; did you mean 'vit'?"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_wrong_usage_is_told_without_a_traceback(normbench, tmp_path, monkeypatch, arguments, expected: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = normbench(*arguments)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("show", "x" * 5000), ("data", "import", "x" * 5000)], ids=lambda value: value[0]
)
def test_a_path_that_is_too_long_is_told_without_a_traceback(normbench, arguments) -> None:
    code, _, err = normbench(*arguments)
    assert code in (1, 3)
    assert err.startswith("normbench: ")
    assert "Traceback" not in err
    assert len(err) < 2048


def test_every_command_has_the_short_form_of_help_too(normbench) -> None:
    commands = ("compare", "train", "ls", "list", "list norms", "data fetch", "stylize train", "bench layers", "env")
    for command in ("", *commands):
        short, long = normbench(*command.split(), "-h"), normbench(*command.split(), "--help")
        assert (short.code, short.out) == (0, long.out)


def test_help_groups_commands_by_what_they_are_for_and_shows_the_name_of_an_extra(normbench) -> None:
    out = normbench("--help").out
    words = ("\nRun:", " compare ", "\nRead what", " show ", "\nChoose:", " advise ", "\nSet up:", " env ")
    places = [out.index(word) for word in words]
    assert places == sorted(places)
    assert "normbench[tensorboard]" in normbench("compare", "--help").out


def test_lists_as_json(normbench) -> None:
    listed = {name: json.loads(normbench("list", name, "--json").out) for name in ("norms", "datasets", "configs")}
    assert all(content["schema_version"] == 1 for content in listed.values())
    gn = listed["norms"]["norms"]["gn"]
    assert (gn["year"], gn["arxiv"], gn["batch_dependent"]) == (2018, "1803.08494", False)
    assert gn["options"]["groups"] == {
        "type": "int", "default": 4, "help": gn["options"]["groups"]["help"], "minimum": 1, "instead_of": None,
        "recorded_at_default": True,
    }  # fmt: skip
    assert "+ws" in listed["norms"]["weights"]
    assert "synthetic" in listed["datasets"]["datasets"]
    assert {"demo", "tutorial", "all"} <= set(listed["configs"]["configs"])


def test_a_list_in_a_pipe_is_tab_separated(normbench) -> None:
    lines = [line.split("\t") for line in normbench("list", "norms").out.splitlines()]
    assert lines[0] == ["key", "name", "statistics over", "batch-dependent", "folds into convolution", "year"]
    assert ["gn", "Group Normalization", "C/G, H, W", "no", "no", "2018"] in lines
    assert [line[0] for line in lines[1:]] == [*NORMS, *(f"+{key}" for key in WEIGHTS)]
    long = [line.split("\t") for line in normbench("list", "norms", "--long").out.splitlines()]
    assert {len(line) for line in long} == {13}
    assert next(line for line in long if line[0] == "gn")[-1].endswith("affine=True")


@pytest.mark.parametrize("width", [80, 120])
def test_norms_take_a_line_each_on_a_terminal(normbench, monkeypatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = normbench("list", "norms").out.splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[1 : lines.index("")]] == [*NORMS, *(f"+{key}" for key in WEIGHTS)]
    monkeypatch.setenv("COLUMNS", "100")
    assert max(map(len, normbench("list", "norms", "--long").out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (("gn",), ["gn"]),
        (("gn+ws",), ["gn", "+ws"]),
        (("*EVO*_s?", "frn"), ["frn", "evonorm_s0", "evonorm_s1", "evonorm_s2"]),
        (("--model", "vit"), [*SEQUENCE_NORMS]),
        (("--model", "vit", "rms"), ["rms"]),
    ],
)
def test_norms_are_listed_by_name_pattern_and_model(normbench, arguments, keys) -> None:
    result = normbench("list", "norms", *arguments)
    assert [line.split("\t")[0] for line in result.out.splitlines()[1:]] == keys
    content = json.loads(normbench("list", "norms", *arguments, "--json").out)
    assert [*content["norms"], *content["weights"]] == keys


def test_env_says_what_a_bug_report_needs(normbench) -> None:
    facts = json.loads(normbench("env", "--json").out)
    assert {"normbench", "commit", "python", "torch", "device", "cpu", "torchvision", "numpy"} <= set(facts)
    text = normbench("env").out
    assert all(name in text for name in facts)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_runs_at_once_are_a_number_or_auto(normbench, text: str) -> None:
    result = normbench("compare", "bn", "gn", "--dataset", "synthetic", "--dry-run", f"--runs-at-once={text}")
    assert result.code == 2
    assert f"--runs-at-once: {text!r} is neither auto nor a whole number from 1" in result.err
    assert "Traceback" not in result.err
