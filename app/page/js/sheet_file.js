/** A contact sheet as one PNG: pictures of exact pixels on strips of film, with labels. */

/** Pixels of a side, and of all: some browsers give an empty picture beyond them, and no error. */
export const MOST = { side: 16384, pixels: 64e6 };

const SCALES = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32];
const FRAME = { least: 32, usual: 128, most: 1024 }; // pixels of a picture's width
const COLOURS = {
  paper: "#f7f2e8",
  film: "#14100e",
  hole: "#f7f2e8",
  note: "#d9a65c",
  pencil: "#4a3a33",
  faint: "#6b5a51",
};
const AT_ONCE = 8; // files that are read
const LONGEST = 500; // characters of a label; no label has room for more
const FONT = "system-ui, sans-serif";

/**
 * What the sheet says and how large its pictures are.
 *
 * @typedef {object} Contents
 * @property {string} title
 * @property {string} caption what all pictures share.
 * @property {string[]} columns labels; one empty text where nothing varies.
 * @property {string[]} rows labels.
 * @property {number} width of a picture, in pixels.
 * @property {number} height
 * @property {string[]} notes of the cells, in reading order; empty texts are none.
 */

/**
 * The scales that can be chosen: whole numbers of pixels for each of a picture, or parts of one.
 *
 * @param {number} width of a picture, in pixels.
 * @returns {{scales: number[], usual: number}}
 */
export function scalesOf(width) {
  const useful = (scale) => scale * width >= FRAME.least && scale * width <= FRAME.most;
  const scales = SCALES.filter((scale) => scale === 1 || useful(scale));
  const usual = scales.find((scale) => scale >= 1 && scale * width >= FRAME.usual);
  return { scales, usual: usual ?? scales.at(-1) };
}

/** A scale in words: `2 ×`, or `1/2 ×`. */
export function scaleInWords(scale) {
  return scale < 1 ? `1/${1 / scale} ×` : `${scale} ×`;
}

/** Whether a browser can make a picture of this size. */
export function fits({ width, height }) {
  return Math.max(width, height) <= MOST.side && width * height <= MOST.pixels;
}

/**
 * Where everything is, in whole pixels.
 *
 * @param {Contents} contents
 * @param {number} scale
 * @returns {object} `width` and `height` of the sheet; `frame` (of a picture); `at(row, column)`
 *   gives the left and the top of a picture; and what `draw` needs.
 */
