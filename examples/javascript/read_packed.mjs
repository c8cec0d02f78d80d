// Read the weights of a packed file in JavaScript, without dependencies.
//
//     node examples/javascript/read_packed.mjs res20_4bit/model.apot.safetensors
//
// Numbers in brackets are sections of FORMAT.md. `readPacked` works in browsers, too. It refuses what a
// reader must reject (5): `check_packed.mjs` has the rules of JSON and of the graph.

import {
  Budget, JSON_BYTES, JSON_VALUES, PackedFileError, RECORDS, TABLE_ENTRIES, WEIGHTS,
  check, checkGraph, members, parse, product,
} from "./check_packed.mjs";

export { PackedFileError };

/**
 * Read the bytes of a packed file (a Uint8Array). Returns `{ network, layers }`: its JSON description
 * (2.1), and a Map from every layer's name to `{ kind, shape, weights, levels }`. `weights` is a
 * Float32Array, bit for bit what was trained; `levels` an Int32Array, or null in layers without codes.
 * Throws a PackedFileError where the file is damaged, of another version or breaks a rule of the format,
 * or asks for more than `maxMemory` bytes: as many as a file of its size needs, unless stated (5.1).
 */
export function readPacked(bytes, maxMemory) {
  const budget = new Budget(bytes.byteLength, maxMemory);
  const { metadata, tensors } = readContainer(new Uint8Array(bytes), budget);
  const network = members(parse(metadata.get("network"), "network"), "network", RECORDS.network);
  for (const name of ["provenance", "interface"].filter((name) => metadata.has(name))) parse(metadata.get(name), name);
  const source = new Tensors(tensors, budget), layers = new Map();
  const books = network.codebooks.map((book, index) => readCodebook(book, `codebooks[${index}]`, budget));
  for (const [name, layer] of network.layers) layers.set(name, readLayer(layer, name, books, source));
  checkGraph(network, layers, metadata.get("format_version") === "2", (run, where) => source.run(run, where));
  source.finish();
  return { network: JSON.parse(metadata.get("network")), layers };
}

// --- The container (1) --------------------------------------------------------------------------

function readContainer(file, budget) {
  const { metadata, entries, start } = readHeader(file, budget);
  const data = file.subarray(start), tensors = new Map(), checksums = metadata.get("checksums");
  const described = [...entries].map(([name, entry]) => [name, members(entry, `tensor ${name}`, RECORDS.tensor)]);
  described.sort(([, { data_offsets: one }], [, { data_offsets: other }]) => one[0] - other[0] || one[1] - other[1]);
  let position = 0, stated = 0;
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of described) {
    const item = dtype === "F32" ? 4 : 1, size = end - begin;
    const fine = begin === position && size === product(shape) * item && end <= data.length;
    check(fine, `${name} does not fit the data: the file is truncated or damaged`);
    position = end;
    const content = data.slice(begin, end); // a copy, whose numbers are aligned
    if (name.startsWith("_padding.")) {
      check(item === 1 && size < 64 && content.every((byte) => byte === 0), `${name} is no padding`);
      continue;
    }
    check(begin % (size >= 16384 ? 64 : item) === 0, `${name} is off its boundary`);
    check(checksums.slice(stated, stated + 8) === crc32(content), `${name} is damaged`);
    stated += 8;
    const numbers = item === 4 ? new Float32Array(content.buffer) : content;
    check(item === 1 || numbers.every(Number.isFinite), `${name} holds a number that is not finite`);
    tensors.set(name, { dtype, shape, content: numbers });
  }
  check(position === data.length, "there are bytes behind the last tensor");
  check(stated === checksums.length, "there are more checksums than tensors");
  const names = [...tensors.keys()];
  check(!names.includes("integer") || names.at(-1) === "integer", "integer is not the last tensor");
  return { metadata, tensors };
}

function readHeader(file, budget) {
  const text = (begin, end) => new TextDecoder().decode(file.subarray(begin, end));
  check(text(8, 41) === '{"__metadata__":{"header_crc32":"', "this is no packed file");
  const start = 8 + Number(new DataView(file.buffer).getBigUint64(0, true));
  const fine = start <= file.length && start <= 8 + 2 ** 26 && start % 64 === 0;
  check(fine, "the header's length is wrong: the file is truncated or damaged");
  budget.take(JSON_BYTES, start - 8, "the header");
  const header = file.slice(8, start).fill(0x30, 33, 41); // its own checksum counts as zeros (1.4)
  check(crc32(header) === text(41, 49), "the header is damaged");
  budget.take(JSON_VALUES, header.reduce((n, byte) => n + ",[{".includes(String.fromCharCode(byte)), 0), "the header");
  check(header.every((byte) => byte < 128), "the header is not ASCII");
  const json = text(8, start).replace(/ *$/, "");
  check(json.endsWith("}"), "there is more than blanks behind the header");
  const entries = parse(json, "the header"), metadata = entries.get("__metadata__");
  const strings = metadata instanceof Map && [...metadata.values()].every((one) => typeof one === "string");
  check(strings, "metadata must be strings");
  const version = `${metadata.get("format")} ${metadata.get("format_version")}`;
  const known = ["apot-packed 2", "apot-packed 3"]; // 3 has more operations, and the same layers
  check(known.includes(version), `${known.join(" or ")} is read, not ${version}`);
  for (const name of ["network", "provenance", "checksums"]) check(metadata.has(name), `there is no ${name}`);
  entries.delete("__metadata__");
  return { metadata, entries, start };
}

