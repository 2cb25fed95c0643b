"use strict";
// The picture: a surface with the ways of the racers over it.

const DASHES = [[], [4, 2.2], [1.3, 1.7]];  // in widths of the line

// How racer number so many looks: colours, marks and dashes together are no two times the same among 24.
function styleOf(number) {
    const round = Math.floor(number / MARKERS.length);
    return {
        colour: COLOURS[theme()][number % MARKERS.length],
        marker: MARKERS[number % MARKERS.length],
        dash: DASHES[(number % MARKERS.length + round) % DASHES.length],
    };
}

// Corners of the marks, at a distance of about 1; a list without corners is a circle.
const polygon = (corners, turn, inner = 1) => Array.from({length: corners}, (_, k) => {
    const angle = turn + 2 * Math.PI * k / corners, radius = k % 2 ? inner : 1;
    return [radius * Math.sin(angle), -radius * Math.cos(angle)];
});
const plus = [[-1, -3], [1, -3], [1, -1], [3, -1], [3, 1], [1, 1],
              [1, 3], [-1, 3], [-1, 1], [-3, 1], [-3, -1], [-1, -1]];
const turned = (corners, angle) => corners.map(([x, y]) =>
    [x * Math.cos(angle) - y * Math.sin(angle), x * Math.sin(angle) + y * Math.cos(angle)]);
const SHAPES = {
    "o": [],
    "s": polygon(4, Math.PI / 4),
    "^": polygon(3, 0),
    "D": polygon(4, 0),
    "v": polygon(3, Math.PI),
    "<": polygon(3, -Math.PI / 2),
    ">": polygon(3, Math.PI / 2),
    "P": plus.map(([x, y]) => [x / 3, y / 3]),
    "X": turned(plus.map(([x, y]) => [x / 2.6, y / 2.6]), Math.PI / 4),
    "*": polygon(10, 0, 0.4),
    "arrow": [[1.2, 0], [-0.9, -0.9], [-0.4, 0], [-0.9, 0.9]],
};

function drawMark(context, shape, [x, y], radius, fill, edge) {
    context.beginPath();
    if (shape.length) shape.forEach(([a, b], k) => context[k ? "lineTo" : "moveTo"](x + radius * a, y + radius * b));
    else context.arc(x, y, 0.85 * radius, 0, 2 * Math.PI);
    context.closePath();
    context.setLineDash([]);
    context.fillStyle = fill;
    context.strokeStyle = edge;
    context.lineWidth = radius / 5;
    context.stroke();
    context.fill();
}

// The part of a segment in the box that is larger by a part `around` on all sides; null if there is none.
function clipped([left, right, bottom, top], start, end, around = 0) {
    const [ax, ay] = start, [bx, by] = end;
    const mx = around * (right - left), my = around * (top - bottom);
    let from = 0, to = 1;
    for (const [low, high, a, b] of [[left - mx, right + mx, ax, bx], [bottom - my, top + my, ay, by]]) {
        if (a === b) {
            if (a < low || a > high) return null;
            continue;
        }
        const [enter, leave] = [(low - a) / (b - a), (high - a) / (b - a)].sort((one, other) => one - other);
        from = Math.max(from, enter);
        to = Math.min(to, leave);
    }
    const at = part => [ax + part * (bx - ax), ay + part * (by - ay)];
    return from > to ? null : [from ? at(from) : start, to < 1 ? at(to) : end];
}

// The pieces of a way that can be drawn: beside each step but the first, its segment near the picture or null.
function segmentsOf(surface, run) {
    return run.points.map((point, k) =>
        k && isFinitePoint(point) ? clipped(surface.box, run.points[k - 1], point, 0.5) : null);
}

// Where a run crosses the edge of the picture for good.
function exit(surface, run) {
    const inside = run.points[Math.max(0, run.left - 1)], outside = run.points[run.left];
    const segment = isFinitePoint(outside) ? clipped(surface.box, inside, outside) : null;
    return segment ? segment[1] : nearest(surface, inside);
}

