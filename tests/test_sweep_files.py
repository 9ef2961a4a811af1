"""A sweep file with anything in any place is a sweep, or one short line that names the file and the setting."""

import copy
import datetime
import json
import math
import tomllib

import pytest

from nqm_tools import cli, sweeps

GOOD = {
    "name": "All of it",
    "models": ["f_quad", "f"],
    "seeds": [2, 5],
    "data": [
        {"name": "digits", "n_train": 12, "n_test": 10, "label_noise": 0.1, "classes": [1, 7], "seed": 4},
        {"name": "single_example", "dimension": 6, "label": 1.0},
        {"name": "gaussians_1d", "n_train": 6, "n_test": 2, "mean": 1.5, "std": 0.5},
    ],
    "network": [
        {"name": "two_layer_fc", "width": 24, "readout_init": "normal", "outputs": 1},
        {"name": "deep_fc", "width": 16, "depth": 4, "activation": "tanh"},
        {"name": "two_layer_cnn", "width": 4, "readout": "flatten"},
        {"name": "diagonal_quadratic", "gamma": 0.1},
    ],
    "learning_rates": {"absolute": [0.5, 1]},
    "training": {
        "steps": 20,
        "batch_size": 1,
        "batches": "iid",
        "momentum": 0.5,
        "nesterov": True,
        "loss": "half_sum",
        "record": ["distance", "lambda_1"],
        "record_every": 5,
    },
    "scales": {"quick": {"seeds": 3, "learning_rates": {"critical": [0.5]}, "training": {"steps": 5}}},
}

MOMENT = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
DEEP = 1
for _ in range(40):
    DEEP = [DEEP]
VALUES = [
    *("16", "", "a:b", "no.such.module:function", "os:getcwd", "sys.nothing:x", "a: b", "\0\n", "x" * 2000),
    *(-1, 0, 1, 10**11, 10**30, 10**400),
    *(2.5, -0.5, 1e308, math.inf, -math.inf, math.nan),
    *(True, False, MOMENT, MOMENT.date(), MOMENT.time()),
    *([], [[]], [1], [1, 1], ["x"], [True], [math.nan], [MOMENT], [{}], list(range(-500, 500)), DEEP),
    *({}, {"a": 1}, {"name": "digits"}, {"name": 3}, {"a:b": "c:d"}, {"critical": 1}, {"x" * 600: {"y\n": [MOMENT]}}),
]


def toml(value):
    """A value as TOML has it, in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str | bool):
        return json.dumps(value)
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def write(path, content):
    text = "\n".join(f"{json.dumps(name)} = {toml(value)}" for name, value in content.items())
    path.write_text(text, encoding="utf-8")


def places(value, path=()):
    """The way to every value inside a value, tables and lists included."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield (*path, name)
        yield from places(entry, (*path, name))


def changed(path, change):
    content = copy.deepcopy(GOOD)
    where = content
    for name in path[:-1]:
        where = where[name]
    change(where, path[-1])
    return content


def outcome(file, scale):
    """None for a sweep whose groups can be made, else what is wrong."""
    try:
        sweep = sweeps.Sweep.from_toml(file, scale)
        if len(sweep) <= 10**5:
            sweep.groups()
    except ValueError as error:
        return str(error)
    return None


def assert_says_where(message, file, names):
    assert message.startswith(str(file)), message
    said = message.removeprefix(str(file))
    assert "\n" not in said
    assert len(said) < 450, said
    assert any(name[:50] in said for name in names), (said, names)


def test_the_file_is_good_as_it_is(tmp_path):
    file = tmp_path / "sweep.toml"
    write(file, GOOD)
    assert tomllib.loads(file.read_text()) == GOOD
    assert outcome(file, None) is None
    assert outcome(file, "quick") is None