/** The tensors of a file, each to be taken once, and the runs of its small numbers (2.4). */
class Tensors {
  constructor(tensors, budget) {
    this.tensors = tensors;
    this.budget = budget;
    this.runs = [];
    if (tensors.has("integer")) this.take("integer", "U8", 1);
    this.numbers = tensors.has("parameters") ? this.take("parameters", "F32", 1).content : new Float32Array(0);
  }

  take(name, dtype, ...axes) {
    const tensor = this.tensors.get(name);
    check(tensor, `the file lacks the tensor ${name}`);
    check(tensor.dtype === dtype && axes.includes(tensor.shape.length), `${name} is ${tensor.dtype} [${tensor.shape}]`);
    this.tensors.delete(name);
    return tensor;
  }

  run(stated, where, count) {
    const [begin, end] = stated ?? [0, -1];
    const fine = begin <= end && end <= this.numbers.length && (count ?? end - begin) === end - begin;
    check(fine, `${where}: no run of ${count ?? "so many"} parameters from ${begin} to ${end}`);
    this.runs.push([begin, end]);
    return this.numbers.subarray(begin, end);
  }

  finish() {
    this.runs.sort(([begin, end], [other, last]) => begin - other || end - last);
    const begins = [...this.runs.map(([begin]) => begin), this.numbers.length];
    const ends = [0, ...this.runs.map(([, end]) => end)];
    check(begins.every((begin, i) => begin === ends[i]), "runs of parameters overlap, or leave some out");
    check(this.tensors.size === 0, `no layer has the tensors ${[...this.tensors.keys()]}`);
  }
}

// --- Layers (2.2, 2.3, 3) -----------------------------------------------------------------------

/** The level of every code of a codebook, after its checks (2.2). */
function readCodebook(value, where, budget) {
  const book = members(value, where, RECORDS.codebook);
  const isPower = (n) => Number.isInteger(Math.log2(n));
  let bits = Number(book.signed), largest = 0;
  for (const table of book.tables) {
    check(table.length >= 2 && isPower(table.length), `${where}: a table of ${table.length} entries`);
    check(table.every((n) => n === 0 || isPower(Math.abs(n))), `${where}: an entry is no power of two`);
    bits += Math.log2(table.length);
    largest += table.reduce((most, n) => Math.max(most, Math.abs(n)), 0);
  }
  check(1 <= bits && bits <= 16, `${where}: codes of ${bits} bits`);
  budget.take(TABLE_ENTRIES, 2 ** bits, where);
  check(largest < 2 ** 24, `${where}: levels of ${largest}`);
  return { ...book, bits, levels: codebookLevels(book) };
}

function readLayer(value, name, books, source) {
  const kind = value instanceof Map ? value.get("kind") : undefined;
  check(["float", "coded", "planes"].includes(kind), `${name} is of the unknown kind ${kind}`);
  const layer = members(value, name, RECORDS[kind]);
  if (kind === "float") {
    const { shape, content } = source.take(`${name}.weight`, "F32", 2, 4);
    source.budget.take(WEIGHTS, content.length, name);
    return { kind, shape, weights: content, levels: null };
  }
  source.budget.take(WEIGHTS, product(layer.shape), name);
  if (kind === "planes") {
    return { kind, shape: layer.shape, weights: readPlanes(layer, name, source), levels: null };
  }
  const book = books[layer.codebook];
  check(book, `${name}: there is no codebook ${layer.codebook}`);
  const stored = source.take(`${name}.codes`, "U8", 1).content;
  const codes = readCodes(stored, layer.storage, book.bits, product(layer.shape), name);
  const valueOf = source.run(layer.values, name, 2 ** book.bits);
  const scales = layer.scales && source.run(layer.scales, name, layer.shape[0]);
  const taps = codes.length / layer.shape[0];
  if (layer.activation) checkQuantizer(layer.activation, name, books, source.budget);
  return {
    kind,
    shape: layer.shape,
    weights: Float32Array.from(codes, (code, i) => valueOf[code] * (scales ? scales[Math.floor(i / taps)] : 1)),
    levels: Int32Array.from(codes, (code) => book.levels[code]),
    activation: layer.activation !== null,
    scales,
  };
}

