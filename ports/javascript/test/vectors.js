/** The vectors of the specification: `for (const { name, bytes, expected } of vectors("record", "record"))`. */

import { readFileSync } from "node:fs";

const FOLDER = new URL("../../../spec/vectors/", import.meta.url);

/** The vectors of a document, of one kind. */
export function vectors(document, kind) {
  const examples = JSON.parse(readFileSync(new URL(`${document}.json`, FOLDER), "utf8"));
  return examples.filter((example) => example.kind === kind).map((example) => ({ ...example, bytes: Buffer.from(example.hex ?? "", "hex") }));
}
