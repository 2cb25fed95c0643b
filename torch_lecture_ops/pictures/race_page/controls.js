"use strict";
// The page: what is chosen, and what is shown of it.

const byId = id => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const picture = new Picture(byId("picture"));

// The race: what it is run with, and where it stands. A racer's rate by hand is null where the rule gives it.
const race = {surface: null, start: null, steps: FIRST.steps, position: 0, playing: false, crosshair: null};
const racers = RACERS.map((racer, number) =>
    ({...racer, number, takesPart: FIRST.racers.includes(racer.name), byHand: racer.rate, run: null}));
const participants = () => racers.filter(racer => racer.takesPart);

// ---------------------------------------------------------------- words

const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
};

function written(number) {
    if (Number.isNaN(number)) return "not a number";
    if (!Number.isFinite(number)) return number < 0 ? "−∞" : "∞";
    const size = Math.abs(number), isFar = size && (size < 1e-3 || size >= 1e5);
    const [digits, power] = (isFar ? number.toExponential(2) : `${Number(number.toPrecision(4))}`).split("e");
    const exponent = power && [...power].map(one => "⁰¹²³⁴⁵⁶⁷⁸⁹"[one] ?? {"-": "⁻", "+": ""}[one]).join("");
    return (power ? `${digits}·10${exponent}` : digits).replace("-", "−");
}

const short = rate => `${Number(rate.toPrecision(3))}`.replace("-", "−");
const listed = names => new Intl.ListFormat("en").format(names);

// Where a run stands after so many steps, and whether it is over for good.
function standing({diverged, left, points}, step) {
    if (diverged !== null && step >= diverged) return {text: `diverged at ${diverged}`, isGone: true};
    if (left !== null && step >= left) return {text: `left at ${left}`, isGone: true};
    return {text: holds(race.surface, points[step]) ? `${step}` : `${step}, outside`, isGone: false};
}

// A run that is over has no points after its last one.
const valueAt = (run, step) => run.values[Math.min(step, run.values.length - 1)];
const pointAt = (run, step) => run.points[Math.min(step, run.points.length - 1)];

// ---------------------------------------------------------------- the race

function runRacer(racer) {
    const {surface, start, steps} = race;
    racer.run = racer.byHand === null
        ? fairRun(surface, racer, start, steps) : descend(surface, racer, start, steps, racer.byHand);
    racer.segments = segmentsOf(surface, racer.run);
    showRate(racer);
}

// Everybody who takes part gets a run, those that have one for this race keep it.
function run() {
    participants().filter(racer => !racer.run).forEach(runRacer);
    showTable();
    show();
    tell();
}

function begin(start, isPlaying) {
    race.start = start;
    for (const racer of racers) racer.run = null;
    [byId("x").value, byId("y").value] = start.map(one => `${Number(one.toPrecision(4))}`);
    race.position = 0;
    run();
    play(isPlaying);
}

// ---------------------------------------------------------------- time

let before = null;  // the time of the last frame
let asked = null;  // for the next one

function play(isPlaying) {
    race.playing = isPlaying && participants().length > 0;
    byId("play").textContent = race.playing ? "Pause" : "Play";
    cancelAnimationFrame(asked);
    if (!race.playing) return;
    if (race.position === race.steps) race.position = 0;
    tell();
    show();
    before = null;
    asked = requestAnimationFrame(frame);
}

function frame(now) {
    const seconds = before === null ? 0 : Math.min(0.25, (now - before) / 1000);  // a hidden tab has no frames
    before = now;
    const step = shownStep();
    race.position = Math.min(race.steps, race.position + seconds * Number(byId("speed").value));
    if (race.position === race.steps) return goTo(race.steps);
    if (shownStep() !== step) show();
    asked = requestAnimationFrame(frame);
}

function goTo(step) {
    play(false);
    race.position = Math.min(race.steps, Math.max(0, step));
    show();
    fillTable();
    tell();
}

// Reads out how it ended, where it is over.
function tell() {
    byId("news").textContent = race.position === race.steps ? outcome() : "";
}

// Whole steps; who wants no motion sees a still picture twice a second.
function shownStep() {
    const every = calm.matches && race.playing && race.position < race.steps
        ? Math.max(1, Math.round(Number(byId("speed").value) / 2)) : 1;
    return every * Math.floor(race.position / every);
}