export function layoutOf(contents, scale) {
  const frame = [contents.width, contents.height].map((side) => Math.round(side * scale));
  const text = Math.round(Math.min(40, Math.max(13, frame[0] / 9)));
  const line = Math.round(1.35 * text);
  const edge = Math.round(1.5 * text); // of the film, above and below a picture
  const gap = Math.max(4, Math.round(0.5 * text));
  const margin = 2 * text;
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${text}px ${FONT}`;
  const [ups, sides] = [contents.columns, contents.rows].map((labels) =>
    labels.map((each) => each.slice(0, LONGEST)),
  );
  const wide = Math.max(0, ...sides.map((each) => pen.measureText(each).width));
  const side = wide ? Math.ceil(Math.min(wide, Math.max(frame[0], 8 * text))) + text : 0;
  const left = margin + side;
  const film = contents.columns.length * (frame[0] + gap) + gap;
  const width = Math.max(left + film + margin, 2 * margin + 16 * text);
  const columns = ups.map((each) => wrapped(pen, each, frame[0], 4));
  const rows = sides.map((each) => wrapped(pen, each, Math.max(side - text, 1), 4));
  const caption = wrapped(pen, contents.caption, width - 2 * margin, 6);
  const above = Math.max(...columns.map((each) => each.length)) * line;
  const first = margin + 2 * line + caption.length * line + above + gap;
  const strip = frame[1] + 2 * edge;
  const apart = strip + 2 * gap;
  const height = first + contents.rows.length * apart - 2 * gap + margin;
  const at = (row, column) => [left + gap + column * (frame[0] + gap), first + edge + row * apart];
  const sizes = { text, line, edge, gap, margin, left, first, film, strip, apart };
  return { width, height, frame, at, ...sizes, columns, rows, caption };
}

/**
 * Draw the sheet.
 *
 * @param {Contents} contents
 * @param {number} scale for which `layoutOf` fits.
 * @param {(index: number) => Promise<Blob>|null} fileOf the picture of a cell; null if it has none.
 * @returns {Promise<Blob>} a PNG.
 * @throws {Error} a picture cannot be read, or the browser makes no PNG of this size.
 */
export async function draw(contents, scale, fileOf) {
  const layout = layoutOf(contents, scale);
  const canvas = document.createElement("canvas");
  canvas.width = layout.width;
  canvas.height = layout.height;
  const pen = canvas.getContext("2d", { alpha: false });
  if (!pen) throw new Error("This browser makes no picture of this size.");
  pen.textBaseline = "top";
  pen.fillStyle = COLOURS.paper;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  drawWords(pen, contents, layout);
  for (let row = 0; row < contents.rows.length; row += 1) drawStrip(pen, contents, layout, row);
  pen.imageSmoothingEnabled = scale < 1;
  pen.imageSmoothingQuality = "high";
  const { frame, at } = layout;
  const cells = contents.notes.map((_, index) => index);
  for (let next = 0; next < cells.length; next += AT_ONCE) {
    const some = cells.slice(next, next + AT_ONCE);
    const files = await Promise.all(some.map(fileOf));
    for (const [index, file] of some.map((each, nth) => [each, files[nth]])) {
      const { length: columns } = contents.columns;
      const place = [...at(Math.floor(index / columns), index % columns), ...frame];
      pen.fillStyle = COLOURS.paper;
      if (!file) pen.fillRect(...place);
      else await drawPicture(pen, file, place);
    }
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("This browser makes no PNG of this size.");
  return blob;
}

async function drawPicture(pen, file, place) {
  const picture = await createImageBitmap(file);
  pen.drawImage(picture, ...place);
  picture.close();
}

function drawWords(pen, contents, layout) {
  const { text, line, margin, left, gap, first, frame, apart, edge } = layout;
  pen.fillStyle = COLOURS.pencil;
  pen.font = `600 ${Math.round(1.25 * text)}px ${FONT}`;
  pen.fillText(contents.title, margin, margin);
  pen.font = `${text}px ${FONT}`;
  pen.fillStyle = COLOURS.faint;
  layout.caption.forEach((each, at) => pen.fillText(each, margin, margin + (1.6 + at) * line));
  pen.fillStyle = COLOURS.pencil;
  pen.textAlign = "center";
  layout.columns.forEach((lines, column) => {
    const middle = left + gap + column * (frame[0] + gap) + frame[0] / 2;
    const top = first - gap - lines.length * line;
    lines.forEach((each, at) => pen.fillText(each, middle, top + at * line));
  });
  pen.textAlign = "right";
  layout.rows.forEach((lines, row) => {
    const top = first + row * apart + edge + (frame[1] - lines.length * line) / 2;
    lines.forEach((each, at) => pen.fillText(each, left - text, top + at * line));
  });
  pen.textAlign = "left";
}

/** A strip of film: holes at both edges, and notes between the lower ones and the pictures. */
function drawStrip(pen, contents, layout, row) {
  const { left, first, film, strip, apart, edge, text, gap, frame } = layout;
  const top = first + row * apart;
  pen.fillStyle = COLOURS.film;
  pen.fillRect(left, top, film, strip);
  const hole = { width: Math.round(0.5 * text), height: Math.round(0.34 * text) };
  const away = Math.round(0.22 * text);
  pen.fillStyle = COLOURS.hole;
  for (let x = left + hole.width; x + hole.width < left + film; x += 2 * hole.width) {
    pen.fillRect(x, top + away, hole.width, hole.height);
    pen.fillRect(x, top + strip - away - hole.height, hole.width, hole.height);
  }
  pen.fillStyle = COLOURS.note;
  pen.font = `600 ${Math.round(0.62 * text)}px ${FONT}`;
  contents.columns.forEach((_, column) => {
    const note = contents.notes[row * contents.columns.length + column];
    const [x, y] = layout.at(row, column);
    pen.fillText(note, x + gap / 2, y + frame[1] + 0.12 * text, frame[0]);
  });
}

/** A text in lines that are no wider; what does not fit into so many lines ends with dots. */
function wrapped(pen, text, width, most) {
  const lines = [""];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (pen.measureText(longer).width <= width || !lines.at(-1)) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  const shown = lines.slice(0, most);
  if (lines.length > most) shown[most - 1] += " …";
  return shown.map((each) => cut(pen, each, width));
}

function cut(pen, text, width) {
  const fits = (line) => pen.measureText(line).width <= width;
  if (fits(text)) return text;
  const letters = Array.from(new Intl.Segmenter().segment(text), ({ segment }) => segment);
  const beginning = (count) => `${letters.slice(0, count).join("")}…`;
  let [least, most] = [1, letters.length];
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (fits(beginning(middle))) least = middle;
    else most = middle - 1;
  }
  return beginning(least);
}