@pytest.mark.parametrize("part", GOOD)
def test_any_value_in_any_place_is_a_sweep_or_one_line_about_it(tmp_path, part):
    file = tmp_path / "sweep.toml"
    refused = {}
    for path in places(GOOD):
        if path[0] != part:
            continue
        names = [name for name in path if isinstance(name, str)]
        for value in VALUES:
            write(file, changed(path, lambda where, name, value=value: where.__setitem__(name, value)))
            for scale in (None, "quick") if part == "scales" else (None,):
                message = outcome(file, scale)
                if message is not None:
                    # Tables have their own words for what is in them; what cannot be read has no settings.
                    inside = [" ".join(name.split()) for name in value] if isinstance(value, dict) else []
                    unread = ["is no TOML file"] if value is DEEP or value == 10**400 else []
                    assert_says_where(message, file, names + inside + unread)
                    refused[path] = refused.get(path, 0) + 1
    if part != "scales":
        assert min(refused.values()) >= (10 if part != "name" else 5), refused


def test_what_is_left_out_or_unknown_is_named(tmp_path):
    file = tmp_path / "sweep.toml"
    for path in places(GOOD):
        if isinstance(path[-1], str):
            write(file, changed(path, lambda where, name: where.pop(name)))
            if (message := outcome(file, None)) is not None:
                assert_says_where(message, file, [path[-1]])
        if path[0] != "scales" and isinstance(path[-1], str) and path[0] != "learning_rates":
            write(file, changed(path, lambda where, name: where.__setitem__("unknown\nx", where.pop(name))))
            assert_says_where(outcome(file, None), file, ["unknown x", path[-1]])


WRONG = {
    "a number in quotes": (("data", 0, "n_train"), "16", "n_train must be a whole number >= 1; got '16'"),
    "a scale that is a number": (("scales", "quick"), 3, "scales must be a table with one table a scale; got {'quick'"),
    "a network that is a number": (("network",), 5, "network must be a table of settings, or a list of them; got 5"),
    "more examples than there are": (("data", 0, "n_train"), 1000, "digits has "),
    "more examples than fit": (("data", 2, "n_train"), 10**11, "n_train must be a whole number <= 2147483647; got 10"),
    "more seeds than fit": (("seeds",), 10**11, "seeds must be a whole number <= 10000000; got 100000000000"),
    "a date": (("training", "steps"), MOMENT, "steps must be a whole number >= 1; got datetime.datetime(2024"),
    "true for a number": (("data", 0, "classes"), [True, 2], "classes must be two or more different ones of (0, 1, 2"),
    "nested": (("data", 0, "classes"), DEEP, "is no TOML file: tables and lists are more than 20 deep in each other"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_command_says_it_in_one_line_and_makes_no_folder(tmp_path, capsys, what):
    path, value, message = WRONG[what]
    file, store = tmp_path / "sweep.toml", tmp_path / "store"
    write(file, changed(path, lambda where, name: where.__setitem__(name, value)))
    assert cli.main(["sweep", str(file), "--store", str(store)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"nqm: {file}")
    assert message in err
    assert err.count("\n") == 1
    assert len(err) < 500
    assert not store.exists()


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "9" * 5000, ".".join("a" * 3000) + " = 1"])
def test_what_python_cannot_read_is_no_toml_file(tmp_path, text):
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.toml is no TOML file: ") as caught:
        sweeps.Sweep.from_toml(file)
    assert len(str(caught.value)) < 500 + len(str(file))


def test_many_seeds_are_a_sweep():
    """Which would take minutes where each is compared with each."""
    settings = {"data": {"name": "single_example", "dimension": 3}, "network": {"name": "two_layer_fc", "width": 4}}
    sweep = sweeps.Sweep(**settings, learning_rates=1, seeds=range(10**5), steps=1)
    assert len(sweep.only(seeds=range(0, 10**5, 2)).seeds) == 10**5 // 2
    with pytest.raises(ValueError, match=r"seeds must be one of 0, 1, .*, 19, \.\.\. \(100000 in all\); got -1$"):
        sweep.only(seeds=[-1])
    with pytest.raises(ValueError, match="seeds must not hold anything twice; got 7 twice"):
        sweeps.Sweep(**settings, learning_rates=1, seeds=[*range(10**5), 7], steps=1)
