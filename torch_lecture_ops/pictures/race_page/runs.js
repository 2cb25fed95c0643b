"use strict";
// Runs over a surface, and the rate that everybody is given by the same rule: as runs.py computes them.

const isFinitePoint = point => point.every(Number.isFinite);

function holds(surface, [x, y]) {
    const [left, right, bottom, top] = surface.box;
    return left <= x && x <= right && bottom <= y && y <= top;
}

// The points of a run, up to the first one that is not finite.
function* way(surface, racer, start, rate) {
    const {step} = racer, numbers = {lr: rate};
    let states = start.map(p => ({p}));
    while (true) {
        const point = states.map(state => state.p);
        yield point;
        if (!isFinitePoint(point)) return;
        const slope = surface.slope(...(step.ahead ? states.map(state => step.ahead(state, numbers)) : point));
        states = states.map((state, k) => step({...state, g: slope[k]}, numbers));
    }
}

// A run: its points and their values; the step at which it diverged (a parameter or the value is not finite), and that
// at which it left the picture for good; null if it did not.
function runOf(surface, points, rate, byRule) {
    const values = points.map(point => surface.value(...point));
    const bad = points.findIndex((point, k) => !isFinitePoint(point) || !Number.isFinite(values[k]));
    const outside = points.length - 1 - [...points].reverse().findIndex(point => holds(surface, point));
    const last = points.some(point => holds(surface, point)) ? outside : -1;
    const [diverged, left] = [bad < 0 ? null : bad, last === points.length - 1 ? null : last + 1];
    return {points, values, rate, byRule, diverged, left};
}

function descend(surface, racer, start, steps, rate) {
    const points = [];
    for (const point of way(surface, racer, start, rate)) {
        points.push(point);
        if (points.length > steps) break;
    }
    return runOf(surface, points, rate, false);
}

// The points of a run that stays in the picture; null of another.
function pointsInside(surface, racer, start, steps, rate) {
    const points = [];
    for (const point of way(surface, racer, start, rate)) {
        if (!holds(surface, point)) return null;
        points.push(point);
        if (points.length > steps) return points;
    }
}

// Of the rates whose run stays in the picture the one that ends lowest, of those that are equal but for rounding the
// smallest; if all leave it, the lowest of all.
function fairRun(surface, racer, start, steps) {
    let tried = RATES.map(rate => [pointsInside(surface, racer, start, steps, rate), rate]);
    tried = tried.filter(([points]) => points).map(([points, rate]) => runOf(surface, points, rate, true));
    if (!tried.length) tried = RATES.map(rate => ({...descend(surface, racer, start, steps, rate), byRule: true}));
    const end = run => Number.isFinite(run.values.at(-1)) ? run.values.at(-1) : Infinity;
    const lowest = Math.min(...tried.map(end));
    return tried.find(run => end(run) <= lowest + ROUNDING * Math.abs(lowest));
}

const distance = (surface, [x, y]) => Math.min(...surface.minima.map(([a, b]) => Math.hypot(x - a, y - b)));
