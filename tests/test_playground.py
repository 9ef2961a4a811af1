"""The playground in a real Chromium: its numbers are the package's, and it can be used, linked to and read by all."""

import functools
import http.server
import os
import pathlib
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import dynamics
from nqm_tools.dynamics import Dimensionless, HeavyBall, Signed

playwright = pytest.importorskip("playwright.sync_api", reason="no browser to drive: make browser")

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "playground"
AXE_CORE = FOLDER.parent / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if not CHROMIUM:
    pytest.skip("no browser to drive: apt install chromium, or set CHROMIUM", allow_module_level=True)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the page on a server of its own."""
    handler = functools.partial(_Quiet, directory=FOLDER)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser, site):
    """``visit(hash, **context)`` opens the page; at the end nothing was complained of or asked of another host."""
    contexts, complaints, requests = [], [], []

    def opened(state="", address=site, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address + state)
        settle(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith((site, FOLDER.as_uri(), "data:"))] == []


def settle(page):
    """Drawn, twice over."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def go(page, state):
    """Follow a link to another state."""
    script = """state => new Promise((done) => {
        window.addEventListener("hashchange", done, {once: true}); location.hash = state; }).then(() => null)"""
    page.evaluate(script, state)
    settle(page)


def close(found, expected, tolerance, floor=1.0):
    """Apart by ``tolerance`` of the value, or of ``floor`` where the value is smaller."""
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert found.shape == expected.shape
    np.testing.assert_array_less(np.abs(found - expected), tolerance * np.maximum(floor, np.abs(expected)))


