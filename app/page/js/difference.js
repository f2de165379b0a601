/** What differs between two pictures: their settings, and their pixels. */

/**
 * Compare settings.
 *
 * @param {[string, string|number][]} left names and values, as `settingsFacts` gives them.
 * @param {[string, string|number][]} right
 * @returns {{differing: [string, string, string][], same: string[]}} name, left and right value of
 *   those that differ, and the names of the others, in the order of `left`.
 */
export function differenceOfSettings(left, right) {
  const [ours, theirs] = [new Map(left), new Map(right)];
  const names = [...new Set([...ours.keys(), ...theirs.keys()])];
  const rows = names.map((name) => [
    name,
    ...[ours, theirs].map((values) => `${values.get(name) ?? "not set"}`),
  ]);
  return {
    differing: rows.filter(([, one, other]) => one !== other),
    same: rows.filter(([, one, other]) => one === other).map(([name]) => name),
  };
}

/**
 * Compare the pixels of two pictures of the same size.
 *
 * @param {Uint8ClampedArray} left red, green, blue and alpha of each pixel, from 0 to 255.
 * @param {Uint8ClampedArray} right as many.
 * @returns {{pixels: number, differing: number, most: number}} how many there are, how many of
 *   them differ, and the largest difference in a channel.
 */
export function differenceOfPixels(left, right) {
  let differing = 0;
  let most = 0;
  for (let at = 0; at < left.length; at += 4) {
    let largest = 0;
    for (let channel = at; channel < at + 4; channel++) {
      largest = Math.max(largest, Math.abs(left[channel] - right[channel]));
    }
    if (largest) differing++;
    most = Math.max(most, largest);
  }
  return { pixels: left.length / 4, differing, most };
}

/**
 * The pixels of a picture, as its file has them.
 *
 * @param {Blob} file
 * @returns {Promise<ImageData>}
 * @throws {DOMException} it is no picture.
 */
export async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}