function checkQuantizer(value, name, books, budget) {
  const { codebook, alpha, input_denominator } = members(value, name, RECORDS.activation);
  const book = books[codebook], threshold = Math.fround(alpha);
  check(book, `${name}: there is no codebook ${codebook}`);
  const scale = Math.fround((2 * (input_denominator ?? book.denominator)) / threshold);
  const fine = 0 < threshold && Number.isFinite(threshold) && Number.isFinite(scale);
  check(fine, `${name}: the threshold ${alpha} is not positive and finite enough`);
  const lowest = book.levels.reduce((least, level) => Math.min(least, level), 0);
  check(lowest >= -(2 ** 23), `${name}: a level is below -2^23`);
  budget.take(TABLE_ENTRIES, 2 * (input_denominator ?? book.denominator) - 2 * lowest, name);
}

/** The level of every code (3.2, 3.3). */
function codebookLevels({ tables, signed }) {
  return Int32Array.from({ length: product(tables.map((t) => t.length)) * (signed ? 2 : 1) }, (_, code) => {
    let level = 0;
    for (const table of tables) {
      level += table[code % table.length];
      code = Math.floor(code / table.length);
    }
    return code ? -level : level;
  });
}

function readCodes(bytes, storage, bits, count, where) {
  if (!storage) return unpack(bytes, bits, count, where);
  const [kind] = storage.keys();
  check(["digits", "entropy"].includes(kind), `${where}: the storage ${kind} is unknown`);
  const { digits, entropy } = members(storage, `${where}: storage`, RECORDS[kind]);
  return digits ? readDigits(bytes, digits, bits, count, where) : readEntropy(bytes, ...entropy, bits, count, where);
}

/** Codes of a bit stream (3.1). */
function unpack(bytes, bits, count, where) {
  const filled = (bits * count) % 8;
  check(bytes.length === Math.ceil((bits * count) / 8), `${where}: ${bytes.length} bytes for ${count} codes`);
  check(!filled || bytes.at(-1) >> filled === 0, `${where}: bits after the last code are not 0`);
  return Uint16Array.from({ length: count }, (_, i) => {
    const at = Math.floor((i * bits) / 8); // a byte beyond the end is undefined, which counts as 0
    return ((bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16)) >> ((i * bits) % 8)) & (2 ** bits - 1);
  });
}

/** Codes that are digits of a base (3.7). */
function readDigits(bytes, meaning, bits, count, where) {
  const base = meaning.length, ascending = meaning.every((code, i) => i === 0 || code > meaning[i - 1]);
  check(ascending && meaning.at(-1) < 2 ** bits, `${where}: the digits are no ascending codes`);
  let held = 1; // digits of a byte
  while (base ** (held + 1) <= 256) held++;
  const rest = count - (bytes.length - 1) * held;
  check(1 <= rest && rest <= held, `${where}: ${bytes.length} bytes for ${count} digits`);
  check(bytes.every((byte) => byte < base ** held), `${where}: a byte is no ${held} digits`);
  check(bytes.at(-1) < base ** rest, `${where}: digits after the last code are not 0`);
  return Uint16Array.from({ length: count }, (_, i) =>
    meaning[Math.floor(bytes[Math.floor(i / held)] / base ** (i % held)) % base]);
}

