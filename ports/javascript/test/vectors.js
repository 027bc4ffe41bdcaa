/** The vectors of the specification: `for (const { name, bytes, expected } of vectors("record"))`. */

import { readFileSync } from "node:fs";

const FOLDER = new URL("../../../spec/vectors/", import.meta.url);

export function vectors(document) {
  const examples = JSON.parse(readFileSync(new URL(`${document}.json`, FOLDER), "utf8"));
  return examples.map((example) => ({ ...example, bytes: Buffer.from(example.hex ?? "", "hex") }));
}
