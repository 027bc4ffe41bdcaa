/**
 * UTF-8 as Python's pickles have it: half a surrogate pair is allowed, as three bytes.
 */

const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The text of these bytes; an error for what is not UTF-8, PICKLE-11. */
export function decodeUtf8(bytes) {
  const text = bytes.toString("utf8");
  if (!text.includes("\ufffd")) return text;
  let result = "";
  let start = 0;
  for (let at = 0; at + 2 < bytes.length; at++) {
    const isHalf = bytes[at] === 0xed && bytes[at + 1] >= 0xa0 && bytes[at + 1] <= 0xbf && (bytes[at + 2] & 0xc0) === 0x80;
    if (isHalf) {
      result += STRICT.decode(bytes.subarray(start, at));
      result += String.fromCharCode(0xd000 | ((bytes[at + 1] & 0x3f) << 6) | (bytes[at + 2] & 0x3f));
      start = at + 3;
      at += 2;
    }
  }
  return result + STRICT.decode(bytes.subarray(start));
}

export function encodeUtf8(text) {
  if (text.isWellFormed()) return Buffer.from(text, "utf8");
  const parts = [];
  for (const character of text) {
    const unit = character.charCodeAt(0);
    const lone = character.length === 1 && unit >= 0xd800 && unit <= 0xdfff;
    parts.push(lone ? Buffer.from([0xed, 0x80 | ((unit >> 6) & 0x3f), 0x80 | (unit & 0x3f)]) : Buffer.from(character));
  }
  return Buffer.concat(parts);
}