function nearest({box: [left, right, bottom, top]}, [x, y]) {
    return [Math.min(right, Math.max(left, x)), Math.min(top, Math.max(bottom, y))];
}

class Picture {
    constructor(canvas) {
        this.canvas = canvas;
        this.context = canvas.getContext("2d");
        this.ground = document.createElement("canvas");
    }

    // Fits the canvas into this width and height of the page and draws what does not move.
    lay(surface, width, height) {
        this.surface = surface;
        this.letters = parseFloat(getComputedStyle(this.canvas).fontSize) * 0.85;
        const [left, right, bottom, top] = surface.box;
        const margin = {x: 3 * this.letters, y: 1.8 * this.letters, end: 1.1 * this.letters};
        const scale = Math.min((width - margin.x - margin.end) / (right - left),
                               (height - margin.y - margin.end) / (top - bottom));
        this.frame = {x: margin.x, y: margin.end, width: scale * (right - left), height: scale * (top - bottom)};
        this.width = Math.floor(this.frame.width + margin.x + margin.end);
        this.height = Math.floor(this.frame.height + margin.y + margin.end);
        this.line = Math.max(3, this.width / 260);
        this.dots = window.devicePixelRatio || 1;
        for (const canvas of [this.canvas, this.ground]) {
            canvas.width = Math.round(this.width * this.dots);
            canvas.height = Math.round(this.height * this.dots);
        }
        this.canvas.style.width = `${this.width}px`;
        this.canvas.style.height = `${this.height}px`;
        this.drawGround();
    }

    place([x, y]) {
        const [left, right, bottom, top] = this.surface.box, {frame} = this;
        return [frame.x + (x - left) / (right - left) * frame.width,
                frame.y + (top - y) / (top - bottom) * frame.height];
    }

    // The point under a place of the canvas, in pixels of the page.
    point(px, py) {
        const [left, right, bottom, top] = this.surface.box, {frame} = this;
        return nearest(this.surface, [left + (px - frame.x) / frame.width * (right - left),
                                      top - (py - frame.y) / frame.height * (top - bottom)]);
    }

    drawGround() {
        const context = this.ground.getContext("2d"), [paper, ink] = GROUND[theme()], {frame, surface} = this;
        context.setTransform(this.dots, 0, 0, this.dots, 0, 0);
        context.fillStyle = paper;
        context.fillRect(0, 0, this.width, this.height);
        drawSurface(context, surface, frame, [paper, ink]);
        context.strokeStyle = context.fillStyle = ink;
        context.lineWidth = 1.5;
        context.strokeRect(frame.x, frame.y, frame.width, frame.height);
        this.drawTicks(context);
        for (const minimum of surface.minima)
            drawMark(context, SHAPES["*"], this.place(minimum), 1.1 * this.letters, ink, paper);
    }

    drawTicks(context) {
        const [left, right, bottom, top] = this.surface.box, {frame} = this;
        const every = right - left > 12 ? 2 : Math.max(right - left, top - bottom) > 4 ? 1 : 0.5;
        context.font = `${this.letters}px system-ui, "DejaVu Sans", sans-serif`;
        context.textAlign = "center";
        context.textBaseline = "top";
        for (let x = Math.ceil(left / every) * every; x <= right; x += every)
            context.fillText(`${x}`.replace("-", "−"), this.place([x, 0])[0],
                             frame.y + frame.height + 0.35 * this.letters);
        context.textAlign = "right";
        context.textBaseline = "middle";
        for (let y = Math.ceil(bottom / every) * every; y <= top; y += every)
            context.fillText(`${y}`.replace("-", "−"), frame.x - 0.4 * this.letters, this.place([0, y])[1]);
    }