def starts(count, seed, top=5.0, largest_beta=1.2):
    """(v, z, beta) that a network can have, as lists of floats."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        v, beta = rng.uniform(0.05, top), rng.uniform(-largest_beta, largest_beta)
        z = rng.uniform(-v / 2, v / 2) * 10 ** rng.uniform(-3, 0) - beta * rng.integers(0, 2)
        if v >= 2 * abs(z + beta):
            found.append((v, z, beta))
    return found


def test_it_is_small_and_asks_for_nothing_else():
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    for path in files:
        without_names = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in without_names, path
        assert "https:" not in without_names, path


def test_one_step_from_random_states_is_that_of_the_package(visit):
    page, states = visit(), starts(200, seed=0)
    signed = page.evaluate("all => all.map(([v, z, beta]) => dynamics.signed_step({z, v}, beta))", states)
    expected = [dynamics.signed_step(Signed(z, v), beta) for v, z, beta in states]
    close([(after["z"], after["v"]) for after in signed], expected, 1e-12, floor=1e-200)
    plain = [(z * z, v, beta * z) for v, z, beta in states]
    without_sign = page.evaluate("all => all.map(([u, v, w]) => dynamics.dimensionless_step({u, v, w}))", plain)
    expected = [dynamics.dimensionless_step(Dimensionless(*state)) for state in plain]
    close([(after["u"], after["v"], after["w"]) for after in without_sign], expected, 1e-12, floor=1e-200)


def test_what_is_shown_is_the_map_in_the_units_that_the_page_names(visit):
    page, rng = visit(), np.random.default_rng(1)
    for _ in range(20):
        v0, loss, width = rng.uniform(0.1, 2.7), 10 ** rng.uniform(-3, 0.5), int(10 ** rng.uniform(3, 5))
        beta = rng.uniform(-0.02, 0.02) if rng.random() < 0.5 else 0.0
        go(page, f"v0={v0!r}&loss={loss!r}&width={width}&beta={beta!r}&steps=100")
        run = page.evaluate("playground.run()")
        c, r = 1 / width, (2 * loss) ** 0.5
        y = beta / (c**0.5 * v0)
        state, path = dynamics.OneExample(r + y, 1.0), []
        for _ in range(101):
            path.append(((state.prediction - y) ** 2 / 2, v0 * state.kernel))
            state = dynamics.one_example_step(state, v0, c, y)
        shown = [(row["loss"], row["v"]) for row in run["rows"]]
        assert len(shown) == 101
        close(shown, path, 1e-9)
        foretold = dynamics.forecast(r + y, 1.0, v0, c, y)
        assert run["regime"] == foretold.regime
        expected = (foretold.peak_loss, v0 * foretold.final_kernel, foretold.max_learning_rate)
        close((run["peak"], run["end"], run["most"]), expected, 1e-9)


def test_paths_of_100_steps_are_those_of_the_package(visit):
    states = starts(100, seed=2, top=2.7, largest_beta=0.5)
    script = """all => all.map(([v, z, beta]) =>
        dynamics.iterate((state) => dynamics.signed_step(state, beta), {z, v}, 100).map(({z, v}) => [z, v]))"""
    for (v, z, beta), path in zip(states, visit().evaluate(script, states), strict=True):
        state, expected = Signed(z, v), []
        for _ in range(101):
            expected.append(state)
            state = dynamics.signed_step(state, beta)
        close(path, expected, 1e-12, floor=1e-200)


def test_regimes_and_laws_are_those_of_the_package(visit):
    page, states = visit(), starts(300, seed=3)
    plain = [(z * z, v, beta * z) for v, z, beta in states]
    regimes = page.evaluate("all => all.map((state) => dynamics.predict_regime(...state))", plain)
    assert regimes == dynamics.predict_regime(*np.transpose(plain)).tolist()
    assert set(regimes) == {"monotone", "catapult", "divergent", "edge of stability"}
    assert page.evaluate("all => all.every((state) => dynamics.possible(...state))", plain)
    assert not page.evaluate("dynamics.possible(4, 3.9, 0)")

    calm = [(z * z, v, beta * z) for v, z, beta in starts(60, seed=4, top=2.7, largest_beta=0.3)]
    u, v, w = np.transpose(calm)
    for name in ("peak_u", "final_v"):
        found = page.evaluate(f"all => all.map(([u, v, w]) => dynamics.{name}(v, u, w))", calm)
        close(found, getattr(dynamics, name)(v, u, w), 1e-9)
        v0 = [0.7, 2.0, 2.00005, 2.01, 2.3, 2.7, 3.0]
        limit = page.evaluate(f"all => all.map((v0) => dynamics.{name}(v0, undefined, 0, {{band: true}}))", v0)
        close(limit, np.transpose(getattr(dynamics, name)(v0, band=True)), 1e-9)
        series = page.evaluate(f"all => all.map((v0) => dynamics.{name}_series(v0))", v0)
        close(series, getattr(dynamics, f"{name}_series")(np.array(v0)), 1e-12)
    invariant = page.evaluate("all => all.map(([u, v]) => dynamics.adiabatic_invariant(u, v))", calm)
    close(invariant, dynamics.adiabatic_invariant(u, v), 1e-12)

    signed = page.evaluate("all => all.map(([v, z, beta]) => Object.values(dynamics.triangle({z, v}, beta)))", states)
    close(signed, [dynamics.triangle(Signed(z, v), beta) for v, z, beta in states], 1e-12)
    problems = [(z, v, 0.01, 10 * beta) for v, z, beta in states]
    most = page.evaluate("all => all.map((problem) => dynamics.max_learning_rate(...problem))", problems)
    close(most, dynamics.max_learning_rate(*np.transpose(problems)), 1e-12)
    for beta in (0.0, -0.4, 1.1):
        interval = page.evaluate("(beta) => dynamics.stable_interval(beta)", beta)
        assert (interval and tuple(interval)) == dynamics.stable_interval(beta)


def heavy_balls(count, seed):
    """(state, momentum, beta) with a velocity, as lists of floats."""
    rng = np.random.default_rng(seed)
    return [(rng.uniform(-1.5, 1.5, 4).tolist(), rng.uniform(0, 0.95), rng.uniform(-1.2, 1.2)) for _ in range(count)]


def test_one_step_with_momentum_is_that_of_the_package(visit):
    page, states = visit(), heavy_balls(200, seed=5)
    script = """all => all.map(([[x, x_before, y, y_before], momentum, beta]) => {
        const after = dynamics.heavy_ball_step({x, x_before, y, y_before}, momentum, beta);
        const {z, v} = dynamics.heavy_ball_observables(after, beta);
        return [after.x, after.x_before, after.y, after.y_before, z, v]; })"""
    expected = []
    for state, momentum, beta in states:
        after = dynamics.heavy_ball_step(HeavyBall(*state), momentum, beta)
        expected.append((*after, *dynamics.heavy_ball_observables(after, beta)))
    close(page.evaluate(script, states), expected, 1e-12, floor=1e-200)

    problems = [(z + beta, v, 1.0, 1.0) for v, z, beta in starts(50, seed=6)]
    begun = page.evaluate("all => all.map((each) => Object.values(dynamics.heavy_ball_state(...each)))", problems)
    close(begun, [dynamics.heavy_ball_state(*each) for each in problems], 1e-12, floor=1e-200)
    refused = "(() => { try { dynamics.heavy_ball_state(1.1, 2, 1, 1); } catch (error) { return error.message; } })()"
    assert page.evaluate(refused) == "kernel must be at least 2 sqrt(c) |prediction|"


def test_paths_with_momentum_are_those_of_the_package(visit):
    page, rng, found, begun = visit(), np.random.default_rng(7), [], []
    for _ in range(15):
        v0, loss, width = rng.uniform(0.1, 2.7), 10 ** rng.uniform(-3, 0.5), int(10 ** rng.uniform(3, 5))
        beta, momentum = rng.uniform(-0.02, 0.02), rng.uniform(0.05, 0.6)
        go(page, f"v0={v0!r}&loss={loss!r}&width={width}&beta={beta!r}&momentum={momentum!r}&steps=100")
        run = page.evaluate("playground.run()")
        c, r = 1 / width, (2 * loss) ** 0.5
        y = beta / (c**0.5 * v0)
        state, path = dynamics.heavy_ball_state(r + y, 1.0, v0, c), []
        for _ in range(101):
            z, v = dynamics.heavy_ball_observables(state, beta)
            path.append((float(dynamics.loss_from_u(z * z, v0, c)), v))
            state = dynamics.heavy_ball_step(state, momentum, beta)
        assert len(run["rows"]) == 101
        close([(row["loss"], row["v"]) for row in run["rows"]], path, 1e-9)
        found.append((run["peak"], run["end"]))
        begun.append((*dynamics.dimensionless(r + y, 1.0, v0, c, y), momentum, c))
    u, v, w, momentum, c = np.transpose(begun)
    peaks, ends = (law(v, u, w, momentum=momentum) for law in (dynamics.peak_u, dynamics.final_v))
    close(found, np.transpose([peaks / (2 * c * v**2), ends]), 1e-9)

    states = [(*start, rng.uniform(0, 0.6)) for start in starts(60, seed=8, top=2.7, largest_beta=0.5)]
    script = """all => all.map(([v, z, beta, momentum]) => dynamics.iterate(
        (state) => dynamics.heavy_ball_step(state, momentum, beta), dynamics.from_rest({z, v}, beta), 100
    ).map(({x, y}) => [x, y]))"""
    for (v, z, beta, momentum), path in zip(states, page.evaluate(script, states), strict=True):
        state, expected = dynamics.heavy_ball_state(z + beta, v, 1.0, 1.0), []
        for _ in range(101):
            expected.append((state.x, state.y))
            state = dynamics.heavy_ball_step(state, momentum, beta)
        close(path, expected, 1e-12)


def test_regimes_with_momentum_are_those_of_the_map_iterated(visit):
    page, rng = visit(), np.random.default_rng(9)
    states = [(z * z, v, beta * z, rng.uniform(0.05, 0.9)) for v, z, beta in starts(150, seed=9, largest_beta=0.9)]
    u, v, w, momentum = np.transpose(states)
    peaks, ends = (law(v, u, w, momentum=momentum) for law in (dynamics.peak_u, dynamics.final_v))
    # Where a hair's breadth of the start decides, rounding does.
    hair = 1 + 1e-8
    again = dynamics.final_v(v * hair, u, w, momentum=momentum)
    sure = np.isclose(ends, again, rtol=1e-4, equal_nan=True)
    assert sure.sum() > 100
    found = page.evaluate("all => all.map((state) => dynamics.end_of_run(...state))", states)
    found = np.array([(end["peak"], end["end"]) for end in found])
    lost = np.isinf(peaks)
    assert np.isinf(found[sure, 0]).tolist() == lost[sure].tolist()
    # A start 1e-8 away may end 1e-4 away, so rounding shows: 1e-16 becomes 1e-12, and more over long runs.
    close(found[sure & ~lost], np.transpose([peaks, ends])[sure & ~lost], 1e-8)
    assert 20 < (sure & lost).sum() < sure.sum() - 50


@pytest.mark.parametrize(
    ("v0", "momentum", "beta", "loss", "regime", "words"),
    [
        (2.5, 0.5, 0.0, 0.01, "monotone", "starts below critical"),
        (2.99, 0.5, 0.0, 0.01, "monotone", "by inertia only: no catapult"),
        (3.2, 0.5, 0.0, 0.01, "catapult", "Catapult (it starts above critical, 2(1 + μ) = 3)"),
        (3.2, 0.7, 0.3, 0.01, "monotone", "2(1 + μ) = 3.4"),
        (4.9, 0.3, 0.0, 0.01, "divergent", "Divergent"),
        (2.0, 0.1, 1.15, 1.0, "impossible", "No network starts here"),
        (3.0, 0.1, 1.15, 0.01, "undecided", "neither come to rest nor diverged"),
    ],
)
def test_the_page_says_of_momentum_what_forecast_says(visit, v0, momentum, beta, loss, regime, words):
    page = visit(f"#v0={v0}&momentum={momentum}&beta={beta}&loss={loss}")
    run, c = page.evaluate("playground.run()"), 1e-4
    y = beta / (c**0.5 * v0)
    arguments = (2 * loss) ** 0.5 + y, 1.0, v0, c, y
    assert run["regime"] == regime
    assert words in page.text_content("#one-status")
    assert page.is_visible("#inertia")
    if regime == "impossible":
        with pytest.raises(ValueError, match="every quadratic model"):
            dynamics.forecast(*arguments, momentum=momentum)
    elif regime == "undecided":  # `forecast` would be two million steps from hundreds of starts more
        u, v, w = dynamics.dimensionless(*arguments)
        assert np.isnan(dynamics.peak_u(v, u, w, momentum=momentum))
    else:
        assert dynamics.forecast(*arguments, momentum=momentum).regime == regime
    # Critical and stable points are those with momentum; the certificate is not.
    assert run["critical"] == 2 * (1 + momentum)
    assert page.locator("#one-plane .certificate").count() == 0
    interval = page.evaluate("([beta, momentum]) => dynamics.stable_interval(beta, momentum)", [beta, momentum])
    assert (interval and tuple(interval)) == dynamics.stable_interval(beta, momentum)
    assert page.locator("#one-plane .stable").count() == (interval is not None)


def test_laws_with_momentum_are_those_of_the_package(visit):
    page, places = visit(), [(3.5, 0.7), (3.3, 0.5), (2.5, 0.5), (3.9, 0.9), (2.5, 0.2)]
    for name in ("peak_u", "final_v"):
        script = f"all => all.map(([v0, momentum]) => dynamics.{name}(v0, undefined, 0, {{band: true, momentum}}))"
        expected = [getattr(dynamics, name)(v0, band=True, momentum=momentum) for v0, momentum in places]
        close(page.evaluate(script, places), expected, 1e-9)
    go(page, "v0=3.3&momentum=0.5&loss=0.01")
    law = page.evaluate("playground.run().law")
    expected = dynamics.loss_from_u(dynamics.peak_u(3.3, momentum=0.5), 3.3, 1e-4), dynamics.final_v(3.3, momentum=0.5)
    close((law["peak"], law["end"]), expected, 1e-9)
    # None for a target, below critical, for a start that is not small, and where the end depends on the phase.
    for state in ("v0=3.3&beta=0.1", "v0=2.9", "v0=3.3&loss=100", "v0=3.9&loss=0.001"):
        go(page, f"momentum=0.5&{state}")
        assert page.evaluate("playground.run().law") is None, state


def test_the_slider_of_momentum_and_its_address(visit):
    page = visit("#v0=2.5")
    assert page.evaluate("playground.state.momentum") == 0
    assert page.is_hidden("#inertia")
    assert page.locator("#one-plane .certificate").count() == 1
    assert page.text_content("label[for=one-momentum]") == "momentum μ"
    before = page.evaluate("playground.run()")
    for _ in range(3):
        page.press("#one-momentum", "ArrowRight")
        settle(page)
    close(page.evaluate("playground.state.momentum"), 0.15, 1e-12)
    assert page.get_attribute("#one-momentum", "aria-valuetext") == "0.15"
    page.wait_for_function("location.hash.includes('momentum=0.15')")
    again = visit(page.evaluate("location.hash"))
    assert again.evaluate("playground.run()") == page.evaluate("playground.run()") != before
    go(page, "v0=2.5&momentum=5")
    assert page.evaluate("playground.state.momentum") == 0.9
    # The other tab is without.
    go(page, "tab=two&v0=2.6&momentum=0.5")
    with_momentum = page.evaluate("playground.run()")
    go(page, "tab=two&v0=2.6")
    assert page.evaluate("playground.run()") == with_momentum
    go(page, "v0=2.5&momentum=0")
    assert page.evaluate("playground.run()") == before


def test_the_sharpness_is_that_of_the_quadratic_model(visit, x64):
    page, x = visit(), jax.random.normal(jax.random.key(0), (1, 3))
    for seed, y in enumerate((0.0, 0.8, -1.5)):
        net = nqm.networks.two_layer_fc(30)
        params = net.init(jax.random.key(seed), x.shape)
        model, eta, c = nqm.quadraticize(net, params), 2.3, dynamics.coupling(x, 30)
        prediction = float(net(params, x)[0, 0])
        kernel = float(nqm.empirical_ntk(net, params, x)[0, 0])
        state = dynamics.dimensionless(prediction, kernel, eta, c, y)._asdict()
        expected = eta * nqm.sharpness(model, params, x, jnp.array([[y]]), loss="half_sum")
        close(page.evaluate("(state) => dynamics.sharpness(state)", state), expected, 1e-6)


def test_two_directions_follow_the_map_of_one_example_each(visit):
    page = visit("#tab=two&v0=2.6&ratio=0.85&loss=0.5&width=2000&steps=100")
    run = page.evaluate("playground.run()")
    groups = dynamics.SignGroups(np.eye(2), np.array([1.0, 0.85]) / 2000)
    state = dynamics.ManyExamples(np.array([0.5**0.5, 0.5**0.5]), np.array([1.0, 0.85]))
    for row in run["rows"]:
        close(row["v"], 2.6 * state.kernel, 1e-9)
        close(row["losses"], state.residual**2 / 2, 1e-9)
        state = dynamics.many_examples_step(state, 2.6, np.zeros(2), groups)
    outcomes = "all => all.map(([v0, ratio]) => examples.EXAMPLES.two.outcome(v0, ratio))"
    places = [(1.9, 0.8), (2.2, 0.8), (3.0, 0.8), (3.9, 0.45), (4.1, 0.3)]
    assert page.evaluate(outcomes, places) == ["neither", "first", "both", "first", "divergent"]


def test_it_opens_from_a_file_too(visit):
    page = visit("#v0=2.2", address=(FOLDER / "index.html").as_uri())
    assert "Catapult" in page.text_content("#one-status")
    page.press("#one-handle", "ArrowRight")
    page.wait_for_function("location.hash.includes('v0=2.21')")


def test_the_point_can_be_dragged_and_the_address_follows(visit):
    page = visit()
    box = page.locator("#one-handle").bounding_box()
    before = page.evaluate("({...playground.state})")
    page.mouse.move(box["x"] + 20, box["y"] + 15)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] - 35, steps=4)
    page.mouse.up()
    settle(page)
    after, moved = page.evaluate("({...playground.state})"), page.locator("#one-handle").bounding_box()
    assert after["v0"] > before["v0"] + 0.5
    assert after["loss"] > 2 * before["loss"]
    close((moved["x"], moved["y"]), (box["x"] + 100, box["y"] - 50), 1e-2)
    page.wait_for_function(f"location.hash.includes('v0={after['v0']}')")
    again = visit(page.evaluate("location.hash"))
    assert again.evaluate("({...playground.state})") == after
    assert again.text_content("#one-status") == page.text_content("#one-status")


@pytest.mark.parametrize("state", ["#v0=nan&loss=&beta=x&steps=7&tab=constructor", "#v0=1e99&loss=-1&ratio=0", "#%%%"])
def test_an_odd_address_is_read_as_far_as_it_makes_sense(visit, state):
    page = visit(state)
    now = page.evaluate("({...playground.state})")
    assert now["tab"] == "one"
    assert 0 < now["v0"] <= 5
    assert now["loss"] > 0
    assert page.text_content("#one-status")


def test_everything_is_reached_by_keyboard(visit):
    page, reached = visit("#predict=1"), []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    wanted = ["tab-one", "one-handle", "guess", "one-v0", "one-loss", "one-beta", "one-width", "one-momentum"]
    wanted += ["laws", "predict"]
    assert [name for name in dict.fromkeys(reached) if name in wanted] == wanted
    assert {"one-steps", "never", "another", "SUMMARY"} <= set(reached)
    page.keyboard.press("Escape")
    v0 = page.evaluate("playground.state.v0")
    page.press("#one-handle", "ArrowRight")
    page.press("#one-handle", "Shift+ArrowRight")
    close(page.evaluate("playground.state.v0"), v0 + 0.11, 1e-9)
    page.press("#one-handle", "ArrowUp")
    assert page.evaluate("playground.state.loss") > 0.25
    settle(page)  # the slider has followed
    page.press("#one-v0", "ArrowLeft")
    close(page.evaluate("playground.state.v0"), v0 + 0.1, 1e-9)
    page.press("#tab-one", "ArrowRight")
    settle(page)
    assert page.evaluate("document.activeElement.id") == "tab-two"
    assert page.is_visible("#panel-two")
    assert page.is_hidden("#panel-one")


def answers(page):
    """All that the page says of the run."""
    drawn = page.locator("#panel-one circle").count()
    return page.inner_text("#one-status") + page.inner_text("#question-text"), drawn


def test_predict_first_hides_the_answer_until_one_has_said_it(visit):
    page = visit("#v0=2.5&predict=1")
    words, drawn = answers(page)
    assert "ends at" not in words
    assert drawn == 3  # the start, in the plane and in either chart
    assert page.is_hidden("#facts")
    assert page.locator("#one-numbers tr").count() == 2
    assert "blank" in page.get_attribute("#one-regions", "class")
    box = page.locator("#one-plane").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    settle(page)
    words, drawn = answers(page)
    assert "it ends at 1.28" in words
    assert drawn > 60
    # Another start hides it again; the keyboard answers too.
    page.click("#another")
    settle(page)
    assert answers(page)[1] == 3
    page.press("#guess", "Shift+ArrowRight")
    page.press("#guess", "Enter")
    settle(page)
    assert "You said" in answers(page)[0]
    go(page, "v0=4.5&predict=1")
    assert answers(page)[1] == 3
    page.click("#never")
    settle(page)
    assert "Right" in answers(page)[0]


def test_the_exercises_set_the_scene(visit):
    page = visit("#tab=one&beta=0.3")
    for button, v0 in zip(page.locator("#exercises button").all(), (2.5, 4.02, 3.5), strict=True):
        button.click()
        settle(page)
        assert page.evaluate("playground.state.v0") == v0
        assert page.is_checked("#predict")
        assert answers(page)[1] == 3


def test_the_plane_and_predict_first_know_the_momentum(visit):
    page = visit("#v0=3.3&momentum=0.5")
    script = """places => {
        const canvas = document.getElementById("one-regions");
        const {width, height} = canvas;
        const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
        copy.drawImage(canvas, 0, 0);
        return places.map(([v0, loss]) => {
            const [x, y] = [(v0 / 5) * width, (1 - Math.log10(loss / 1e-3) / 7) * height];
            return [...copy.getImageData(Math.floor(x), Math.floor(y), 1, 1).data]; }); }"""
    monotone, catapult, divergent = [205, 217, 232, 255], [243, 205, 181, 255], [201, 201, 201, 255]
    places = [(1.0, 0.01), (2.5, 0.01), (3.2, 0.01), (4.8, 0.01), (1.0, 5e3)]
    assert page.evaluate(script, places) == [monotone, monotone, catapult, divergent, [0, 0, 0, 0]]
    go(page, "v0=3.3&momentum=0.1")
    assert page.evaluate(script, places[:3]) == [monotone, catapult, catapult]

    go(page, "v0=3.3&momentum=0.5&predict=1")
    words, drawn = answers(page)
    assert "ends at" not in words
    assert drawn == 3
    assert page.locator("#one-plane .critical").count() == 0
    page.press("#guess", "Enter")
    settle(page)
    end = dynamics.forecast(0.5**0.5, 1.0, 3.3, 1e-4, momentum=0.5).final_kernel * 3.3
    assert f"it ends at {end:.3g}" in answers(page)[0]
    go(page, "v0=4.9&momentum=0.5&predict=1")
    page.click("#never")
    settle(page)
    assert "Right: it never comes to rest." in answers(page)[0]


@pytest.mark.parametrize("tab", ["one", "two"])
def test_it_fits_a_phone(visit, tab):
    page = visit(f"#tab={tab}", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    handle = page.locator(f"#{tab}-handle").bounding_box()
    assert min(handle["width"], handle["height"]) >= 24
    plane = page.locator(f"#{tab}-plane").bounding_box()
    page.touchscreen.tap(plane["x"] + plane["width"] / 2, plane["y"] + plane["height"] / 2)
    settle(page)
    assert page.evaluate("playground.state.v0") != 2.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(visit, scheme):
    if not AXE_CORE.is_file():
        pytest.skip("no axe-core: make docs/node_modules")
    for state in ("", "#v0=2.5&predict=1", "#tab=two", "#v0=4.5", "#v0=3.3&momentum=0.5"):
        page = visit(state, color_scheme=scheme)
        page.locator("summary:visible").click()
        page.add_script_tag(path=AXE_CORE)
        found = page.evaluate("axe.run().then(({violations}) => violations)")
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
