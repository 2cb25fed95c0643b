"use strict";
// A surface from above: bands of shade, and the lines between them.

// f on a grid of fine × fine points over the picture, rows from the bottom to the top.
function heights({value, fine, box: [left, right, bottom, top]}) {
    const z = new Float64Array(fine * fine), last = fine - 1;
    for (let j = 0; j < fine; j++)
        for (let i = 0; i < fine; i++)
            z[j * fine + i] = value(left + (right - left) * i / last, bottom + (top - bottom) * j / last);
    return z;
}

// The line of a level by marching squares: pieces [i, j, i, j, ...] in places of the grid, ends in pairs.
function pieces(z, n, level) {
    const found = [];
    for (let j = 0; j < n - 1; j++)
        for (let i = 0; i < n - 1; i++) {
            const at = j * n + i;
            const a = z[at] - level, b = z[at + 1] - level, c = z[at + n + 1] - level, d = z[at + n] - level;
            const above = (a > 0) + (b > 0) + (c > 0) + (d > 0);
            if (above === 0 || above === 4) continue;
            const ends = [];
            if (a > 0 !== b > 0) ends.push(i + a / (a - b), j);
            if (b > 0 !== c > 0) ends.push(i + 1, j + b / (b - c));
            if (c > 0 !== d > 0) ends.push(i + d / (d - c), j + 1);
            if (d > 0 !== a > 0) ends.push(i, j + a / (a - d));
            found.push(ends);
        }
    return found;
}

// How many levels, but the first, lie below each pixel, rows from the top to the bottom.
function bands(z, n, levels, width, height) {
    const found = new Uint8Array(width * height);
    for (let row = 0; row < height; row++) {
        const v = (height - 1 - row) / (height - 1) * (n - 1), j = Math.min(n - 2, Math.floor(v)), down = v - j;
        for (let column = 0; column < width; column++) {
            const u = column / (width - 1) * (n - 1), i = Math.min(n - 2, Math.floor(u)), right = u - i, at = j * n + i;
            const low = z[at] + right * (z[at + 1] - z[at]);
            const high = z[at + n] + right * (z[at + n + 1] - z[at + n]);
            const here = low + down * (high - low);
            let band = 0;
            while (band < levels.length - 2 && here > levels[band + 1]) band++;
            found[row * width + column] = band;
        }
    }
    return found;
}

const parts = colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
const mixed = (a, b, part) => parts(a).map((one, k) => Math.round((1 - part) * one + part * parts(b)[k]));

// Draws it into a rectangle of a canvas, from the colour of the paper (low) to a quarter of the ink's (high).
function drawSurface(context, surface, {x, y, width, height}, [paper, ink]) {
    const z = heights(surface), n = surface.fine, {levels} = surface;
    const shades = levels.map((_, band) => mixed(paper, ink, 0.25 * band / (levels.length - 1)));
    const size = [Math.max(2, Math.round(width)), Math.max(2, Math.round(height))];
    const image = new ImageData(...size);
    const pixels = new Uint32Array(image.data.buffer);  // of four bytes: red first, where bytes are little-endian
    const packed = shades.map(([red, green, blue]) => red | green << 8 | blue << 16 | 255 << 24);
    bands(z, n, levels, ...size).forEach((band, k) => { pixels[k] = packed[band]; });
    const sheet = Object.assign(document.createElement("canvas"), {width: size[0], height: size[1]});
    sheet.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(sheet, x, y, width, height);
    context.strokeStyle = `rgb(${mixed(paper, ink, 0.4)})`;
    context.lineWidth = 1;
    context.beginPath();
    for (const level of levels.slice(1))
        for (const ends of pieces(z, n, level))
            for (let k = 0; k < ends.length; k += 2)
                context[k % 4 ? "lineTo" : "moveTo"](
                    x + ends[k] / (n - 1) * width, y + (1 - ends[k + 1] / (n - 1)) * height);
    context.stroke();
}