    // Everybody after so many steps; the cross-hair, if there is one.
    draw(racers, step, start, crosshair) {
        const {context, frame} = this, [paper, ink] = GROUND[theme()];
        context.setTransform(1, 0, 0, 1, 0, 0);
        context.drawImage(this.ground, 0, 0);
        context.setTransform(this.dots, 0, 0, this.dots, 0, 0);
        context.save();
        context.beginPath();
        context.rect(frame.x, frame.y, frame.width, frame.height);
        context.clip();
        for (const racer of racers) this.drawWay(racer, step);
        context.restore();
        context.setLineDash([]);
        context.lineWidth = 3;
        context.strokeStyle = ink;
        context.beginPath();
        context.arc(...this.place(start), 0.6 * this.letters, 0, 2 * Math.PI);
        context.stroke();
        const crosses = new Map();
        for (const racer of [...racers].reverse()) this.drawEnd(racer, step, paper, crosses);
        if (crosshair) this.drawCrosshair(crosshair, ink, paper);
    }

    drawWay({run, segments, style}, step) {
        const {context} = this;
        context.beginPath();
        let pen = null;  // lifted where the way is out of sight; a dash goes on where it is not
        for (let k = 1; k <= Math.min(step, run.left ?? Infinity, segments.length - 1); k++) {
            if (!segments[k]) continue;
            const [from, to] = segments[k];
            if (from !== pen) context.moveTo(...this.place(from));
            context.lineTo(...this.place(to));
            pen = to;
        }
        context.lineWidth = this.line;
        context.lineJoin = context.lineCap = "round";
        context.setLineDash(style.dash.map(length => length * this.line));
        context.strokeStyle = style.colour;
        context.stroke();
    }

    // Where it is; where it left the picture for good; or, at the edge, in which direction it is outside for a while.
    // Crosses of several at one place are drawn around each other.
    drawEnd({run, style}, step, paper, crosses) {
        const {context, surface} = this, size = 0.62 * this.letters;
        if (run.left !== null && step >= run.left) {
            const at = this.place(exit(surface, run)), place = at.map(Math.round).join();
            crosses.set(place, [...crosses.get(place) ?? [], style.colour]);
            return crosses.get(place).forEach((colour, k, {length}) =>
                drawMark(context, SHAPES.X, at, (1.15 + 0.45 * (length - 1 - k)) * size, colour, paper));
        }
        const point = run.points[step];
        if (holds(surface, point))
            return drawMark(context, SHAPES[style.marker], this.place(point), size, style.colour, paper);
        const edge = nearest(surface, point), angle = Math.atan2(edge[1] - point[1], point[0] - edge[0]);
        drawMark(context, turned(SHAPES.arrow, angle), this.place(edge), 1.3 * size, style.colour, paper);
    }

    drawCrosshair(point, ink, paper) {
        const {context, frame} = this, [x, y] = this.place(point);
        for (const [colour, width] of [[paper, 5], [ink, 2]]) {
            context.strokeStyle = colour;
            context.lineWidth = width;
            context.beginPath();
            context.moveTo(x, frame.y);
            context.lineTo(x, frame.y + frame.height);
            context.moveTo(frame.x, y);
            context.lineTo(frame.x + frame.width, y);
            context.stroke();
        }
    }
}

// A piece of a racer's line with its mark, for tables.
function drawSwatch(canvas, style, letters) {
    const dots = window.devicePixelRatio || 1, width = 2.4 * letters, height = 1.2 * letters;
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d"), line = letters / 5;
    context.scale(dots, dots);
    context.strokeStyle = style.colour;
    context.lineWidth = line;
    context.setLineDash(style.dash.map(length => length * line));
    context.beginPath();
    context.moveTo(0, height / 2);
    context.lineTo(width, height / 2);
    context.stroke();
    drawMark(context, SHAPES[style.marker], [width / 2, height / 2], 0.42 * letters, style.colour, GROUND[theme()][0]);
}