function outcome() {
    const best = lowest(race.steps), said = [`The race is over after ${race.steps} steps.`];
    const say = (what, names, rest = "") => names.length && said.push(`${what}: ${listed(names)}${rest}.`);
    if (best.length) say("Lowest", best.map(one => one.label), `, ${written(valueAt(best[0].run, race.steps))}`);
    const left = participants().filter(({run}) => run.left !== null && run.diverged === null);
    const diverged = participants().filter(({run}) => run.diverged !== null);
    say("Left the picture", left.map(one => `${one.label} at step ${one.run.left}`));
    say("Diverged", diverged.map(one => `${one.label} at step ${one.run.diverged}`));
    return said.join(" ");
}

function lowest(step) {
    const ends = participants().map(racer => valueAt(racer.run, step)).filter(Number.isFinite);
    return participants().filter(racer => valueAt(racer.run, step) === Math.min(...ends));
}

// ---------------------------------------------------------------- what is seen

let filled = 0;  // when the table was

function show() {
    const step = shownStep();
    picture.draw(participants(), step, race.start, race.crosshair);
    byId("position").value = step;
    if (performance.now() - filled > 100) fillTable();  // no eye reads numbers that change faster
}

function showTable() {
    byId("results").replaceChildren(...participants().map(racer => {
        racer.cells = [0, 1, 2].map(() => element("td"));
        racer.rateWords = element("span", {className: "small"});
        const swatch = element("canvas", {ariaHidden: "true"});
        drawSwatch(swatch, racer.style, picture.letters);
        racer.row = element("tr", {}, element("th", {scope: "row"},
            element("div", {}, swatch, element("span", {}, racer.label), racer.rateWords)), ...racer.cells);
        return racer.row;
    }));
    fillTable();
}

function fillTable() {
    filled = performance.now();
    const step = shownStep(), best = step ? lowest(step) : [];
    byId("caption").textContent = `After ${step} of ${race.steps} steps`;
    byId("position").ariaValueText = `step ${step} of ${race.steps}`;
    for (const racer of participants()) {
        const {run, cells, row} = racer, {text, isGone} = standing(run, step);
        racer.rateWords.textContent = `η ${short(run.rate)}${run.byRule ? "" : " by hand"}`;
        cells[0].textContent = written(valueAt(run, step));
        cells[1].textContent = race.surface.minima.length ? written(distance(race.surface, pointAt(run, step))) : "?";
        cells[2].textContent = text;
        row.classList.toggle("gone", isGone);
        row.classList.toggle("lowest", best.includes(racer));
    }
}

const theme = () => byId("theme").value || (dark.matches ? "dark" : "light");

// The colours of the theme, everywhere.
function look() {
    const [paper, ink, grid] = GROUND[theme()], {style} = document.documentElement;
    style.colorScheme = theme();
    for (const [name, colour] of Object.entries({paper, ink, grid, focus: COLOURS[theme()][0]}))
        style.setProperty(`--${name}`, colour);
    lay();
}

// Sizes everything to the window.
function lay() {
    const {surface} = race;
    picture.lay(surface, byId("picture").parentElement.clientWidth, Math.max(320, 0.72 * innerHeight));
    for (const racer of racers) {
        racer.style = styleOf(racer.number);
        drawSwatch(racer.swatch, racer.style, picture.letters);
    }
    if (!race.start) return;
    showTable();
    show();
}

function chooseSurface(name, start = null) {
    const surface = race.surface = SURFACES.find(one => one.name === name);
    byId("title").textContent = `Race of optimizers: ${name[0].toUpperCase()}${name.slice(1)}`;
    byId("formula").textContent = `f(x, y) = ${surface.formula.replaceAll("-", "−")}; ${surface.source}`;
    const [left, right, bottom, top] = surface.box;
    Object.assign(byId("x"), {min: left, max: right});
    Object.assign(byId("y"), {min: bottom, max: top});
    race.crosshair = null;
    race.start = null;
    lay();
    return start ?? surface.start;
}

// ---------------------------------------------------------------- racers and rates

const SLIDER = {min: -5, max: 3, step: 0.05};  // of log10 of the rate

function addRacer(racer) {
    const box = element("input", {type: "checkbox", checked: racer.takesPart});
    racer.swatch = element("canvas", {ariaHidden: "true"});
    racer.slider = element("input", {type: "range", ...SLIDER, ariaLabel: `Rate of ${racer.label}`});
    racer.shownRate = element("span");
    racer.back = element("button", {type: "button"});
    racer.line = element("div", {className: "racer"},
        racer.swatch, element("label", {}, box, racer.label), racer.slider, racer.shownRate, racer.back);
    box.addEventListener("change", () => {
        racer.takesPart = box.checked;
        showRate(racer);
        run();
    });
    racer.slider.addEventListener("change", tell);  // not all the way of the slider
    racer.slider.addEventListener("input", () => setRate(racer, Number((10 ** racer.slider.value).toPrecision(2))));
    racer.back.addEventListener("click", () => {
        setRate(racer, null);
        tell();
    });
    byId("lines").append(racer.line);
    byId("whose").append(element("option", {value: racer.name, textContent: racer.label}));
    showRate(racer);
}