/** Entropy-coded codes (3.8). */
function readEntropy(bytes, m, lanes, bits, count, where) {
  check(4 <= m && m <= 15, `${where}: frequencies of ${m} bits`);
  const k = Math.floor(16 / Math.max(m, bits));
  const turns = Math.ceil(Math.max(0, count - Math.floor((16 * lanes) / bits)) / (k * lanes));
  const head = 2 * 2 ** bits + 4 * lanes;
  check(bytes.length >= head && bytes.length % 2 === 0, `${where}: ${bytes.length} bytes for ${lanes} lanes`);
  check(count <= 1024 * bytes.length && turns <= 65536, `${where}: ${bytes.length} bytes for ${count} codes`);
  const view = new DataView(bytes.buffer), codeOf = new Uint16Array(2 ** m), startOf = [];
  let start = 0, position = head, i = 0;
  const frequency = Array.from({ length: 2 ** bits }, (_, code) => view.getUint16(2 * code, true));
  check(frequency.reduce((sum, f) => sum + f, 0) === 2 ** m, `${where}: the frequencies have another sum`);
  frequency.forEach((f, code) => {
    startOf.push(start);
    codeOf.fill(code, start, (start += f));
  });
  const states = Array.from({ length: lanes }, (_, j) => view.getUint32(2 * 2 ** bits + 4 * j, true));
  check(states.every((x) => x >= 2 ** 16), `${where}: a state is below 2^16`);
  const codes = new Uint16Array(count);
  for (let turn = 0; turn < turns; turn++) {
    for (let j = 0; j < lanes; j++) {
      let x = states[j];
      for (const last = i + k; i < last; i++) {
        const slot = x % 2 ** m, code = (codes[i] = codeOf[slot]);
        x = frequency[code] * Math.floor(x / 2 ** m) + slot - startOf[code];
      }
      if (x < 2 ** 16) {
        check(position < bytes.length, `${where}: words are missing`);
        x = 2 ** 16 * x + view.getUint16(position, true);
        position += 2;
      }
      states[j] = x;
    }
  }
  check(position === bytes.length, `${where}: words are left over`);
  check(states.every((x) => x < 2 ** 17), `${where}: a last state of 2^17 or more`);
  const tail = Uint8Array.from(states.flatMap((x) => [x & 255, (x >> 8) & 255])); // x - 2^16, two bytes
  const used = Math.ceil((bits * (count - i)) / 8);
  check(tail.subarray(used).every((byte) => byte === 0), `${where}: bits after the last code are not 0`);
  codes.set(unpack(tail.subarray(0, used), bits, count - i, where), i);
  return codes;
}

/** Weights that are sums of scaled sign vectors (3.6). */
function readPlanes({ shape, group_size, count_bits, position_major, terms, coordinates: run }, name, source) {
  const groups = product(shape) / group_size, split = Math.ceil((groups * count_bits) / 8);
  check(Number.isInteger(groups), `${name}: groups of ${group_size} do not divide [${shape}]`);
  check(shape.length === 4 || !position_major, `${name}: a matrix has no kernel positions`);
  const bytes = source.take(`${name}.planes`, "U8", 1).content;
  const counts = unpack(bytes.subarray(0, split), count_bits, groups, name);
  const bases = counts.reduce((sum, n) => sum + n, 0);
  const signs = unpack(bytes.subarray(split), 1, bases * group_size, name);
  check(!terms || !run, `${name} has both terms and coordinates`);
  const coordinates = terms ? readTerms(source, name, bases, terms) : source.run(run, name, bases);
  const weights = new Float32Array(product(shape)); // each sum is rounded to F32 as it is stored
  for (let group = 0, basis = 0; group < groups; group++) {
    for (const last = basis + counts[group]; basis < last; basis++) {
      for (let i = 0; i < group_size; i++) {
        const sign = signs[basis * group_size + i] ? 1 : -1;
        weights[group * group_size + i] += sign * coordinates[basis];
      }
    }
  }
  if (!position_major) return weights;
  const [, inputs, height, width] = shape, places = height * width;
  return weights.map((_, i) => { // weight i is of output o, input c and place p of the kernel
    const p = i % places, c = Math.floor(i / places) % inputs, o = Math.floor(i / (places * inputs));
    return weights[(o * places + p) * inputs + c];
  });
}

/** Coordinates that are sums of powers of two, rounded once to F32 (3.6). */
function readTerms(source, name, bases, terms) {
  if (!bases) return new Float32Array(0);
  const { shape, content: bytes } = source.take(`${name}.terms`, "U8", 2);
  check(shape[0] === bases && shape[1] === terms, `${name}.terms is [${shape}]`);
  return Float32Array.from({ length: bases }, (_, basis) => {
    let sum = 0n; // in units of 2^-64, exact
    for (const term of bytes.subarray(basis * terms, (basis + 1) * terms)) {
      if (term) sum += (term & 128 ? -1n : 1n) << BigInt(term & 127);
    }
    const size = sum < 0n ? -sum : sum, dropped = Math.max(0, size.toString(2).length - 50);
    const kept = size >> BigInt(dropped), sticky = kept << BigInt(dropped) === size ? 0n : 1n;
    return (sum < 0n ? -1 : 1) * Number(kept | sticky) * 2 ** (dropped - 64); // which F32 rounds
  });
}

/** CRC-32 as zlib has it, in 8 hexadecimal digits (1.4). */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return (~crc >>> 0).toString(16).padStart(8, "0");
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = (byte >>> 1) ^ (byte & 1 ? 0xedb88320 : 0);
  return byte;
});

if (globalThis.process?.argv[1]?.endsWith("read_packed.mjs")) {
  const { readFileSync } = await import("node:fs");
  for (const [name, { kind, shape, levels, weights }] of readPacked(readFileSync(process.argv[2])).layers) {
    console.log(`${name}: ${kind} [${shape}], begins with ${(levels ?? weights).slice(0, 6).join(" ")}`);
  }
}
