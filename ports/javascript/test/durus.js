/** The real program, for tests that need it: `durus` and the `python3` beside it in PATH. */

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PYTHON = process.env.PYTHON ?? "python3";

/** What a test that needs the program passes to node:test, so that it is skipped where there is none. */
export const needsDurus = spawnSync(PYTHON, ["-c", "import durus.connection"]).status === 0
  ? {}
  : { skip: `${PYTHON} has no durus` };

/** A new folder; it is removed after the test. */
export function newFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), "durus-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Run `durus` with arguments; returns its output, or raises if it fails. */
export function durus(...args) {
  return run(["-m", "durus", ...args]);
}

/** Run a program of Python; returns what it prints. */
export function python(source, ...args) {
  return run(["-c", source, ...args]);
}

function run(args) {
  const { status, stdout, stderr } = spawnSync(PYTHON, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${args.slice(0, 2).join(" ")} ended with ${status}: ${stdout}${stderr}`);
  return stdout;
}

/** The same, while other things continue. */
export function pythonBeside(source, ...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(PYTHON, ["-c", source, ...args], { stdio: ["ignore", "ignore", "inherit"] });
    child.on("exit", (status) => (status === 0 ? resolve() : reject(new Error(`python ended with ${status}`))));
  });
}

/** Serve a file on a Unix socket, or on a port of loopback; resolves with the address when the server listens. */
export async function serve(t, { file, tcp = false }) {
  const where = tcp ? ["--host", "127.0.0.1", "--port", "0"] : ["--address", `${file}.sock`];
  const server = spawn(PYTHON, ["-m", "durus", "serve", file, ...where], { stdio: ["ignore", "ignore", "pipe"] });
  const ended = new Promise((resolve) => server.on("exit", resolve));
  t.after(() => {
    server.kill();
    return ended;
  });
  const told = await new Promise((resolve, reject) => {
    let text = "";
    server.stderr.on("data", (chunk) => {
      text += chunk;
      const match = /listening on ([^\s,]+)/.exec(text);
      if (match) resolve(match[1]);
    });
    server.on("exit", () => reject(new Error(`the server has ended: ${text}`)));
  });
  return tcp ? `durus://${told}` : `durus+unix:${file}.sock`;
}
