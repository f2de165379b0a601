/**
 * A picture's file -> the text that says how it was made, by the structure of the file alone: a
 * PNG's text chunk, and EXIF's UserComment in JPEG and WebP. The files are strangers': every length
 * is checked, and nothing is thrown but `UnreadablePicture`.
 */

const MOST_BYTES = 32 * 1024 * 1024;
const MOST_PARTS = 4096; // chunks or segments of a file
const MOST_CHARACTERS = 12288; // of the text, as the service reads and writes it
const PNG_MAGIC = "\x89PNG\r\n\x1a\n";
const KEYWORD = "parameters"; // of the text, as AUTOMATIC1111 calls it
const EXIF_PREFIX = "Exif\0\0";
const UNICODE = "UNICODE\0"; // how a comment begins that is UTF-16
const EXIF_FOLDER = 0x8769;
const USER_COMMENT = 0x9286;
const SCAN = 0xda;
const ITEM_BYTES = { 1: 1, 4: 4, 7: 1, 13: 4 }; // by TIFF's type: BYTE, LONG, UNDEFINED, IFD

/** A file of which no parameters can be read; the message says why, for people. */
export class UnreadablePicture extends Error {}

/**
 * The text in a picture that says how it was made.
 *
 * @param {Blob} blob - A PNG, JPEG or WebP of at most 32 MiB.
 * @returns {Promise<string>} The parameters as they are written, at most 12,288 characters.
 * @throws {UnreadablePicture} It is none of these, is damaged, or has no such text.
 */
export async function parametersOf(blob) {
  if (blob.size > MOST_BYTES) throw new UnreadablePicture("This file has more than 32 MiB.");
  let view;
  try {
    view = new DataView(await blob.arrayBuffer());
  } catch {
    throw new UnreadablePicture("This file cannot be read.");
  }
  let text;
  try {
    text = textOf(view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UnreadablePicture("This picture is damaged: it ends early.");
  }
  if (!text) throw new UnreadablePicture("This picture does not say how it was made.");
  if (text.length > MOST_CHARACTERS) {
    throw new UnreadablePicture(`Its parameters have more than ${MOST_CHARACTERS} characters.`);
  }
  return text;
}

function textOf(view) {
  if (letters(view, 0, 8) === PNG_MAGIC) return pngText(view);
  if (letters(view, 0, 4) === "RIFF" && letters(view, 8, 4) === "WEBP") return webpText(view);
  if (letters(view, 0, 2) === "\xff\xd8") return jpegText(view);
  throw new UnreadablePicture("This is not a PNG, JPEG or WebP.");
}

/** https://www.w3.org/TR/png-3/, 5.3 and 11.3.3. */
function pngText(view) {
  let at = PNG_MAGIC.length;
  for (let part = 0; part < MOST_PARTS; part += 1) {
    const length = view.getUint32(at);
    const type = letters(view, at + 4, 4);
    const data = slice(view, at + 8, length);
    if (type === "IEND") return null;
    const named = letters(data, 0, KEYWORD.length + 1) === `${KEYWORD}\0`;
    const after = KEYWORD.length + 1;
    if (named && type === "tEXt") return latin1(slice(data, after, length - after));
    if (named && type === "iTXt") return internationalText(slice(data, after, length - after));
    if (named && type === "zTXt") throw compressed();
    at += 12 + length;
  }
  throw tooManyParts();
}

function internationalText(data) {
  if (data.getUint8(0) !== 0) throw compressed();
  const language = zero(data, 2);
  const start = zero(data, language + 1) + 1;
  return utf8(slice(data, start, data.byteLength - start));
}

/** RFC 9649, 2.3. */
function webpText(view) {
  const end = Math.min(view.getUint32(4, true) + 8, view.byteLength);
  let at = 12;
  for (let part = 0; part < MOST_PARTS && at < end; part += 1) {
    const length = view.getUint32(at + 4, true);
    const data = slice(view, at + 8, length);
    if (letters(view, at, 4) === "EXIF") return userComment(data);
    at += 8 + length + (length % 2);
  }
  if (at < end) throw tooManyParts();
  return null;
}

/** ITU-T T.81, B.1.1. */
function jpegText(view) {
  let at = 2;
  for (let part = 0; part < MOST_PARTS; part += 1) {
    const marker = view.getUint8(at + 1);
    if (view.getUint8(at) !== 0xff) {
      throw new UnreadablePicture("This picture is damaged: a marker is missing.");
    }
    if (marker === 0xff) {
      at += 1; // a fill byte
      continue;
    }
    if (marker === SCAN) return null;
    const length = view.getUint16(at + 2);
    const data = slice(view, at + 4, length - 2);
    if (marker === 0xe1 && letters(data, 0, 6) === EXIF_PREFIX) return userComment(data);
    at += 2 + length;
  }
  throw tooManyParts();
}

/** EXIF 2.3, 4.6.5, in the structure of TIFF 6.0. */
function userComment(block) {
  const skipped = letters(block, 0, 6) === EXIF_PREFIX ? 6 : 0;
  const exif = slice(block, skipped, block.byteLength - skipped);
  const order = letters(exif, 0, 4);
  if (order !== "II*\0" && order !== "MM\0*") return null;
  const little = order.startsWith("I");
  const inner = tag(exif, little, exif.getUint32(4, little), EXIF_FOLDER);
  if (!inner || inner.byteLength !== 4) return null;
  const comment = tag(exif, little, inner.getUint32(0, little), USER_COMMENT);
  if (!comment || letters(comment, 0, 8) !== UNICODE) return null;
  const words = slice(comment, 8, comment.byteLength - 8);
  return new TextDecoder("utf-16be").decode(words);
}

function tag(exif, little, folder, wanted) {
  const count = exif.getUint16(folder, little);
  for (let entry = folder + 2; entry < folder + 2 + 12 * count; entry += 12) {
    const size = ITEM_BYTES[exif.getUint16(entry + 2, little)] * exif.getUint32(entry + 4, little);
    if (exif.getUint16(entry, little) !== wanted || !size) continue;
    return slice(exif, size <= 4 ? entry + 8 : exif.getUint32(entry + 8, little), size);
  }
  return null;
}

/** A part of a view; a RangeError if it is not within the file. */
function slice(view, start, length) {
  return new DataView(view.buffer, view.byteOffset + start, length);
}

/** Bytes as characters of the same numbers; fewer where the view ends. */
function letters(view, start, length) {
  const count = Math.max(0, Math.min(length, view.byteLength - start));
  return String.fromCharCode(...bytes(slice(view, Math.min(start, view.byteLength), count)));
}

function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** Where the next zero byte is. */
function zero(view, start) {
  const found = bytes(view).indexOf(0, start);
  if (found < 0) throw new RangeError("beyond the end");
  return found;
}

function utf8(view) {
  return new TextDecoder().decode(slice(view, 0, Math.min(view.byteLength, 4 * MOST_CHARACTERS + 1)));
}

/** TextDecoder takes Latin-1 for Windows-1252, which differs. */
function latin1(view) {
  const most = slice(view, 0, Math.min(view.byteLength, MOST_CHARACTERS + 1));
  return Array.from(bytes(most), (byte) => String.fromCharCode(byte)).join("");
}

function compressed() {
  return new UnreadablePicture("Its parameters are compressed, which is not read here.");
}

function tooManyParts() {
  return new UnreadablePicture(`This picture has more than ${MOST_PARTS} parts.`);
}