function setRate(racer, rate) {
    racer.byHand = rate;
    runRacer(racer);
    show();
    fillTable();
    byId("news").textContent = "";
}

function showRate(racer) {
    racer.line.classList.toggle("out", !racer.takesPart);
    const {run} = racer;
    if (!run) return;
    const isByHand = racer.byHand !== null;
    racer.shownRate.textContent = short(run.rate);
    if (!isByHand || document.activeElement !== racer.slider) racer.slider.value = Math.log10(run.rate);
    racer.slider.ariaValueText = `${short(run.rate)}, ${isByHand ? "by hand" : "by the rule"}`;
    racer.back.textContent = isByHand ? "by hand; back to the rule" : "by the rule";
    racer.back.disabled = !isByHand;
}

function showRule() {
    const least = short(RATES[0]), most = short(RATES.at(-1));
    byId("rule").textContent = `Each rate η is, of 1, 2, 5 × 10ᵏ from ${least} to ${most}, the one that ends lowest ` +
        `after ${race.steps} steps from this start without leaving the picture (if all leave it, the lowest of all): the ` +
        "same rule for all. A slider sets a rate by hand; who has one is not compared fairly.";
}

function showProgram() {
    const {step} = racers.find(racer => racer.name === byId("whose").value);
    byId("program").textContent = step.ahead
        ? `${step}\n\n// where the slope is wanted:\n${step.name}.ahead = ${step.ahead}` : `${step}`;
}

// ---------------------------------------------------------------- start

let telling = null;

function moveCrosshair(dx, dy) {
    const [left, right, bottom, top] = race.surface.box, [x, y] = race.crosshair ?? race.start;
    race.crosshair = nearest(race.surface, [x + dx * (right - left), y + dy * (top - bottom)]);
    show();
    clearTimeout(telling);  // what is passed by is not read out
    telling = setTimeout(() => {
        if (!race.crosshair) return;
        const [x, y, value] = [...race.crosshair, race.surface.value(...race.crosshair)].map(written);
        byId("news").textContent = `Cross-hair at x ${x}, y ${y}, value ${value}.`;
    }, 300);
}

const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};

function pressed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in ARROWS) moveCrosshair(...ARROWS[event.key].map(one => one / (event.shiftKey ? 500 : 50)));
    else if (event.key === "Enter") begin(race.crosshair ?? race.start, true);
    else if (event.key === " ") play(!race.playing);
    else return;
    event.preventDefault();
}

// ---------------------------------------------------------------- at last

function listen() {
    const on = (id, event, does) => byId(id).addEventListener(event, does);
    on("surface", "change", () => begin(chooseSurface(byId("surface").value), race.playing));
    on("theme", "change", look);
    on("play", "click", () => play(!race.playing));
    on("step", "click", () => goTo(Math.floor(race.position) + 1));
    on("restart", "click", () => { goTo(0); play(true); });
    on("position", "input", () => goTo(Number(byId("position").value)));
    on("start", "submit", event => {
        event.preventDefault();
        setSteps(Number(byId("steps").value));
        begin([Number(byId("x").value), Number(byId("y").value)], true);
    });
    on("picture", "click", event => begin(picture.point(event.offsetX, event.offsetY), true));
    on("picture", "keydown", pressed);
    on("picture", "blur", () => { race.crosshair = null; show(); });
    on("whose", "change", showProgram);
    dark.addEventListener("change", look);
    addEventListener("resize", lay);
    let chosen = null;  // the look, while it is printed
    addEventListener("beforeprint", () => { chosen = byId("theme").value; byId("theme").value = "light"; look(); });
    addEventListener("afterprint", () => { byId("theme").value = chosen; look(); });
}

function setSteps(steps) {
    race.steps = steps;
    byId("steps").value = byId("position").max = steps;
    showRule();
}

racers.forEach(addRacer);
byId("surface").append(...SURFACES.map(({name}) => element("option", {value: name, textContent: name})));
byId("surface").value = FIRST.surface;
byId("theme").value = FIRST.theme ?? "";
setSteps(FIRST.steps);
const start = chooseSurface(FIRST.surface, FIRST.start);
look();
showProgram();
listen();
begin(start, !calm.matches);
